"""The normalisation that a built-in network may be given: batch norm or group norm."""

from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from slimmable.models.spec_builder import SpecBuilder
from slimmable.spec import Term


class NormKind(StrEnum):
    """What stands behind each convolution."""

    BATCH = "batch"
    GROUP = "group"


@dataclass(frozen=True)
class Normalisation:
    """One kind of norm for all stages of a network.

    Attributes:
        kind: batch norm has statistics, which are calibrated for each width. Group norm (Wu and He,
            ECCV 2018) has none; it learns more slowly.
        channels_per_group: of group norm. It is the same at every width and the number of groups
            scales, so that each group of a narrow network has the channels it has in a wide one.
    """

    kind: NormKind
    channels_per_group: int

    @classmethod
    def of(cls, kind: str, channels_per_group: int) -> "Normalisation":
        """Return the normalisation that a model's options name.

        Raises:
            ValueError: there is no such norm, or no such group.
        """
        if kind not in list(NormKind) or channels_per_group < 1:
            raise ValueError(
                f"norm {kind!r} with {channels_per_group} channels a group: use one of"
                f" {[str(one) for one in NormKind]} and at least 1"
            )
        return cls(NormKind(kind), channels_per_group)

    def channels(self, spec: SpecBuilder, size: int, granule: int) -> Term:
        """Add the channels of a stage to a spec and return their term.

        Args:
            spec: under construction.
            size: channels at full width.
            granule: their rounding; where groups are larger, whole groups are kept.

        Raises:
            ValueError: the channels do not fill whole groups.
        """
        if self.kind is NormKind.BATCH:
            return spec.scaling(size, granule)
        inside = self.channels_per_group
        if size % inside:
            raise ValueError(
                f"{size} channels do not fill groups of {inside}; choose channels_per_group so that"
                " it divides the channels of every stage"
            )
        return spec.flattened(spec.scaling(size // inside, max(1, granule // inside)), inside)

    def declare(self, spec: SpecBuilder, name: str, channels: Term) -> None:
        """Declare the tensors of one norm."""
        if self.kind is NormKind.BATCH:
            spec.batch_norm(name, channels)
        else:
            spec.group_norm(name, channels)

    def layer_1d(self, channels: int) -> nn.Module:
        """Return a norm of (batch, channels, time)."""
        return nn.BatchNorm1d(channels) if self.kind is NormKind.BATCH else self._group(channels)

    def layer_2d(self, channels: int) -> nn.Module:
        """Return a norm of (batch, channels, height, width)."""
        return nn.BatchNorm2d(channels) if self.kind is NormKind.BATCH else self._group(channels)

    def _group(self, channels: int) -> nn.GroupNorm:
        return nn.GroupNorm(channels // self.channels_per_group, channels)
