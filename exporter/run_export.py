"""Export a full-width checkpoint at several widths into a folder. Imports torch."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from broker.messages import ModelManifest
from exporter.export import export_width
from exporter.manifest import ExportedModel, manifest_for
from exporter.templates import TemplateCache
from journal.disk import make_folder, write_atomically
from slimmable.evaluation import calibrate, outputs
from slimmable.model import SlimmableModel
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState
from slimmable.task import HISTOGRAM_BINS, Reference
from slimmable.width import WidthError

logger = logging.getLogger(__name__)

INDEX_FILE = "index.json"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class ExportRow:
    """One line of the index.

    Attributes:
        width: which sub-model.
        file, manifest: names in the folder.
        digest, size: SHA-256 and bytes of the ONNX file.
        parameters: trained values at this width.
        parity: largest difference to torch.
        statistics: "calibrated" on given inputs, "sliced" from the full width, or "none" where the
            model has none.
    """

    width: float
    file: str
    manifest: str
    digest: str
    size: int
    parameters: int
    parity: float
    statistics: str


def export_checkpoint(
    model: SlimmableModel,
    state: Mapping[str, Array],
    widths: Sequence[float],
    out: Path,
    *,
    cache: TemplateCache,
    calibration: Array | None = None,
    scale: str = "",
) -> list[ExportRow]:
    """Write an ONNX file and a manifest per width, and ``index.json`` over all of them.

    Every width is exported and checked before the first file is written; the index comes last.

    Args:
        model: the model.
        state: full-width state dict.
        widths: width multipliers, in any order.
        out: the folder; it is created.
        cache: where templates are kept.
        calibration: (N, ...) inputs to estimate the statistics of each width on.
        scale: expected input preprocessing in one line for people.

    Returns:
        One row per width, ascending.

    Raises:
        WidthError: a width is outside (0, 1].
        SpecError: the state is not one of this model.
        ExportError: a width cannot be exported; nothing was written.
        OSError: the folder cannot be written.
    """
    chosen = sorted(set(widths))
    outside = [width for width in chosen if not 0.0 < width <= 1.0]
    if outside or not chosen:
        raise WidthError(f"widths {outside or chosen} are outside (0, 1]; choose some such as 0.5")
    statistics = _statistics(model, chosen, calibration)
    finished = [
        _export(model, state, width, cache, calibration, scale, statistics) for width in chosen
    ]
    make_folder(out)
    for row, exported, manifest in finished:
        write_atomically(out / row.file, exported.onnx, mode=0o644)
        write_atomically(out / row.manifest, _pretty(msgspec.to_builtins(manifest)), mode=0o644)
    rows = [row for row, _, _ in finished]
    index = {
        "model": model.name,
        "spec_hash": model.spec.spec_hash,
        "widths": [asdict(row) for row in rows],
    }
    write_atomically(out / INDEX_FILE, _pretty(index), mode=0o644)
    return rows


def file_stem(model: str, width: float) -> str:
    """Return the name of a width's files without suffix, for example ``cnn1d-w0.50``."""
    label = f"{width:.2f}"
    if float(label) != width:
        label = repr(float(width))
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', model)}-w{label}"


def _export(
    model: SlimmableModel,
    full: Mapping[str, Array],
    width: float,
    cache: TemplateCache,
    calibration: Array | None,
    scale: str,
    statistics: str,
) -> tuple[ExportRow, ExportedModel, ModelManifest]:
    cut: ModelState = slice_state(full, model.spec, width)
    if calibration is not None:
        cut = {**cut, **calibrate(model, width, cut, calibration)}
    exported = export_width(model, width, cut, cache, scale=scale)
    manifest = manifest_for(
        exported,
        model,
        round=exported.round,
        score=0.0,
        score_data=NOT_MEASURED,
        reference=_reference(model, width, cut, calibration),
    )
    stem = file_stem(model.name, width)
    row = ExportRow(
        width=width,
        file=f"{stem}.onnx",
        manifest=f"{stem}.manifest.json",
        digest=exported.digest,
        size=len(exported.onnx),
        parameters=model.spec.parameter_count(width),
        parity=exported.parity,
        statistics=statistics,
    )
    return row, exported, manifest


def _statistics(model: SlimmableModel, widths: Sequence[float], calibration: Array | None) -> str:
    if not model.spec.statistics:
        return "none"
    if calibration is not None:
        return "calibrated"
    if widths[0] < 1.0:
        logger.warning(
            "batch-norm statistics of %s are sliced from the full width, which costs accuracy at"
            " narrow widths; give calibration samples",
            model.name,
        )
    return "sliced"


def _reference(
    model: SlimmableModel, width: float, cut: Mapping[str, Array], inputs: Array | None
) -> Reference:
    if inputs is None:
        return Reference((0,) * max(1, len(model.task.classes)), (0,) * HISTOGRAM_BINS)
    said = outputs(model, width, cut, np.ascontiguousarray(inputs))
    return model.task.reference(model.task.decode(said, inputs))


def _pretty(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
