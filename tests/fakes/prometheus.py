"""Prometheus and `slimfleet metrics` as processes of a test."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker.child import free_port

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitor" / "grafana" / "alerts.yml"
PATIENCE_S = 60.0
POLL_S = 0.05
SCRAPE_S = 1
END_S = 15.0


def program(name: str) -> str:
    """Return the path of a program of Debian's package; without it the test is skipped, aloud."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(
            f"NOT TESTED: {name} is missing; `make programs`, or apt-get install prometheus"
        )
    return found


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process for the time of the block."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(ask: Callable[[], Any], what: str, log: Path) -> Any:
    """Ask until the answer is true; an address that does not answer yet is asked again."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if found := ask():
                return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {PATIENCE_S:g} s\n{log.read_text()[-2000:]}")
        time.sleep(POLL_S)


def get(url: str) -> bytes:
    """Return what stands at a local address."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - ours
        body: bytes = answer.read()
    return body


@contextlib.contextmanager
def metrics_of(place: Sequence[str], folder: Path) -> Iterator[str]:
    """Serve the metrics of a journal, and yield the address of the page.

    Args:
        place: ``--config FILE`` or ``--journal FOLDER``.
        folder: for the log.
    """
    address, log = f"127.0.0.1:{free_port()}", folder / "metrics.log"
    command = [sys.executable, "-m", "slimfleet", "metrics", *place, "--listen", address]
    with running(command, log) as process:
        url = f"http://{address}/metrics"
        until(lambda: get(url), "the metrics", log)
        yield url
    assert process.returncode == 0, log.read_text()


class Prometheus:
    """A running Prometheus that scrapes one address."""

    def __init__(self, url: str, log: Path) -> None:
        self._url, self._log = url, log

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        document = json.loads(get(f"{self._url}/api/v1/{path}?{query}"))
        assert document["status"] == "success", document
        return document["data"]

    def value(self, expression: str) -> float | None:
        """Return what an expression is now; None = nothing, or more than one value."""
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def until(self, expression: str, wanted: float) -> None:
        """Wait until an expression has a value."""
        until(lambda: self.value(expression) == wanted, f"{expression} = {wanted:g}", self._log)


@contextlib.contextmanager
def prometheus(scraped: str, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with our rules on an address of metrics."""
    target = urllib.parse.urlsplit(scraped).netloc
    settings = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "slimfleet", "static_configs": [{"targets": [target]}]}],
    }
    config = folder / "prometheus.yml"
    config.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    port, log = free_port(), folder / "prometheus.log"
    command = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, log):
        found = Prometheus(f"http://127.0.0.1:{port}", log)
        until(lambda: found.value('up{job="slimfleet"}') == 1, "the first scrape", log)
        yield found
