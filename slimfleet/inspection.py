"""What of a network follows the width, what does not and why. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from slimmable.derivation.spec_terms import INHERENT, AxisReport
from slimmable.model import ModelInput
from slimmable.spec import AxisTerm, ConcatTerm, Term, WidthSpec

DECLARED = "fixed in the declared spec"


@dataclass(frozen=True)
class Tensor:
    """One trained tensor.

    Attributes:
        name: full, as in the state dict.
        dimensions: one entry per dimension.
    """

    name: str
    dimensions: tuple[AxisReport, ...]

    @property
    def form(self) -> str:
        """Its shape, what scales in angle brackets: ``<64> x 3 x 3 x 3``."""
        return " x ".join(map(_shown, self.dimensions))


@dataclass(frozen=True)
class Layer:
    """One module and what is its own.

    Attributes:
        path: dotted; "" is the network itself, and what runs between its layers.
        tensors: trained ones.
        macs: multiply-accumulates of one sample at each width.
    """

    path: str
    tensors: tuple[Tensor, ...]
    macs: tuple[int, ...]

    @property
    def held_back(self) -> tuple[AxisReport, ...]:
        """The dimensions that might have scaled and do not."""
        return tuple(
            one for tensor in self.tensors for one in tensor.dimensions if is_held_back(one)
        )


@dataclass(frozen=True)
class ScalingAxes:
    """Axes of the same size and rounding.

    Attributes:
        size: full length.
        granule: kept lengths are multiples of it.
        lengths: kept at each width.
        count: how many there are.
    """

    size: int
    granule: int
    lengths: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class WidthFigures:
    """What a sub-model costs.

    Attributes:
        width: which.
        parameters: trained values; parameter_share: of the full width's.
        macs: multiply-accumulates of one sample; mac_share: of the full width's.
        file_bytes: of its ONNX file, predicted.
        training_bytes: peak resident memory of a process that trains it, predicted.
        inference_bytes: of one that runs the file on one sample, predicted.
    """

    width: float
    parameters: int
    parameter_share: float
    macs: int
    mac_share: float
    file_bytes: int
    training_bytes: int
    inference_bytes: int


@dataclass(frozen=True)
class Finding:
    """Something that a user should know.

    Attributes:
        text: what is so.
        hint: what to do about it.
        number: of the cause in the table of layers; 0 where no layer is to blame.
    """

    text: str
    hint: str
    number: int = 0


@dataclass(frozen=True)
class Inspection:
    """All that is said of a model.

    Attributes:
        model: its name; spec_hash: of its width spec.
        derived: whether that was derived from the network; else it was written by hand.
        inputs: of one sample.
        layers: in the network's order.
        axes: what scales.
        widths: what each width costs.
        findings: what a user should know.
        causes: (reason, place) that holds dimensions back -> number of the finding.
    """

    model: str
    spec_hash: str
    derived: bool
    inputs: tuple[ModelInput, ...]
    layers: tuple[Layer, ...]
    axes: tuple[ScalingAxes, ...]
    widths: tuple[WidthFigures, ...]
    findings: tuple[Finding, ...]
    causes: Mapping[tuple[str, str], int]


def is_held_back(dimension: AxisReport) -> bool:
    """Say whether a dimension stays at full width though it might have scaled."""
    reason = dimension.reason
    return not dimension.scales and reason not in INHERENT and reason != DECLARED


def declared_report(spec: WidthSpec, widths: Sequence[float]) -> tuple[AxisReport, ...]:
    """Return one entry per dimension of each trained tensor of a spec that was written by hand."""
    return tuple(
        AxisReport(
            tensor=name,
            dim=number,
            size=spec.length(term, 1.0),
            form=_form(term, spec),
            scales=_scales(term, spec),
            reason="" if _scales(term, spec) else DECLARED,
            place="",
            granules=tuple(spec.axes[a].granule for a in _axes(term) if spec.axes[a].scales),
            lengths=tuple(spec.length(term, width) for width in widths),
        )
        for name in spec.tensors
        if name in set(spec.parameters)
        for number, term in enumerate(spec.dims(name))
    )


def layers_of(report: Iterable[AxisReport], macs: Sequence[Mapping[str, int]]) -> tuple[Layer, ...]:
    """Gather dimensions into tensors and tensors into layers, in the order of the report.

    Args:
        report: one entry per dimension.
        macs: layer -> multiply-accumulates, per width.
    """
    tensors: dict[str, list[AxisReport]] = {}
    for dimension in report:
        tensors.setdefault(dimension.tensor, []).append(dimension)
    layers: dict[str, list[Tensor]] = {}
    for name, dimensions in tensors.items():
        layers.setdefault(name.rpartition(".")[0], []).append(Tensor(name, tuple(dimensions)))
    for path in macs[-1]:
        layers.setdefault(path, [])
    return tuple(
        Layer(path, tuple(found), tuple(of_width.get(path, 0) for of_width in macs))
        for path, found in layers.items()
    )


def scaling_axes(spec: WidthSpec, widths: Sequence[float]) -> tuple[ScalingAxes, ...]:
    """Return the axes that scale, those alike together, the longest first."""
    used = {a for dims in spec.tensors.values() for term in dims for a in _axes(term)}
    alike = Counter((spec.axes[a].size, spec.axes[a].granule) for a in used if spec.axes[a].scales)
    of_size = {(axis.size, axis.granule): axis for axis in spec.axes if axis.scales}
    return tuple(
        ScalingAxes(size, granule, tuple(map(of_size[size, granule].keep, widths)), count)
        for (size, granule), count in sorted(alike.items(), reverse=True)
    )


def _shown(dimension: AxisReport) -> str:
    if not dimension.scales:
        return str(dimension.size)
    return f"({dimension.form})" if "+" in dimension.form else dimension.form


def _axes(term: Term) -> list[int]:
    if isinstance(term, AxisTerm):
        return [term.axis]
    return [axis for part in term.parts for axis in _axes(part)]


def _scales(term: Term, spec: WidthSpec) -> bool:
    return any(spec.axes[axis].scales for axis in _axes(term))


def _form(term: Term, spec: WidthSpec) -> str:
    if isinstance(term, AxisTerm):
        axis = spec.axes[term.axis]
        return f"<{axis.size}>" if axis.scales else str(axis.size)
    parts = [_form(part, spec) for part in term.parts]
    if isinstance(term, ConcatTerm):
        return " + ".join(parts)
    return "*".join(f"({part})" if "+" in part else part for part in parts)
