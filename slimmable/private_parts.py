"""Which tensors of a network stay where they are trained, and what is left to travel. Pure.

A pattern names tensors as a shell names files: "fc.*" is the whole layer ``fc``. What matches is
private: each device has its own (LG-FedAvg, Liang et al., "Think Locally, Act Globally", 2020,
where the lower layers are; FedRep, Collins et al., ICML 2021, where the head is).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from slimmable.slicing import check_state
from slimmable.spec import SpecError, WidthSpec
from slimmable.state import Array, ModelState


def private_names(spec: WidthSpec, patterns: Iterable[str]) -> frozenset[str]:
    """Return the tensors of a network that any of the patterns matches."""
    wanted = tuple(patterns)
    return frozenset(
        name for name in spec.tensors if any(fnmatchcase(name, pattern) for pattern in wanted)
    )


def check_patterns(spec: WidthSpec, patterns: Iterable[str]) -> None:
    """Refuse patterns that keep nothing, or that leave nothing to share.

    Raises:
        SpecError: the message names the pattern and some of the tensors that there are.
    """
    wanted = tuple(patterns)
    for pattern in wanted:
        if not private_names(spec, (pattern,)):
            known = ", ".join(sorted(spec.tensors)[:6])
            raise SpecError(f"pattern {pattern!r} matches no tensor; there are {known}, ...")
    if wanted and private_names(spec, wanted) >= set(spec.parameters):
        raise SpecError(f"patterns {list(wanted)} match every parameter: nothing would be shared")


def shared_spec(spec: WidthSpec, patterns: Iterable[str]) -> WidthSpec:
    """Return the spec of what travels: that of the network without its private tensors."""
    private = private_names(spec, patterns)
    if not private:
        return spec
    return replace(
        spec,
        tensors={name: dims for name, dims in spec.tensors.items() if name not in private},
        statistics=spec.statistics - private,
        constants=spec.constants - private,
        aliases={alias: name for alias, name in spec.aliases.items() if name not in private},
    )


def part_of(state: Mapping[str, Array], names: Iterable[str]) -> ModelState:
    """Return the tensors of a state dict that have one of these names."""
    wanted = set(names)
    return {name: array for name, array in state.items() if name in wanted}


def overlaid(
    wider: Mapping[str, Array],
    outer: float,
    narrower: Mapping[str, Array],
    inner: float,
    spec: WidthSpec,
) -> ModelState:
    """Return tensors of one width in which those of a narrower one take their place.

    Args:
        wider: tensors cut at ``outer``.
        outer: their width.
        narrower: some of the same tensors, cut at ``inner``.
        inner: at most ``outer``.
        spec: of the model.

    Raises:
        SpecError: a tensor has another shape than its width gives it.
    """
    check_state(wider, spec, outer, names=wider)
    check_state(narrower, spec, inner, names=narrower)
    found = {name: np.array(array, copy=True) for name, array in wider.items()}
    for name, array in narrower.items():
        found[name][np.ix_(*spec.indices_within(name, inner, outer))] = array
    return found
