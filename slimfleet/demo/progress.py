"""Live progress of the demonstration: a table that updates in place, or plain lines."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from broker.messages import InstallState
from coordinator.fleet import Campaign, confirmed
from coordinator.fleet_summary import participation, phase_detail, round_of_budget
from journal import events as e
from journal.chain import Record
from slimfleet.demo.scenario import Scenario

WIDE = 110  # characters from which the reasons fit beside the rest


class Progress:
    """Shows a campaign while it runs."""

    def __init__(self, plan: Scenario, *, crash: bool) -> None:
        """Prepare; nothing is shown before the block is entered."""
        self._plan = plan
        self._crash = crash
        self._console = Console(file=sys.stdout)
        self._live: Live | None = None
        self._started = time.monotonic()
        self._machines = {member.device: member.machine for member in plan.devices}

    def __enter__(self) -> Self:
        """Say what begins."""
        self.say(
            f"Slimfleet demonstration: {len(self._plan.devices)} EMULATED machines, one broker,"
            f" one server, all on this computer; fleet {self._plan.fleet}"
        )
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last table on the screen."""
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Show one line above the table."""
        stamp = f"[{time.monotonic() - self._started:5.1f} s] "
        self._console.print(stamp + line, highlight=False, markup=False, soft_wrap=True)

    def show(self, state: Campaign, new: Sequence[Record]) -> None:
        """Show what happened."""
        for record in new:
            if line := in_words(record.event):
                self.say(line)
        if self._live:
            self._live.update(self._table(state))

    def _table(self, state: Campaign) -> Table:
        rounds = state.settings.rounds.budget if state.settings else 0
        place = round_of_budget(state)
        title = f"{state.phase} - round {place} of {rounds} - {phase_detail(state)}"
        table = Table(title=title, title_justify="left")
        wide = self._console.width >= WIDE
        for column in ("device", "emulated", "link", "width", "this round", "taken"):
            table.add_column(column, no_wrap=True)
        if wide:
            table.add_column("why", no_wrap=True, overflow="ellipsis")
        for member in self._plan.devices:
            device = state.devices.get(member.device)
            if device is None:
                table.add_row(member.device, member.machine, "starting")
                continue
            task = state.round.tasks.get(member.device) if state.round else None
            stage = ""
            if task:
                stage = str(task.dropped or task.stage or "invited")
            if confirmed(device):
                stage = f"runs {device.report.width:g}" if device.report else ""
            table.add_row(
                member.device,
                member.machine,
                str(device.link),
                f"{device.width:g}" if device.width else "-",
                stage,
                f"{device.rounds_taken}",
                *([participation(device)[1]] if wide else []),
            )
        return table


def in_words(event: e.AnyEvent) -> str:
    """Return one line for an event worth a line, else ""."""
    match event:
        case e.WidthChosen():
            return f"{event.device}: {event.reason} (predicted round {event.predicted_s:.1f} s)"
        case e.RoundClosed():
            return f"round {event.round} closed: {event.reason}"
        case e.RoundScored():
            best = event.curve[-1]
            return (
                f"round {event.round}: accuracy {best.score:.3f} at full width"
                " on the validation person"
            )
        case e.DeviceDropped():
            return f"round {event.round}: {event.device} dropped: {event.reason} {event.detail}"
        case e.TrainingStopped():
            return f"training stopped: {event.reason}"
        case e.RewardsAllocated():
            return f"rewards by the {event.rule} rule {event.note}"
        case e.ReleaseBuilt():
            manifest = event.release.manifest
            return (
                f"ONNX sub-model of width {manifest.width:g}: {manifest.size} bytes, differs from"
                f" torch by at most {manifest.parity:.1e}"
            )
        case e.ReleaseWithheld():
            return f"release withheld: {event.reason}"
        case e.InstallReported():
            report = event.report
            if event.state is InstallState.INSTALLED:
                return ""  # its confirmation follows
            runs = f"runs width {report.width:g} ({report.running[:12]})"
            return f"{event.device}: {event.state}, {runs if report.running else report.detail}"
        case e.WorkFailed():
            return f"job {event.job} failed: {event.detail}"
    return ""
