"""The tutorial, run as it is written: its files are saved, its commands typed."""

import re
import socket
from pathlib import Path

import pytest

from tests.fakes.typed_page import BLOCK, run_to_the_end, script_of

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
PORT = "1883"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.mqtt
@pytest.mark.torch
def test_every_command_of_the_tutorial_works_as_written(tmp_path):
    text = TUTORIAL.read_text(encoding="utf-8")
    port = str(free_port())
    text = text.replace("--devices alice,bob >", f"--devices alice,bob --port {port} >")
    script = script_of(text.replace(f":{PORT}", f":{port}"))

    status, output = run_to_the_end(script, tmp_path)

    logs = "".join(
        f"\n--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        for log in sorted(tmp_path.glob("*.log"))
    )
    assert status == 0, logs
    for promised in (
        f"mqtt://127.0.0.1:{port}",
        "alice.npz: 561 windows of person 1",
        "slimfleet-ed25519 ",
        "fleet tutorial: finished",
        "the chain holds",
        "-shapley",
        "events: finished",
        "bob is suspended",
    ):
        assert promised in output, promised + logs


def test_the_tutorial_says_which_file_each_block_is():
    for kind, body in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")):
        first = body.splitlines()[0]
        if kind == "console":
            assert first.startswith("$ "), first
        else:
            assert re.fullmatch(rf"# [a-z]+\.{'py' if kind == 'python' else 'toml'}", first), first
