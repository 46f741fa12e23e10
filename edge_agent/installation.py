"""Bring a verified release into service: check, probe, place, activate, measure, confirm.

The running model is only left once the new one has answered in a child process, and is returned to
when the new one fails in this process. What is reported is what really runs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from broker import messages as m
from broker.decoding import decode_struct
from broker.envelope import Verifier
from broker.errors import BrokerError, DecodeError, DigestError, LinkError, RollbackError
from edge_agent.actions import Install, RemoveModel
from edge_agent.inference import Predictor
from edge_agent.probe import ProbeResult, probe
from edge_agent.runtime import InferenceError
from edge_agent.session import TRY_AGAIN, Installed, tries_again
from edge_agent.slots import ModelSlots
from edge_agent.stored_model import InstalledModel
from edge_agent.telemetry import TelemetryWindow
from journal.disk import write_atomically
from slimmable.readers import read_samples
from slimmable.samples import SamplesError

log = logging.getLogger(__name__)

Tell = Callable[[m.Report], Awaitable[None]]
Probe = Callable[[Path, Path], Awaitable[ProbeResult]]

REPORT_FILE = "report.msgpack"
LATENCY_CALLS = 50
# Ways in which a probe can fail that say nothing about the model: a busy or short-of-memory device.
PASSING = frozenset({"timeout", "killed", "no-answer"})


class ModelInstaller:
    """The one who changes what runs on a device."""

    def __init__(
        self,
        slots: ModelSlots,
        verifier: Verifier,
        evaluations: Mapping[str, Path],
        reader: str,
        *,
        reader_options: Mapping[str, Any] | None = None,
        threads: int = 1,
        attempt: Probe | None = None,
    ) -> None:
        """Load the current model, if there is one.

        Args:
            slots: the device's models.
            verifier: checks the file against its release.
            evaluations: name -> labelled samples on this device.
            reader: how to read them.
            reader_options: keyword arguments of the reader.
            threads: of ONNX Runtime.
            attempt: tries a model (ONNX file, manifest); `edge_agent.probe.probe` where None.
        """
        self._slots = slots
        self._verifier = verifier
        self._evaluations = dict(evaluations)
        self._reader = reader
        self._reader_options = reader_options
        self._threads = threads
        self._attempt = attempt
        self._window = TelemetryWindow()
        # What one of them places, another one would clear away as superfluous.
        self._one_at_a_time = asyncio.Lock()
        self._predictor: Predictor | None = None
        self._report = self._read_report()
        self._start()

    def _start(self) -> None:
        try:
            current = self._slots.start()
        except OSError as error:  # a full disk: an unconfirmed model is not to be trusted
            log.error("the model slots cannot be opened for running: %s", error)
            return
        if current is None:
            return
        try:
            self._reload()
            if not current.confirmed:
                # The last run ended between switching and confirming: finish that now.
                report = self._measure(current.counter)
                self._slots.confirm()
                self._keep(report)
        except (InferenceError, SamplesError) as error:
            log.error("model %s: %s", current.digest[:12], error)
            self._revert(str(error))

    def _revert(self, reason: str) -> None:
        """Go back to the model before, and run it."""
        try:
            self._slots.revert(reason)
        except OSError as error:
            log.error("going back is not on the disk yet: %s", error)
        try:
            self._reload()
        except InferenceError as error:
            log.error("no model runs: %s", error)
            self._predictor = None

    def installed(self) -> Installed:
        """Return what runs, for a new session."""
        counter = self._slots.last_counter()
        current = self._slots.current()
        digest = current.digest if current else ""
        report = self._report
        if report is not None and report.counter != counter:
            report = None
        if report is None and counter and (self._slots.failure() or current):
            report = self._state_report(counter)
        return Installed(counter, digest, report)

    def telemetry(self, outbox: int) -> list[m.Telemetry]:
        """Return what inference looked like since the last call; ``outbox`` updates wait."""
        return self._window.drain(outbox=outbox)

    async def install(self, action: Install, data: bytes, tell: Tell) -> m.Report:
        """Check, probe, place and run a model; the report says how it went.

        Args:
            action: the verified deployment.
            data: the ONNX file.
            tell: is told when the model is placed, before it is switched to.
        """
        async with self._one_at_a_time:
            return await self._install(action, data, tell)

    async def _install(self, action: Install, data: bytes, tell: Tell) -> m.Report:
        counter, manifest = action.deployment.counter, action.release.manifest
        try:
            self._verifier.file(action.release, data)
            placed = await asyncio.to_thread(self._slots.install, manifest, data, counter)
            report = await self._put_into_service(placed, counter, tell)
        except DigestError as error:
            return self._failed(counter, m.InstallState.REFUSED, error.code, str(error))
        except RollbackError as error:
            return self._superseded(counter, error)
        except LinkError:
            raise  # the agent is ending; the deployment is still in force when it starts again
        except BrokerError as error:
            code = getattr(error, "code", "refused")
            return self._failed(counter, m.InstallState.REFUSED, code, str(error))
        except OSError as error:  # a full disk among them: the model in service stays
            return self._failed(counter, m.InstallState.FAILED, TRY_AGAIN, str(error))
        self._keep(report)
        return report

    async def _put_into_service(self, placed: InstalledModel, counter: int, tell: Tell) -> m.Report:
        probed = await (self._attempt or probe)(placed.path, placed.manifest_path)
        if probed.code in PASSING:
            code = f"{TRY_AGAIN}:{probed.code}"
            return self._failed(counter, m.InstallState.FAILED, code, probed.detail)
        if not probed.ok:
            self._slots.give_up(placed.digest, counter, probed.detail)
            return self._failed(counter, m.InstallState.FAILED, probed.code, probed.detail)
        before = self._state_report(counter)
        await tell(
            msgspec.structs.replace(
                before, state=m.InstallState.INSTALLED, installed=placed.digest, detail=""
            )
        )
        self._slots.activate(placed.digest, counter)
        try:
            await asyncio.to_thread(self._reload)
            report = await asyncio.to_thread(self._measure, counter)
            report = msgspec.structs.replace(report, load_s=probed.load_s)
        except (InferenceError, SamplesError) as error:
            await asyncio.to_thread(self._revert, str(error))
            return self._failed(counter, m.InstallState.FAILED, "inference", str(error))
        self._slots.confirm()
        return report

    async def remove(self, action: RemoveModel) -> m.Report:
        """Run no model any more."""
        counter = action.deployment.counter
        async with self._one_at_a_time:
            try:
                await asyncio.to_thread(self._slots.remove, counter)
            except RollbackError as error:
                return self._superseded(counter, error)
            except OSError as error:  # a full disk among them: the model goes on until it is noted
                return self._failed(counter, m.InstallState.FAILED, TRY_AGAIN, str(error))
            self._predictor = None
            report = m.Report(
                counter=counter, state=m.InstallState.CONFIRMED, detail="model removed"
            )
            self._keep(report)
            return report

    def _reload(self) -> None:
        if self._slots.current() is None:
            self._predictor = None
        elif self._predictor is None:
            self._predictor = Predictor(
                self._slots.folder, threads=self._threads, window=self._window
            )
        else:
            self._predictor.reload_if_changed()

    def _measure(self, counter: int) -> m.Report:
        predictor = self._predictor
        assert predictor is not None
        assert predictor.manifest is not None
        evaluations, confidences = [], []
        sample = np.zeros((1, *predictor.manifest.input_shape), np.float32)
        for name, path in self._evaluations.items():
            samples = read_samples(path, self._reader, self._reader_options)
            measured = predictor.measure(samples)
            predictor.predict(samples.x)  # counted in telemetry: it is real data of this device
            sample = samples.x[:1]
            confidences.append(measured.mean_confidence)
            evaluations.append(
                m.Evaluation(data=name, score=measured.score, samples=measured.samples)
            )
        p50, p95 = predictor.measure_latency(sample, LATENCY_CALLS)
        return msgspec.structs.replace(
            self._state_report(counter),
            state=m.InstallState.CONFIRMED,
            latency_p50_s=p50,
            latency_p95_s=p95,
            mean_confidence=float(np.mean(confidences)) if confidences else 0.0,
            evaluations=tuple(evaluations),
        )

    def _state_report(self, counter: int) -> m.Report:
        current, failure = self._slots.current(), self._slots.failure()
        running = bool(current and current.confirmed)
        return m.Report(
            counter=counter,
            state=m.InstallState.CONFIRMED if running and not failure else m.InstallState.FAILED,
            running=current.digest if current else "",
            installed=current.digest if current else "",
            width=current.manifest.width if current else 0.0,
            detail=failure,
        )

    def _failed(self, counter: int, state: m.InstallState, code: str, detail: str) -> m.Report:
        log.warning("deployment %d: %s: %s", counter, code, detail)
        report = msgspec.structs.replace(
            self._state_report(counter), state=state, code=code, detail=detail
        )
        if not tries_again(code):
            self._keep(report)
        return report

    def _superseded(self, counter: int, error: RollbackError) -> m.Report:
        """Answer a deployment that a newer one overtook; what is known of that one stays."""
        log.warning("deployment %d: %s: %s", counter, error.code, error)
        return msgspec.structs.replace(
            self._state_report(counter),
            state=m.InstallState.REFUSED,
            code=error.code,
            detail=str(error),
        )

    def _keep(self, report: m.Report) -> None:
        self._report = report
        try:
            write_atomically(self._slots.folder / REPORT_FILE, msgspec.msgpack.encode(report))
        except OSError as error:
            log.warning("the last report is not on the disk: %s", error)

    def _read_report(self) -> m.Report | None:
        try:
            data = (self._slots.folder / REPORT_FILE).read_bytes()
            return decode_struct(data, m.Report)
        except FileNotFoundError:
            return None
        except (OSError, DecodeError) as error:
            log.warning("the last report is unreadable: %s", error)
            return None
