"""One width: exported, quantised, measured, and one of its forms chosen. Imports torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

import numpy as np

from exporter.budget import NO_BUDGET, Budget
from exporter.errors import QuantisationError
from exporter.export import export_width
from exporter.export_data import Inputs, Labelled
from exporter.file_facts import INT8_DYNAMIC, INT8_STATIC
from exporter.file_outputs import file_outputs
from exporter.latency import Latency, measure_latencies
from exporter.manifest import ExportedModel
from exporter.parity import random_feed
from exporter.quantise import quantise_dynamic, quantise_static
from exporter.report import NOT_MEASURED
from exporter.selection import OVER_BUDGET, Selection, select_form
from exporter.sessions import open_session
from exporter.templates import TemplateCache
from exporter.variant_choice import (
    AUTO,
    DYNAMIC,
    FORCED,
    FP32,
    OFF,
    STATIC,
    Loss,
    VariantMeasure,
    measure_loss,
)
from slimmable.evaluation import calibrate
from slimmable.model import SlimmableModel
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState, encode_state

CALLS = 50  # of each form, timed in turns
CALIBRATION_SAMPLES = 64  # for the ranges of int8; more change nothing
ENCODINGS = {STATIC: INT8_STATIC, DYNAMIC: INT8_DYNAMIC}


@dataclass(frozen=True)
class ExportOrder:
    """What to export, and what to measure it with.

    Attributes:
        model: the model.
        state: full-width state dict.
        widths: width multipliers, in any order.
        weights: where the state comes from, in a few words.
        fleet, round: of a run.
        run_scores: width -> score that the run's server measured.
        scale: expected input preprocessing in one line for people.
        calibration: inputs for the statistics of each width and the ranges of int8; None = none.
        labelled: samples that measure scores; None = none.
        int8: "auto", "static", "dynamic" or "off".
        max_loss: of score that int8 may cost under "auto".
        budget: of the device.
        preoptimised: whether to make files that start faster, too.
        threads: of ONNX Runtime while latencies are measured.
    """

    model: SlimmableModel
    state: Mapping[str, Array]
    widths: Sequence[float]
    weights: str
    fleet: str = ""
    round: int = 0
    run_scores: Mapping[float, float] = field(default_factory=dict)
    scale: str = ""
    calibration: Inputs | None = None
    labelled: Labelled | None = None
    int8: str = OFF
    max_loss: float = 0.01
    budget: Budget = NO_BUDGET
    preoptimised: bool = False
    threads: int = 1

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the full-width state dict: the version of the weights."""
        return sha256(encode_state(self.state)).hexdigest()


@dataclass(frozen=True)
class Form:
    """One form of a width, measured."""

    exported: ExportedModel
    latency: Latency
    outputs: Array | None  # of the samples that measure
    score: float | None
    score_data: str
    loss: Loss | None


@dataclass(frozen=True)
class WidthForms:
    """All forms of a width, and the one that is taken."""

    width: float
    statistics: str
    forms: Mapping[str, Form]
    failed: Mapping[str, str]
    selection: Selection

    @property
    def measures(self) -> tuple[VariantMeasure, ...]:
        """What decides between the forms."""
        return _measures(self.forms, self.failed)

    @property
    def written(self) -> tuple[str, ...]:
        """Forms that are written: the chosen one, and float32 beside it unless it is too much."""
        over = {name for name, why in self.selection.rejected if why.startswith(OVER_BUDGET)}
        if not self.selection.name:
            return ()
        return tuple(n for n in (FP32, self.selection.name) if n not in over and n in self.forms)


