"""What inference costs here: of every width where it can be exported, else of what is here.

The order is: what was measured before, for the same network, runtimes and hardware; a trial export
of every width, where torch, onnx and onnxscript are installed; the model that the device was sent.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.errors import DecodeError
from edge_agent.inference_timing import TrialFile, measure_files, trial_file, trial_files
from edge_agent.profile_cache import ProfileCache
from edge_agent.stored_model import InstalledModel, NotInstalledError
from journal.errors import DamagedFileError
from profiler.profile import InferenceFindings, MachineFacts
from profiler.remembered import Question
from slimfleet.trial_export import TrialOrder, export_obstacle, export_trials

log = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 300.0
BUDGET_S = 60.0


@dataclass(frozen=True)
class TrialSamples:
    """Samples that give the ranges of int8."""

    data: Path
    reader: str = "npz"
    options: Mapping[str, Any] = field(default_factory=dict)


class InferenceProfiler:
    """Measures inference; `edge_agent.agent.InferenceMeter`."""

    def __init__(
        self,
        facts: MachineFacts,
        *,
        cache: ProfileCache | None = None,
        samples: TrialSamples | None = None,
        installed: Callable[[], InstalledModel | None] = lambda: None,
        export: bool = True,
        budget_s: float = BUDGET_S,
        fresh: bool = False,
    ) -> None:
        """Measure on this machine.

        Args:
            facts: of the machine.
            cache: where findings are kept; None = nowhere.
            samples: of the device.
            installed: returns the model that the device was sent.
            export: whether every width may be exported here.
            budget_s: seconds for measuring all files, without their export.
            fresh: whether to measure whatever is remembered.
        """
        self._facts = facts
        self._cache = cache
        self._samples = samples
        self._installed = installed
        self._export = export
        self._budget_s = budget_s
        self._fresh = fresh

    async def measure(
        self,
        model: str,
        options: dict[str, Any],
        widths: Sequence[float],
        spec_hash: str = "",
        *,
        fresh: bool = False,
    ) -> InferenceFindings:
        """Return what each file costs; never raises for what a network or a file does.

        Args:
            model: which network; "" = none.
            options: its keyword arguments.
            widths: to measure.
            spec_hash: of the network; "" = unknown, then nothing is taken from memory.
            fresh: whether to measure whatever is remembered.
        """
        if not model or not self._export or export_obstacle():
            return await self._sent()
        key = Question(model, options, widths, spec_hash=spec_hash).key(self._facts)
        remember = self._cache if spec_hash else None
        fresh = fresh or self._fresh
        if remember and not fresh and (known := remember.read(key, InferenceFindings)):
            return known
        found = await self._trials(model, options, widths)
        if remember and found.costs and not found.failures:
            remember.keep(key, found)
        return found

    async def _trials(
        self, model: str, options: dict[str, Any], widths: Sequence[float]
    ) -> InferenceFindings:
        log.info("exporting %d widths of %s to measure inference", len(widths), model)
        try:
            with tempfile.TemporaryDirectory(prefix="slimfleet-profile-") as name:
                order = TrialOrder(model, options, tuple(widths), name, **self._calibration())
                exported = await export_trials(order, EXPORT_TIMEOUT_S)
                return await measured_folder(Path(name), exported.failures, self._budget_s)
        except OSError as error:  # a full disk among them
            return InferenceFindings(failures=(f"no files to measure: {error}",))

    def _calibration(self) -> dict[str, Any]:
        if self._samples is None:
            return {}
        return {
            "data": str(self._samples.data),
            "reader": self._samples.reader,
            "reader_options": dict(self._samples.options),
        }

    async def _sent(self) -> InferenceFindings:
        """Measure the model that the device was sent."""
        try:
            current = self._installed()
            if current is None:
                return InferenceFindings()
            file: TrialFile = trial_file(current.path, current.manifest_path)
        except (OSError, DecodeError, DamagedFileError, NotInstalledError) as error:
            return InferenceFindings(failures=(f"the installed model: {error}",))
        return await measure_files([file], budget_s=self._budget_s)


async def measured_folder(
    folder: Path, failures: Sequence[str] = (), budget_s: float = BUDGET_S
) -> InferenceFindings:
    """Return what each exported file of a folder costs, after the ``failures`` that there were."""
    files, unreadable = trial_files(folder)
    found = await measure_files(files, budget_s=budget_s)
    return InferenceFindings(found.costs, (*failures, *unreadable, *found.failures))
