"""The folder that the demonstration leaves: ONNX files, ledger, journal, picture, report."""

import csv
import shutil
from pathlib import Path

from journal import events as e
from monitor.run_report import RunReport
from slimfleet.demo.watching import CampaignWatcher


def collect_results(out: Path, report: RunReport, watcher: CampaignWatcher, data: Path) -> None:
    """Fill the results folder.

    Args:
        out: the folder.
        report: of the run.
        watcher: followed the run.
        data: the server's folder.
    """
    from monitor.page import write_page
    from monitor.picture import write_picture

    models = out / "onnx"
    models.mkdir(exist_ok=True)
    for digest, (release, _) in watcher.state.releases.items():
        manifest = release.manifest
        name = f"{manifest.model}-w{manifest.width:g}.onnx"
        shutil.copyfile(data / "blobs" / digest, models / name)
    shutil.copytree(data / "journal", out / "journal", dirs_exist_ok=True)
    _write_ledger(out / "ledger.csv", watcher)
    write_picture(report, out / "accuracy-over-width.svg")
    write_picture(report, out / "accuracy-over-width.png")
    write_page(report, out / "report.html")


def _write_ledger(path: Path, watcher: CampaignWatcher) -> None:
    """Write every contribution of every round, traceable to its update's digest."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["round", "device", "contribution", "method", "update_sha256"])
        for record in watcher.records:
            event = record.event
            if isinstance(event, e.RoundScored):
                for one in event.contributions:
                    writer.writerow([event.round, one.device, one.score, event.method, one.update])
