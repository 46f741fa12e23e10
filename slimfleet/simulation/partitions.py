"""Deal labelled data to the devices of a simulation, by a scheme that a short text names.

- ``homogeneous``: every device gets equally much of each class.
- ``dirichlet(ALPHA)``: each class is dealt by shares drawn from a Dirichlet distribution over the
  devices (Hsu, Qi and Brown, 2019, https://arxiv.org/abs/1909.06335, in the per-class form of
  Yurochkin et al., 2019, https://arxiv.org/abs/1905.12022). A small ALPHA makes devices unlike.
- ``imbalanced(K, M)``: the first M devices share the fraction K of every class equally, the other
  devices share the rest.
- ``classes(C)``: device i holds class i modulo the number of classes and C - 1 others drawn at
  random; each class is dealt equally among its holders (Li et al., 2022,
  https://arxiv.org/abs/2102.02079). What nobody holds is not used.
"""

import math
import re
from collections.abc import Callable

import numpy as np

from slimmable.samples import Array

MINIMUM = 10
DRAWS = 1000
# Of each scheme, how many numbers it takes and which of them make sense.
RULES: dict[str, tuple[int, Callable[..., bool]]] = {
    "homogeneous": (0, lambda: True),
    "dirichlet": (1, lambda alpha: 0 < alpha < math.inf),
    "imbalanced": (2, lambda k, m: 0 < k < 1 <= m and m.is_integer()),
    "classes": (1, lambda c: c >= 1 and c.is_integer()),
}
SCHEMES = ("homogeneous", "dirichlet(0.5)", "imbalanced(0.8, 1)", "classes(3)")


class PartitionError(ValueError):
    """The data cannot be dealt in this way. The message says what to change."""


def partition(
    y: Array, scheme: str, devices: int, rng: np.random.Generator, *, minimum: int = MINIMUM
) -> tuple[Array, ...]:
    """Deal labelled data to devices.

    Args:
        y: (N,) integer labels.
        scheme: for example "dirichlet(0.5)".
        devices: how many there are.
        rng: draws who gets what.
        minimum: what every device gets at least; Dirichlet shares are drawn anew until it is met.

    Returns:
        Ascending indices into ``y``, one array per device; no index stands in two.

    Raises:
        PartitionError: the scheme is unknown, or leaves a device with less than the minimum.
    """
    name, numbers = _parse(scheme)
    if y.ndim != 1 or y.dtype.kind not in "iu" or not len(y):
        raise PartitionError(
            f"labels of shape {y.shape} and type {y.dtype} cannot be dealt by class: a partition"
            " takes one whole number for each sample"
        )
    if devices < 1:
        raise PartitionError(f"{devices} devices: there must be at least one")
    match name:
        case "homogeneous":
            parts = _homogeneous(y, devices, rng)
        case "dirichlet":
            return _dirichlet(y, devices, numbers[0], rng, minimum)
        case "imbalanced":
            shares = _imbalanced_shares(scheme, devices, *numbers)
            parts = _by_shares(y, np.tile(shares, (len(np.unique(y)), 1)), rng)
        case _:
            parts = _classes(y, devices, int(numbers[0]), rng)
    smallest = min(len(part) for part in parts)
    if smallest < minimum:
        raise PartitionError(
            f"{scheme} of {len(y)} samples leaves one of {devices} devices with {smallest}, and"
            f" {minimum} are the least: take more data or fewer devices"
        )
    return parts


def check_scheme(scheme: str) -> None:
    """Refuse a text that names no scheme.

    Raises:
        PartitionError: the scheme is unknown, or its numbers make no sense.
    """
    _parse(scheme)


def _parse(scheme: str) -> tuple[str, tuple[float, ...]]:
    """Return name and numbers of a scheme."""
    found = re.fullmatch(r"\s*([a-z]+)\s*(?:\(([^()]*)\))?\s*", scheme)
    name, inner = found.groups() if found else ("", None)
    try:
        numbers = tuple(float(text) for text in inner.split(",")) if inner is not None else ()
    except ValueError:
        numbers = (np.nan,)
    count, sound = RULES.get(name, (0, lambda: False))
    if len(numbers) != count or not sound(*numbers):
        raise PartitionError(f"{scheme!r} is no partition; write one like {', '.join(SCHEMES)}")
    return name, numbers


def _homogeneous(y: Array, devices: int, rng: np.random.Generator) -> tuple[Array, ...]:
    """Deal like cards, class after class: neither classes nor totals differ by more than one."""
    order = np.concatenate(_shuffled_classes(y, rng))
    return tuple(np.sort(order[first::devices]) for first in range(devices))


def _dirichlet(
    y: Array, devices: int, alpha: float, rng: np.random.Generator, minimum: int
) -> tuple[Array, ...]:
    classes = len(np.unique(y))
    smallest = 0
    for _ in range(DRAWS):
        parts = _by_shares(y, rng.dirichlet(np.full(devices, alpha), classes), rng)
        smallest = max(smallest, least := min(len(part) for part in parts))
        if least >= minimum:
            return parts
    raise PartitionError(
        f"dirichlet({alpha:g}) of {len(y)} samples left one of {devices} devices with {smallest} or"
        f" fewer in {DRAWS} draws, and {minimum} are the least: take more data, fewer devices, or a"
        " larger number in the brackets"
    )


def _imbalanced_shares(scheme: str, devices: int, fraction: float, majors: float) -> Array:
    """Return (devices,) shares that add up to 1."""
    many = int(majors)
    if many >= devices:
        raise PartitionError(
            f"{scheme} among {devices} devices: somebody must be left to share the rest; name fewer"
            " than all devices"
        )
    shares = np.full(devices, (1 - fraction) / (devices - many))
    shares[:many] = fraction / many
    return shares


def _classes(y: Array, devices: int, each: int, rng: np.random.Generator) -> tuple[Array, ...]:
    pools = _shuffled_classes(y, rng)
    if each > len(pools):
        raise PartitionError(f"classes({each}): the data has only {len(pools)} classes")
    holders: list[list[int]] = [[] for _ in pools]
    for device in range(devices):
        own = device % len(pools)
        others = np.setdiff1d(np.arange(len(pools)), [own])
        for chosen in (own, *rng.choice(others, each - 1, replace=False)):
            holders[chosen].append(device)
    dealt: list[list[Array]] = [[] for _ in range(devices)]
    for pool, who in zip(pools, holders, strict=True):
        for at, device in enumerate(who):
            dealt[device].append(pool[at :: len(who)])
    return tuple(np.sort(np.concatenate(parts)) for parts in dealt)


def _by_shares(y: Array, shares: Array, rng: np.random.Generator) -> tuple[Array, ...]:
    """Cut each class at its shares, (classes, devices)."""
    dealt: list[list[Array]] = [[] for _ in range(shares.shape[1])]
    for pool, share in zip(_shuffled_classes(y, rng), shares, strict=True):
        cuts = np.floor(np.cumsum(share)[:-1] * len(pool) + 1e-9).astype(np.int64)
        for parts, part in zip(dealt, np.split(pool, cuts), strict=True):
            parts.append(part)
    return tuple(np.sort(np.concatenate(parts)) for parts in dealt)


def _shuffled_classes(y: Array, rng: np.random.Generator) -> list[Array]:
    return [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
