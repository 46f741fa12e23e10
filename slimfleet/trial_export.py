"""Export untrained sub-models to measure them on this machine: a child process, and its parent.

How long a network takes does not depend on what it has learnt, so nothing has to be sent for it.
The child imports torch and onnx and ends before the files are measured: the measuring processes
have the memory to themselves.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from exporter.manifest import ExportedModel
    from slimmable.model import SlimmableModel

log = logging.getLogger(__name__)

NEEDED = ("torch", "onnx", "onnxscript")
CALIBRATION_SAMPLES = 64
_HOME = str(Path(__file__).resolve().parent.parent)


class TrialOrder(msgspec.Struct, frozen=True):
    """What the child is told.

    Attributes:
        model, options: which network.
        widths: to export.
        folder: takes the files.
        templates: folder of traced graphs; "" = those of the user.
        data, reader, reader_options: samples that give the ranges of int8; "" = none.
    """

    model: str
    options: dict[str, Any]
    widths: tuple[float, ...]
    folder: str
    templates: str = ""
    data: str = ""
    reader: str = "npz"
    reader_options: dict[str, Any] = {}


@dataclass
class TrialExport:
    """What the child could do.

    Attributes:
        spec_hash: of the network.
        failures: one line per file that could not be made.
    """

    spec_hash: str = ""
    failures: list[str] = field(default_factory=list)


def export_obstacle() -> str:
    """Return why this installation cannot export, or ""."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"{' and '.join(missing)} not installed: pip install 'slimfleet[profile]'"


async def export_trials(order: TrialOrder, timeout_s: float) -> TrialExport:
    """Export in a child process; never raises for what the export does.

    Args:
        order: what to export.
        timeout_s: after this the child is ended; the files that it wrote by then stay.
    """
    path = os.pathsep.join(filter(None, [_HOME, os.environ.get("PYTHONPATH")]))
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slimfleet.trial_export"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
    except OSError as error:
        return TrialExport(failures=[f"no child process could be started ({error})"])
    try:
        said, _ = await asyncio.wait_for(child.communicate(msgspec.json.encode(order)), timeout_s)
    except TimeoutError:
        return TrialExport(failures=[f"exporting was not done within {timeout_s:g} s"])
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    return _heard(said, child.returncode)


def _heard(said: bytes, status: int | None) -> TrialExport:
    from edge_agent.training_failure import describe_exit

    lines = said.strip().splitlines()
    if not status and lines:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(lines[-1], type=TrialExport)
    return TrialExport(failures=[f"the exporting process {describe_exit(status)}"])


# --- the child ----------------------------------------------------------------------------------


def export(order: TrialOrder) -> TrialExport:
    """Write float32 and int8 files of every width. Imports torch and onnx."""
    from exporter.command import templates_folder
    from exporter.errors import ExportError
    from exporter.export import export_width
    from exporter.templates import TemplateCache
    from slimmable.evaluation import initial_state
    from slimmable.model import load_model
    from slimmable.slicing import slice_state

    model = load_model(order.model, order.options)
    found = TrialExport(model.spec.spec_hash)
    cache = TemplateCache(Path(order.templates) if order.templates else templates_folder())
    state = initial_state(model, 0)
    samples = _samples(order, found)
    for width in sorted(set(order.widths)):
        try:
            cut = slice_state(state, model.spec, width)
            plain = export_width(model, width, cut, cache, run="untrained")
            _write(plain, model, Path(order.folder))
        except ExportError as error:
            found.failures.append(f"width {width:g} float32: {error}")
            continue
        try:
            _write(_int8(plain, samples), model, Path(order.folder))
        except ExportError as error:
            found.failures.append(f"width {width:g} int8: {error}")
    return found


def _samples(order: TrialOrder, found: TrialExport) -> Any:
    from slimmable.readers import read_samples
    from slimmable.samples import SamplesError

    if not order.data:
        return None
    try:
        x = read_samples(Path(order.data), order.reader, order.reader_options).x
    except (SamplesError, OSError) as error:
        found.failures.append(f"ranges of int8: {error}")
        return None
    return x[:: max(1, len(x) // CALIBRATION_SAMPLES)][:CALIBRATION_SAMPLES]


def _int8(plain: "ExportedModel", samples: Any) -> "ExportedModel":
    """Return the static form where there are samples and the network has one, else the dynamic."""
    import dataclasses

    from exporter.errors import QuantisationError
    from exporter.file_facts import INT8_DYNAMIC, INT8_STATIC
    from exporter.quantise import quantise_dynamic, quantise_static

    if samples is not None:
        with contextlib.suppress(QuantisationError):
            onnx = quantise_static(plain.onnx, [samples])
            return dataclasses.replace(plain, onnx=onnx, encoding=INT8_STATIC)
    return dataclasses.replace(plain, onnx=quantise_dynamic(plain.onnx), encoding=INT8_DYNAMIC)


def _write(file: "ExportedModel", model: "SlimmableModel", folder: Path) -> None:
    from exporter.file_facts import FLOAT32
    from exporter.manifest import manifest_for
    from exporter.run_export import file_stem, pretty
    from slimmable.task import HISTOGRAM_BINS, Reference

    nothing = Reference((0,) * max(1, len(model.task.classes)), (0,) * HISTOGRAM_BINS)
    manifest = manifest_for(
        file, model, round=0, score=0.0, score_data="not measured", reference=nothing
    )
    stem = file_stem(model.name, file.width) + ("" if file.encoding == FLOAT32 else "-int8")
    (folder / f"{stem}.onnx").write_bytes(file.onnx)
    (folder / f"{stem}.manifest.json").write_bytes(pretty(msgspec.to_builtins(manifest)))


def main() -> None:
    """Read an order from standard input, do it, and print one line of JSON."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=TrialOrder)
    answer, sys.stdout = sys.stdout, sys.stderr  # a print in a model must not end up in the answer
    try:
        found = export(order)
    except Exception as error:  # noqa: BLE001  a model is somebody else's code
        found = TrialExport(failures=[f"{type(error).__name__}: {' '.join(str(error).split())}"])
    answer.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main()
