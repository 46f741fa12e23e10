"""Read the weights that a user brings: safetensors, or a file of torch that holds tensors only.

Nothing that a file says is ever executed. A file of torch is opened by its restricted reader, which
knows tensors and plain containers and refuses everything else.
"""

import io
import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors import SafetensorError

from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState

BATCH_COUNTER = "num_batches_tracked"  # of torch's batch norms; nothing reads it
# Under these names training programs keep the state dict beside the optimiser's.
NESTS = ("state_dict", "model_state_dict", "model")
COMPILED = "_orig_mod."  # torch.compile puts it before the names of what it compiled
PARALLEL = "module."  # DataParallel and DistributedDataParallel
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ARCHIVE, PICKLE, ONNX = b"PK", b"\x80", b"\x08"
HEADER_LENGTH = 8  # bytes before the header of a safetensors file
# First bytes of files that people have beside their weights.
OTHER_FILES = {
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a .npy file",
    b"\x1f\x8b": "a gzip archive",
}

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A file of weights cannot be used. Supply the file that the message describes."""


@dataclass(frozen=True)
class _Tensor:
    """A tensor as it stood in the file: ``values`` are float32 wherever ``dtype`` is a float."""

    dtype: str
    values: Array


def read_checkpoint(path: Path, spec: WidthSpec) -> ModelState:
    """Read the full-width state dict of a model.

    The state dict of a torch file may lie under "state_dict", "model_state_dict" or "model"; the
    prefixes that data parallelism and compilation add are removed; counters of batch norms and
    buffers of integers, which belong to the network, are left out. Of a tied parameter's names any
    one is enough; where there are several, their values must agree. Floats of other precision are
    converted to float32, which is logged.

    Args:
        path: a safetensors file, or one of ``torch.save`` that holds a state dict.
        spec: of the model; the result has exactly its tensors in their full shapes.

    Raises:
        CheckpointError: the file cannot be read, is something else, holds objects besides tensors
            or NaN, or is of another model; the message says which.
    """
    found = _plain_names(_read(path), {*spec.tensors, *spec.aliases})
    found = {name: t for name, t in found.items() if not name.endswith(BATCH_COUNTER)}
    found = _without_aliases(path, found, spec.aliases)
    integers = [n for n, t in found.items() if n not in spec.tensors and t.values.dtype.kind != "f"]
    for name in integers:
        logger.debug("%s: %s is left out, it holds %s", path, name, found.pop(name).dtype)
    _check_model(path, found, spec)
    _check_values(path, found)
    converted = sorted({t.dtype for t in found.values()} - {"float32"})
    if converted:
        logger.warning("%s: tensors of %s converted to float32", path, ", ".join(converted))
    return {name: found[name].values for name in spec.tensors}


def _read(path: Path) -> dict[str, _Tensor]:
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder; name the file of weights inside it")
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if not payload:
        raise CheckpointError(f"checkpoint {path} is empty; save the weights again")
    if payload.startswith((ARCHIVE, PICKLE)):
        return _from_torch(path, payload)
    if payload[HEADER_LENGTH : HEADER_LENGTH + 1] == b"{":
        return _from_safetensors(path, payload)
    raise CheckpointError(
        f"checkpoint {path} is {_kind(payload)}; supply a state dict as safetensors, or as torch"
        " saves it (.pt)"
    )


def _kind(payload: bytes) -> str:
    """Name what is no checkpoint."""
    for magic, name in OTHER_FILES.items():
        if payload.startswith(magic):
            return name
    # Protocol buffers write the ONNX version first, then the producer (2) or the graph (7).
    if payload[:1] == ONNX and payload[2:3] in {b"\x12", b"\x3a"}:
        return "an ONNX file, whose weights were cut to one width and folded"
    text = all(byte >= 32 or byte in b"\t\r\n\f" for byte in payload[:256])
    return "a text file" if text else f"of an unknown format (first bytes {payload[:4].hex()})"


def _from_safetensors(path: Path, payload: bytes) -> dict[str, _Tensor]:
    try:
        entries = safetensors.deserialize(payload)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        needed = int.from_bytes(payload[:HEADER_LENGTH], "little") + HEADER_LENGTH
        if len(payload) < needed or "incomplete" in str(error).lower():
            raise CheckpointError(
                f"checkpoint {path} is cut off: its header announces more than its"
                f" {len(payload)} bytes; copy it again"
            ) from error
        raise CheckpointError(
            f"checkpoint {path} is a damaged safetensors file ({error}); save it again"
        ) from error
    return {name: _decoded(path, name, entry) for name, entry in entries}


def _decoded(path: Path, name: str, entry: Mapping[str, Any]) -> _Tensor:
    dtype, shape, data = entry["dtype"], entry["shape"], entry["data"]
    if dtype == "BF16":  # the upper half of a float32; numpy has no such type
        halves = np.frombuffer(data, dtype="<u2").astype("<u4") << 16
        return _Tensor("bfloat16", halves.view("<f4").astype(np.float32).reshape(shape))
    if dtype in FLOATS:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite: refused
            values = np.frombuffer(data, dtype=FLOATS[dtype]).astype(np.float32)
        return _Tensor(FLOATS[dtype], values.reshape(shape))
    if dtype[0] in "IU" or dtype == "BOOL":
        kind = "?" if dtype == "BOOL" else f"<{dtype[0].lower()}{int(dtype[1:]) // 8}"
        return _Tensor(dtype, np.frombuffer(data, dtype=kind).reshape(shape))
    raise CheckpointError(
        f"checkpoint {path}: tensor {name!r} is of type {dtype}; supply the weights as float32"
    )


def _from_torch(path: Path, payload: bytes) -> dict[str, _Tensor]:
    if payload.startswith(ARCHIVE):
        _check_archive(path, payload)
    import torch

    try:
        # The one place that opens a file of torch: weights_only knows tensors and containers alone.
        content = torch.load(  # noqa: TID251 - weights_only executes nothing
            io.BytesIO(payload), map_location="cpu", weights_only=True
        )
    except Exception as error:  # a damaged file raises a dozen kinds, from EOFError to KeyError
        if "weights_only" in str(error).lower():
            raise CheckpointError(
                f"checkpoint {path} holds Python objects besides tensors and was not read, since"
                " that would run code; save model.state_dict() alone, as safetensors"
            ) from error
        raise CheckpointError(
            f"checkpoint {path} is a damaged or cut off file of torch; copy or save it again"
        ) from error
    return {name: _detached(path, name, tensor) for name, tensor in _state_dict(path, content)}


def _check_archive(path: Path, payload: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} is a damaged or cut off file of torch; copy or save it again"
        ) from error
    if any(name.endswith(".npy") for name in names):
        kind = "an .npz archive"
    elif not any(name.endswith("data.pkl") for name in names):
        kind = "a zip archive of something else"
    elif any("/code/" in name for name in names):
        kind = "a TorchScript program"
    else:
        return
    raise CheckpointError(
        f"checkpoint {path} is {kind}; supply a state dict as safetensors, or as torch saves it"
    )


def _state_dict(path: Path, content: Any) -> Iterable[tuple[str, Any]]:
    """Find the tensors in what a file of torch holds."""
    import torch

    if isinstance(content, Mapping):
        for nest in NESTS:
            if isinstance(content.get(nest), Mapping):
                return _state_dict(path, content[nest])
        if content and all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
            return ((str(name), tensor) for name, tensor in content.items())
        held = f"a dict of {', '.join(sorted(map(str, content))[:5]) or 'nothing'}"
    else:
        held = f"a {type(content).__name__}"
    raise CheckpointError(
        f"checkpoint {path} holds {held} and no state dict; save model.state_dict()"
    )


def _detached(path: Path, name: str, tensor: Any) -> _Tensor:
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(
            f"checkpoint {path}: tensor {name!r} is sparse, quantised or complex; supply the"
            " weights as float32"
        )
    values = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    return _Tensor(dtype, values.contiguous().numpy().copy())


def _plain_names(found: Mapping[str, _Tensor], known: set[str]) -> dict[str, _Tensor]:
    """Remove what wrappers put before the names, unless the model itself has such names."""
    named = dict(found)
    if not any(COMPILED in name for name in known):
        named = {name.replace(COMPILED, ""): tensor for name, tensor in named.items()}
    if not any(name.startswith(PARALLEL) for name in known):
        named = {name.removeprefix(PARALLEL): tensor for name, tensor in named.items()}
    return named


def _without_aliases(
    path: Path, found: Mapping[str, _Tensor], aliases: Mapping[str, str]
) -> dict[str, _Tensor]:
    """Keep tied parameters under the one name that the spec has."""
    kept = {name: tensor for name, tensor in found.items() if name not in aliases}
    for alias, name in sorted(aliases.items()):
        if alias not in found:
            continue
        first = kept.setdefault(name, found[alias])
        if not np.array_equal(first.values, found[alias].values):
            raise CheckpointError(
                f"checkpoint {path}: {alias!r} and {name!r} are one parameter of the model, but two"
                " in the file; train the model with both tied, or give each its own weights"
            )
    return kept


def _check_model(path: Path, found: Mapping[str, _Tensor], spec: WidthSpec) -> None:
    shapes = {name: tensor.values.shape for name, tensor in found.items()}
    needed = {name: spec.shape(name, 1.0) for name in spec.tensors}
    differing = [n for n in sorted({*shapes, *needed}) if shapes.get(n) != needed.get(n)]
    if not differing:
        return
    name = differing[0]
    raise CheckpointError(
        f"checkpoint {path} is of another model: tensor {name!r} has shape"
        f" {shapes.get(name, 'none')} in the file, {needed.get(name, 'none')} in the model;"
        f" {len(differing)} of {len({*shapes, *needed})} tensors differ"
    )


def _check_values(path: Path, found: Mapping[str, _Tensor]) -> None:
    for name in sorted(found):
        tensor = found[name]
        if tensor.values.dtype.kind != "f":
            raise CheckpointError(
                f"checkpoint {path}: tensor {name!r} holds {tensor.dtype}, the model has floats"
            )
        if not np.isfinite(tensor.values).all():
            raise CheckpointError(
                f"checkpoint {path}: tensor {name!r} holds NaN or infinity; supply the weights of"
                " a training that went well"
            )
