"""How fast does the page of a large fleet appear, and how long does an update hold it up?

`slimfleet monitor` serves a written journal; Chromium opens the page. Times are the browser's own,
taken inside the page: the first rows, all rows, and what it takes to bring changes into the table,
with the layout of the page. Between two measurements the journal is written to, as a server does.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.arguments import positive
from benchmarks.chromium import chromium
from benchmarks.errors import BenchmarkError
from benchmarks.results import Ratio, Result, Table
from benchmarks.written_journal import names, write_journal
from broker.messages import Telemetry
from journal import events as e
from journal.store import Journal

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_S = 60.0
FRAME_MS = 1000 / 60
FIRST_PAINT_MS = 1000.0
# Run before the page's own scripts. Layout is asked for, so that it is part of the time.
WATCHER = """
window.updates = [];
window.rows = {};
const listen = EventSource.prototype.addEventListener;
EventSource.prototype.addEventListener = function (kind, listener) {
  listen.call(this, kind, (event) => {
    const began = performance.now();
    listener(event);
    document.body.getBoundingClientRect();
    if (kind === "devices") {
      const changed = JSON.parse(event.data).length;
      window.updates.push({ took: performance.now() - began, changed });
    }
  });
};
new MutationObserver(() => {
  const rows = document.querySelectorAll("table.fleet tbody tr").length;
  if (rows && window.rows.first === undefined) window.rows.first = performance.now();
  if (!rows || rows === window.rows.count) return;
  Object.assign(window.rows, { count: rows, last: performance.now() });
}).observe(document, { childList: true, subtree: true });
"""
SORTING = """
async () => {
  const began = performance.now();
  document.querySelector("th.c-participation button").click();
  document.body.getBoundingClientRect();
  return performance.now() - began;
}
"""
FILTERING = """
async () => {
  const search = document.getElementById("search");
  search.value = "machine-00";
  const began = performance.now();
  search.dispatchEvent(new Event("input"));
  document.body.getBoundingClientRect();
  return performance.now() - began;
}
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--devices", type=positive, default=1000, help="of the fleet")
    parser.add_argument("--changed", type=positive, default=100, help="devices an update is about")
    parser.add_argument("--updates", type=positive, default=8, help="the median is taken")
    parser.add_argument("--repeats", type=positive, default=3, help="times the page is opened")


def measure(arguments: argparse.Namespace) -> Result:
    """Open the page several times, then change devices while it is open."""
    devices = names(arguments.devices)
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
        journal = Path(folder) / "journal"
        at = write_journal(journal, devices)
        with serving(journal) as url, chromium() as browser:
            opened = []
            for _ in range(arguments.repeats):
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.add_init_script(WATCHER)
                opened.append(_open(page, url, len(devices)))
            updates = _change(page, journal, devices[: arguments.changed], at, arguments.updates)
            sorting, filtering = page.evaluate(SORTING), page.evaluate(FILTERING)
    return _result(arguments, opened, updates, sorting, filtering)


@contextmanager
def serving(journal: Path) -> Iterator[str]:
    """Serve a journal on a free port and return the address of the page."""
    command = [sys.executable, "-m", "slimfleet", "monitor", "--journal", str(journal)]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "http" not in line:
                raise BenchmarkError(f"slimfleet monitor did not start: {line}")
            yield line.split()[-1]
        finally:
            process.terminate()


def _open(page: "Page", url: str, devices: int) -> dict[str, float]:
    page.goto(url)
    _until(page, f"window.rows.count === {devices}")
    found: dict[str, float] = page.evaluate("window.rows")
    paint: float | None = page.evaluate(PAINT)
    return {**found, "paint": paint if paint is not None else found["first"]}


def _until(page: "Page", script: str) -> None:
    """Wait until something holds; the page itself may not evaluate text."""
    deadline = time.monotonic() + PATIENCE_S
    while not page.evaluate(script):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{script}: not within {PATIENCE_S:g} s")
        time.sleep(0.02)


def _change(
    page: "Page", journal: Path, devices: list[str], at: float, updates: int
) -> list[float]:
    with Journal.open(journal) as written:
        for number in range(updates):
            before: int = page.evaluate("window.updates.length")
            state = e.LinkState.LATE if number % 2 == 0 else e.LinkState.ONLINE
            said = [e.PresenceChanged(device=one, state=state, cause="heard") for one in devices]
            for device in devices:
                written.add_telemetry(device, at + number, Telemetry(inferences=10 + number))
            written.append(said, at + number)
            _until(page, f"window.updates.length > {before}")
            time.sleep(0.1)  # a look that fell between two writes is told in two parts
    found: list[dict[str, float]] = page.evaluate("window.updates")
    whole = [one["took"] for one in found if one["changed"] >= len(devices)]
    return whole or [one["took"] for one in found]


def _result(
    arguments: argparse.Namespace,
    opened: list[dict[str, float]],
    updates: list[float],
    sorting: float,
    filtering: float,
) -> Result:
    times = {
        "first paint": [one["paint"] for one in opened],
        "first rows": [one["first"] for one in opened],
        f"all {arguments.devices} rows": [one["last"] for one in opened],
        f"update of {arguments.changed} devices": updates,
        "sorting by another column": [sorting],
        "filtering": [filtering],
    }
    paint, update = median(times["first paint"]), median(updates)
    return Result(
        name="monitor_page",
        summary="the page of a large fleet in Chromium",
        tables=(
            Table(
                f"{arguments.devices} devices, ms in the browser",
                ("what", "fastest", "median", "slowest"),
                tuple((name, min(one), median(one), max(one)) for name, one in times.items()),
            ),
        ),
        ratios=(
            Ratio("first paint", paint, "one second", FIRST_PAINT_MS, "ms", at_most=1.0),
            Ratio("an update", update, "a frame at 60 Hz", FRAME_MS, "ms"),
        ),
        notes=("the browser draws without a graphics card, and shares the cores with the server",),
    )
