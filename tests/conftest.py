"""What every test shares: one thread per process, reproducible search, programs on the path."""

import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Before numpy, torch or onnxruntime start their pools: tests run beside brokers and agents, on few
# cores, and one thread gives the same sums each time.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# No deadline: a slow machine is no bug. The same examples each time: a red run can be repeated.
settings.register_profile("slimfleet", deadline=None, derandomize=True, database=None)
# To look for more: pytest --hypothesis-profile=search
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("slimfleet")

# `make setup` puts mosquitto beside Python; Debian keeps it where only root's path looks.
os.environ["PATH"] = os.pathsep.join(
    (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")
)
WITHOUT_MOSQUITTO = (
    "mosquitto is not installed: apt-get install mosquitto (Debian), dnf install mosquitto"
    " (Fedora), brew install mosquitto (macOS)"
)


@pytest.fixture(autouse=True)
def _log_as_before():
    """Take away what a command under test set up: it writes where that test's output was caught."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    ours = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    for handler in ours:
        if handler not in before:
            root.removeHandler(handler)
    root.setLevel(level)


def pytest_report_header():
    if shutil.which("mosquitto"):
        return None
    return f"SKIPPED: the tests on mosquitto. {WITHOUT_MOSQUITTO}"


def pytest_collection_modifyitems(items):
    if shutil.which("mosquitto"):
        return
    skip = pytest.mark.skip(reason=WITHOUT_MOSQUITTO)
    for item in items:
        if item.get_closest_marker("mosquitto"):
            item.add_marker(skip)
