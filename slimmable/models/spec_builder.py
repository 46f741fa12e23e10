"""Write a width spec by hand, axis by axis, for networks whose structure is known."""

from dataclasses import dataclass, field

from slimmable.spec import AxisTerm, ProductTerm, Term, WidthSpec
from slimmable.width import Axis


@dataclass
class SpecBuilder:
    """Collects axes and tensors, then gives the spec.

    The helpers name tensors as torch modules do, so ``conv("stem", ...)`` declares
    ``stem.weight`` and ``stem.bias``.
    """

    axes: list[Axis] = field(default_factory=list)
    tensors: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    statistics: set[str] = field(default_factory=set)

    def scaling(self, size: int, granule: int = 1) -> AxisTerm:
        """Add an axis that the width multiplier applies to."""
        self.axes.append(Axis(size, scales=True, granule=granule))
        return AxisTerm(len(self.axes) - 1)

    def fixed(self, size: int) -> AxisTerm:
        """Add an axis that keeps its full length at every width."""
        self.axes.append(Axis(size, scales=False))
        return AxisTerm(len(self.axes) - 1)

    def conv(
        self, name: str, out: Term, into: Term, kernel: tuple[int, ...], *, bias: bool
    ) -> None:
        """Declare a convolution with one group."""
        self.tensors[f"{name}.weight"] = (out, into, *(self.fixed(size) for size in kernel))
        if bias:
            self.tensors[f"{name}.bias"] = (out,)

    def linear(self, name: str, out: Term, into: Term) -> None:
        """Declare a linear layer with bias."""
        self.tensors[f"{name}.weight"] = (out, into)
        self.tensors[f"{name}.bias"] = (out,)

    def batch_norm(self, name: str, channels: Term) -> None:
        """Declare a batch norm: trained scale and shift, running statistics per width."""
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            self.tensors[f"{name}.{leaf}"] = (channels,)
        for leaf in ("running_mean", "running_var"):
            self.statistics.add(f"{name}.{leaf}")

    def group_norm(self, name: str, channels: Term) -> None:
        """Declare a group norm: trained scale and shift, nothing else."""
        for leaf in ("weight", "bias"):
            self.tensors[f"{name}.{leaf}"] = (channels,)

    def flattened(self, channels: Term, size: int) -> Term:
        """Return the term of ``channels`` flattened with ``size`` positions each."""
        return ProductTerm((channels, self.fixed(size))) if size > 1 else channels

    def spec(self) -> WidthSpec:
        """Return the finished spec."""
        return WidthSpec(tuple(self.axes), dict(self.tensors), frozenset(self.statistics))