def export_forms(order: ExportOrder, width: float, cache: TemplateCache) -> WidthForms:
    """Export a width in every form that the order asks for, measure them, and choose one.

    Raises:
        SpecError: the state is not one of this model.
        ExportError: the width cannot be exported, or not in the form that was demanded.
    """
    model = order.model
    cut: ModelState = slice_state(order.state, model.spec, width)
    statistics = _statistics(order, width)
    if statistics == "calibrated" and order.calibration is not None:
        cut = {**cut, **calibrate(model, width, cut, order.calibration)}
    exported = export_width(
        model,
        width,
        cut,
        cache,
        round=order.round,
        scale=order.scale,
        run=order.fleet or order.weights,
        weights=order.weights_digest,
    )
    files, failed = _quantised(order, exported)
    latencies = measure_latencies(
        {name: one.onnx for name, one in files.items()},
        random_feed(
            dict(zip(exported.inputs, model.inputs, strict=True)), 1, np.random.default_rng(0)
        ),
        threads=order.threads,
        calls=CALLS,
    )
    forms = _measured(order, files, latencies, statistics)
    selection = select_form(
        _measures(forms, failed),
        {name: form.latency.median_s for name, form in forms.items()},
        order.budget,
        max_score_loss=order.max_loss,
        mode=order.int8,
    )
    return WidthForms(width, statistics, forms, failed, selection)


def _statistics(order: ExportOrder, width: float) -> str:
    if not order.model.spec.statistics:
        return "none"
    if order.calibration is not None:
        return "calibrated"
    return "stored" if width == 1.0 else "sliced"


def _quantised(
    order: ExportOrder, exported: ExportedModel
) -> tuple[dict[str, ExportedModel], dict[str, str]]:
    """Return the forms of a width that ``order.int8`` asks for, and why others failed."""
    files, failed = {FP32: exported}, {}
    wanted = (STATIC, DYNAMIC) if order.int8 == AUTO else (FORCED.get(order.int8, FP32),)
    for name in wanted:
        if name == FP32:
            continue
        try:
            onnx = _as_int8(name, exported.onnx, order.calibration)
        except QuantisationError as error:
            failed[name] = str(error)
        else:
            files[name] = dataclasses.replace(exported, onnx=onnx, encoding=ENCODINGS[name])
    return files, failed


def _as_int8(name: str, onnx: bytes, calibration: Inputs | None) -> bytes:
    if name == DYNAMIC:
        return quantise_dynamic(onnx)
    if calibration is None:
        raise QuantisationError("its ranges need samples: give --calibration or --data")
    spread = np.random.default_rng(0).permutation(len(calibration[0]))[:CALIBRATION_SAMPLES]
    return quantise_static(onnx, [x[spread] for x in calibration])


def _measured(
    order: ExportOrder,
    files: Mapping[str, ExportedModel],
    latencies: Mapping[str, Latency],
    statistics: str,
) -> dict[str, Form]:
    task, labelled = order.model.task, order.labelled
    inputs = labelled.inputs if labelled else order.calibration
    forms: dict[str, Form] = {}
    for name, file in files.items():
        exported = file
        said = file_outputs(open_session(file.onnx), inputs) if inputs else None
        loss, full = None, forms[FP32].outputs if name != FP32 else None
        if said is not None and full is not None:
            targets = labelled.targets if labelled else None
            loss = measure_loss(task, full, said, targets)
            difference = float(np.abs(full - said).max(initial=0.0))
            exported = dataclasses.replace(file, parity=difference)
        score, score_data = _score(order, exported.width, said, name, statistics)
        forms[name] = Form(exported, latencies[name], said, score, score_data, loss)
    return forms


def _score(
    order: ExportOrder, width: float, said: Array | None, form: str, statistics: str
) -> tuple[float | None, str]:
    """Return the score of a form and on what it was measured.

    What the run's server measured holds for float32 with statistics that were calibrated.
    """
    if order.labelled is not None and said is not None:
        score = order.model.task.score(said, order.labelled.targets)
        return score, f"{order.labelled.source}, {len(order.labelled)} samples"
    if form == FP32 and statistics != "sliced" and width in order.run_scores:
        return order.run_scores[width], "the server's validation recordings, cross-fitted"
    return None, NOT_MEASURED


def _measures(forms: Mapping[str, Form], failed: Mapping[str, str]) -> tuple[VariantMeasure, ...]:
    made = [
        VariantMeasure(
            name=name,
            latency_s=form.latency.low_s,
            size=len(form.exported.onnx),
            score_loss=form.loss.value if form.loss else None,
            criterion=form.loss.criterion if form.loss else "score",
        )
        for name, form in forms.items()
    ]
    lost = [VariantMeasure(name, 0.0, 0, None, failed=why) for name, why in failed.items()]
    return (*made, *lost)
