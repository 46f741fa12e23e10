"""SCAFFOLD's control variates over slices of different widths. numpy only, pure.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
algorithm 1 with option II. A device that adds c - c_i to each gradient steps where the whole fleet
would, not only where its own data pull. Afterwards c_i = c_i - c + (x - y_i) / (K eta), which is
the mean of its own gradients. All of it follows from what the server has anyway: the weights x that
it sent, the update y_i, the steps K and the rate eta that it asked for. So devices remember
nothing, and can lie about nothing but their update.

Over slices each coordinate goes by itself, among the devices that hold it:

* c is the mean of the c_i of all devices that ever held the coordinate (not only of the round's);
* a device starts with c_i = c where it never was: it is not corrected by what is not known. In the
  paper it starts at 0 and is corrected by c; where all take part from the first round on, and at
  one width, the two are the same;
* what no device of a round holds keeps its c and its c_i.

A device that does not train and says that it was corrected would say that its own gradients undid
the correction, round after round, until c is 0 and nobody moves. So whoever says so is believed
only if it moved (`IDLE`), and not if it moved where its own c_i leads rather than where the fleet's
c does (`PLAUSIBLE`): an honest device, corrected, moves by -K eta c, plus what its gradients have
changed since. And no c_i is kept that is longer than `LONGEST` times the round's median.

A c_i has the full shapes, with NaN where it is not known. The memory of the fleet is the sum of all
c_i and how many they are, by coordinate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordinator.aggregation.changes import Change, clipped, root_mean_square
from slimmable.slicing import coverage
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState
from slimmable.window import Place

TOTAL, HOLDERS = "total/", "holders/"  # before a parameter's name
# Work that is shorter than this share of what it is the difference of is rounding: there was none.
NO_WORK = 1e-4
IDLE = 0.05  # of the round's median length
PLAUSIBLE = 0.5
LONGEST = 3.0


@dataclass(frozen=True)
class Asked:
    """What a device was asked to do.

    Attributes:
        steps: K; rate: eta, of SGD without momentum.
        corrected: whether it says that it added the correction to its gradients.
    """

    steps: int
    rate: float
    corrected: bool


def mean_variate(spec: WidthSpec, memory: Mapping[str, Array]) -> ModelState:
    """Return c, full shapes; 0 where no device is known.

    Args:
        spec: of the model.
        memory: of the fleet; empty at first.
    """
    if not memory:
        return {name: np.zeros(spec.shape(name, 1.0), np.float32) for name in spec.parameters}
    return {
        name: memory[TOTAL + name] / np.maximum(memory[HOLDERS + name], 1.0)
        for name in spec.parameters
    }


def unknown_variate(spec: WidthSpec) -> ModelState:
    """Return the c_i of a device that has not trained yet."""
    return {name: np.full(spec.shape(name, 1.0), np.nan, np.float32) for name in spec.parameters}


def correction(
    spec: WidthSpec, mean: Mapping[str, Array], own: Mapping[str, Array], place: Place
) -> ModelState:
    """Return c - c_i in a slice, 0 where c_i is not known: what each gradient is corrected by."""
    found = {}
    for name in spec.parameters:
        part = coverage(spec, name, *place)
        apart = mean[name][part] - own[name][part]
        found[name] = np.where(np.isnan(apart), 0.0, apart).astype(np.float32)
    return found


def believed(
    spec: WidthSpec,
    mean: Mapping[str, Array],
    own: Mapping[str, Array],
    change: Change,
    asked: Asked,
    usual: float,
) -> Asked:
    """Return what a device was asked to do, not corrected where it cannot have been.

    Args:
        spec: of the model.
        mean: c.
        own: c_i of the device.
        change: of the device.
        asked: of it, with what it says.
        usual: length of the round's changes, see `coordinator.aggregation.changes.usual_length`.
    """
    if not asked.corrected:
        return asked
    fleet, alone, told = {}, {}, {}
    for name, moved in change.change.items():
        part = coverage(spec, name, *change.place)
        step = moved / np.float32(asked.steps * asked.rate)
        fleet[name] = step + mean[name][part]
        known = np.where(np.isnan(own[name][part]), mean[name][part], own[name][part])
        alone[name] = step + known
        told[name] = mean[name][part] - known
    # Where the round as a whole hardly moved against its corrections, changes are rounding, and the
    # shorter of two says nothing.
    rounding = NO_WORK * asked.steps * asked.rate * root_mean_square(told)
    idle = root_mean_square(change.change) <= IDLE * usual and usual > rounding
    if idle or _squared_length(alone) < PLAUSIBLE**2 * _squared_length(fleet):
        return replace(asked, corrected=False)
    return asked


def own_work(change: Change, given: Mapping[str, Array], asked: Asked) -> Change:
    """Return what of a change the device's own gradients did: all but the correction.

    Args:
        change: of a device.
        given: its correction, in the same slice.
        asked: see `believed`.
    """
    if not asked.corrected:
        return change
    reach = np.float32(asked.steps * asked.rate)
    work = {name: array + reach * given[name] for name, array in change.change.items()}
    if _squared_length(work) <= NO_WORK**2 * _squared_length(change.change):
        work = {name: np.zeros_like(array) for name, array in work.items()}
    return replace(change, change=work)


def bounded(works: Sequence[Change]) -> list[Change]:
    """Return the works of a round, shortened where they are much longer than usual."""
    return clipped(works, LONGEST)


def renewed(spec: WidthSpec, own: Mapping[str, Array], work: Change, asked: Asked) -> ModelState:
    """Return c_i after a round.

    Args:
        spec: of the model.
        own: c_i before.
        work: see `own_work`, as `bounded`.
        asked: of the device.
    """
    found = {name: np.array(own[name], copy=True) for name in spec.parameters}
    for name in spec.parameters:
        mean_gradient = -work.change[name] / np.float32(asked.steps * asked.rate)
        found[name][coverage(spec, name, *work.place)] = mean_gradient
    return found


def remembered(
    spec: WidthSpec,
    memory: Mapping[str, Array],
    before: Mapping[str, Array],
    after: Mapping[str, Array],
) -> ModelState:
    """Return the memory of the fleet after one c_i changed.

    Args:
        spec: of the model.
        memory: before; empty at first.
        before: the c_i.
        after: the same, after the round.
    """
    found: ModelState = {}
    for name in spec.parameters:
        old, new = np.isnan(before[name]), np.isnan(after[name])
        nothing = np.zeros(before[name].shape, np.float32)
        change = np.where(new, 0.0, after[name]) - np.where(old, 0.0, before[name])
        found[TOTAL + name] = (memory.get(TOTAL + name, nothing) + change).astype(np.float32)
        joined = (old & ~new).astype(np.float32)
        found[HOLDERS + name] = memory.get(HOLDERS + name, nothing) + joined
    return found


def packed(own: Mapping[str, Array]) -> ModelState:
    """Return a c_i without what is not known at the end of each dimension.

    That of a narrow device then takes no more room than its slice.
    """
    found = {}
    for name, array in own.items():
        known = ~np.isnan(array)
        corner = [
            1 + int(np.flatnonzero(known.any(axis=_others(known.ndim, dim)))[-1])
            if known.any()
            else 0
            for dim in range(known.ndim)
        ]
        found[name] = array[tuple(slice(0, stop) for stop in corner)] if corner else array
    return found


def unpacked(spec: WidthSpec, stored: Mapping[str, Array]) -> ModelState:
    """Return a c_i in full shapes from what `packed` made of it."""
    found = unknown_variate(spec)
    for name, array in stored.items():
        found[name][tuple(slice(0, length) for length in array.shape)] = array
    return found


def _others(dimensions: int, dim: int) -> tuple[int, ...]:
    return tuple(other for other in range(dimensions) if other != dim)


def _squared_length(change: Mapping[str, Array]) -> float:
    return float(sum(np.square(array, dtype=np.float64).sum() for array in change.values()))
