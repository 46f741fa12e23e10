"""Devices that want a reward without the work: what each kind uploads, claims and reports. Pure.

A rider knows what its device knows and no more: the width spec, the weights that it received in
this round and the earlier ones, its own samples, a generator, and the number of the round. It
differs from an honest device in up to five places, each of which the caller asks about:

    rider = RIDERS["replayed-delta"]
    data = rider.samples(own, classes, rng)              # before the campaign
    if rider.forge is not None:                          # each round
        state, loss = rider.forge(seen), claimed_loss(seen.round)
    else:
        state, loss = train(received, data)              # like an honest device
    claimed = rider.claim(len(data))
    reported = rider.report({width: score, ...})         # where devices evaluate
    says = rider.corrected                               # where gradients are corrected

Sources: Fraboni, Vidal and Lorenzi, "Free-rider attacks on model aggregation in federated
learning", AISTATS 2021 (plain, disguised); Lin, Du and Liu, "Free-riders in federated learning:
attacks and defenses", 2019, https://arxiv.org/abs/1911.12560 (random, delta weights, advanced delta
weights); Xu and Lyu, "A reputation mechanism is all you need", 2021,
https://arxiv.org/abs/2011.10464 (random values within a given length). "older-delta",
"masked-delta" and the two of corrections were thought out against this project's own defence.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slimmable.samples import Samples
from slimmable.slicing import slice_within
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState

FIRST_DEVIATION = 1e-3  # of the noise while there is nothing to replay yet (Fraboni)
ADVANCED_DEVIATION = 1e-3  # of the noise on a replayed change (Lin)
RANDOM_LENGTH = 0.5  # of a random upload (Xu and Lyu, their Gamma)
COEFFICIENT, DECAY = 1.0, 1.0  # of the disguise: coef and gamma (Fraboni)
STRETCH = 2.0  # a device's own step is longer than the mean of several that differ
INVENTED_SAMPLES = 2000  # what a rider without data says that it has
LIE = 10  # times the samples that there are
TINY = 10  # samples


@dataclass(frozen=True)
class Received:
    """The weights that came with one task: the slice of ``width``.

    Attributes:
        correction: that came with it, to be added to every gradient (SCAFFOLD), if one did.
        reach: steps times learning rate: how far a gradient of 1 moves a weight.
    """

    width: float
    state: Mapping[str, Array]
    correction: Mapping[str, Array] | None = None
    reach: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What a device knows in a round.

    Attributes:
        spec: of the model.
        round: of the campaign, from 1.
        received: with each task so far, oldest first; the last one is this round's.
        rng: its generator.
    """

    spec: WidthSpec
    round: int
    received: Sequence[Received]
    rng: np.random.Generator

    def models(self) -> list[Received]:
        """Return what was received, without the weights that came again in the next task."""
        kept: list[Received] = []
        for one in self.received:
            last = kept[-1] if kept else None
            if last is None or last.width != one.width or _differ(last.state, one.state):
                kept.append(one)
        return kept

    def change(self, back: int = 1) -> ModelState | None:
        """Return how the model changed between two tasks, at this round's width.

        Args:
            back: 1 = up to this round's weights, 2 = up to those before, and so on.

        Returns:
            Parameter name -> difference, 0 where an earlier width did not reach; None where not
            enough was received.
        """
        models = self.models()
        if not 1 <= back < len(models):
            return None
        new, old, width = models[-back], models[-back - 1], models[-1].width
        common = min(new.width, old.width, width)
        after, before = (
            slice_within(one.state, self.spec, common, one.width) for one in (new, old)
        )
        change = {}
        for name in self.spec.parameters:
            change[name] = np.zeros(self.spec.shape(name, width), np.float32)
            inside = np.ix_(*self.spec.indices_within(name, common, width))
            change[name][inside] = after[name] - before[name]
        return change

    def moved(self, change: Mapping[str, Array]) -> ModelState:
        """Return this round's weights plus a change of the parameters."""
        state = {name: np.array(array) for name, array in self.received[-1].state.items()}
        for name, step in change.items():
            state[name] += step.astype(state[name].dtype)
        return state

    def noise(self, deviation: float) -> ModelState:
        """Return normal noise for every parameter."""
        return {
            name: (deviation * self.rng.standard_normal(array.shape)).astype(np.float32)
            for name, array in self._parameters()
        }

    def uniform(self, length: float) -> ModelState:
        """Return U(-R, R) for every parameter, R such that their length is as given."""
        count = sum(array.size for _, array in self._parameters())
        bound = length * math.sqrt(3.0 / count)
        return {
            name: self.rng.uniform(-bound, bound, array.shape).astype(np.float32)
            for name, array in self._parameters()
        }

    def _parameters(self) -> list[tuple[str, Array]]:
        return [(name, self.received[-1].state[name]) for name in self.spec.parameters]


def _differ(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return any(not np.array_equal(a[name], b[name]) for name in a)


Forge = Callable[[Seen], ModelState]
Spoil = Callable[[Samples, int, np.random.Generator], Samples]
Evaluations = Mapping[float, float]


def _own(samples: Samples, classes: int, rng: np.random.Generator) -> Samples:  # noqa: ARG001
    return samples


def _truth(samples: int) -> int:
    return samples


def _invented(samples: int) -> int:  # noqa: ARG001
    return INVENTED_SAMPLES


def _as_measured(scores: Evaluations) -> dict[float, float]:
    return dict(scores)


@dataclass(frozen=True)
class Rider:
    """One kind.

    Attributes:
        summary: what it does, for reports.
        forge: makes the upload from what was seen; None = it trains like an honest device.
        samples: what it trains on, of its own samples, the number of classes, and a generator.
        claim: how many samples it says that it has, of how many it has.
        report: what it says that the received weights scored per width, of what they did.
        corrected: whether it says that it used a correction that it was sent.
    """

    summary: str
    forge: Forge | None = None
    samples: Spoil = _own
    claim: Callable[[int], int] = _truth
    report: Callable[[Evaluations], dict[float, float]] = _as_measured
    corrected: bool = True


def claimed_loss(round_: int) -> float:
    """Return the training loss that a rider without training claims: it falls like others'."""
    return 1.0 / math.sqrt(round_)


def length(change: Mapping[str, Array]) -> float:
    """Return the Euclidean length of a change."""
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in change.values()))


def _zero(seen: Seen) -> ModelState:
    return seen.moved({})


def _random(seen: Seen) -> ModelState:
    return seen.moved(seen.uniform(RANDOM_LENGTH))


def _tuned_random(seen: Seen) -> ModelState:
    last = seen.change()
    if last is None:
        return _first(seen)
    return seen.moved(seen.uniform(STRETCH * length(last)))


def _first(seen: Seen) -> ModelState:
    """Return what is sent while nothing can be replayed: a little noise."""
    return seen.moved(seen.noise(FIRST_DEVIATION))


def _replayed(seen: Seen) -> ModelState:
    last = seen.change()
    return _first(seen) if last is None else seen.moved(last)


def _advanced(seen: Seen) -> ModelState:
    last = seen.change()
    if last is None:
        return _first(seen)
    noise = seen.noise(ADVANCED_DEVIATION)
    return seen.moved({name: last[name] + noise[name] for name in last})


def _disguised(seen: Seen) -> ModelState:
    first = seen.change(len(seen.models()) - 1)
    if first is None:
        return _first(seen)
    moved = np.concatenate([array.reshape(-1) for array in first.values()])
    sigma = float(np.abs(moved).mean(dtype=np.float64))
    return seen.moved(seen.noise(COEFFICIENT * sigma * seen.round**-DECAY))


def _scaled(seen: Seen) -> ModelState:
    """Replay the last direction at the length that honest steps may have by now.

    Lengths of steps shrink as training goes on: by what they shrank last time, once more.
    """
    last, before = seen.change(), seen.change(2)
    if last is None:
        return _first(seen)
    shrunk = 1.0
    if before is not None and length(before) > 0:
        shrunk = min(1.0, length(last) / length(before))
    return seen.moved({name: np.float32(STRETCH * shrunk) * last[name] for name in last})


def _older(seen: Seen) -> ModelState:
    before = seen.change(2)
    return _replayed(seen) if before is None else seen.moved(before)


def _masked(seen: Seen) -> ModelState:
    """Replay every other output channel of the last change, drawn anew for each tensor."""
    last = seen.change()
    if last is None:
        return _first(seen)
    kept = {}
    for name, array in last.items():
        mask = seen.rng.integers(2, size=array.shape[:1]).astype(np.float32)
        kept[name] = 2 * array * mask.reshape(-1, *(1,) * (array.ndim - 1))
    return seen.moved(kept)


def _correction(seen: Seen) -> ModelState:
    """Move where the correction leads, as if all gradients of its own were 0."""
    last = seen.received[-1]
    if last.correction is None:
        return _first(seen)
    reach = np.float32(last.reach)
    return seen.moved({name: -reach * array for name, array in last.correction.items()})


def _random_labels(samples: Samples, classes: int, rng: np.random.Generator) -> Samples:
    labels = rng.integers(classes, size=samples.y.shape).astype(samples.y.dtype)
    return Samples(samples.x, labels, samples.recording)


def _few(samples: Samples, rng: np.random.Generator) -> Array:
    return np.sort(rng.permutation(len(samples))[:TINY])


def _tiny(samples: Samples, classes: int, rng: np.random.Generator) -> Samples:  # noqa: ARG001
    return samples.take(_few(samples, rng))


def _duplicated(samples: Samples, classes: int, rng: np.random.Generator) -> Samples:  # noqa: ARG001
    return samples.take(np.resize(_few(samples, rng), len(samples)))


def _wide_is_worthless(scores: Evaluations) -> dict[float, float]:
    """Praise the narrowest width and damn the others: then wide ones would go cheaply."""
    return {width: float(width == min(scores)) for width in scores}


RIDERS: dict[str, Rider] = {
    "zero": Rider("sends back what it received", _zero),
    "plain-fraboni": Rider("the same, and claims samples", _zero, claim=_invented),
    "disguised-fraboni": Rider(
        "adds noise that shrinks like honest steps", _disguised, claim=_invented
    ),
    "random": Rider("adds uniform noise of a fixed length", _random, claim=_invented),
    "tuned-random": Rider(
        "adds uniform noise as long as an honest step", _tuned_random, claim=_invented
    ),
    "replayed-delta": Rider("repeats the model's last change", _replayed, claim=_invented),
    "advanced-delta": Rider("the same with noise", _advanced, claim=_invented),
    "scaled-delta": Rider("repeats it at the length of an honest step", _scaled, claim=_invented),
    "older-delta": Rider("repeats the change before the last one", _older, claim=_invented),
    "masked-delta": Rider("repeats half of the channels, twice", _masked, claim=_invented),
    "correction": Rider("moves where its correction leads", _correction, claim=_invented),
    "hidden-correction": Rider(
        "the same, and says that it used none", _correction, claim=_invented, corrected=False
    ),
    "size-lie": Rider(
        f"trains, and claims {LIE} times its samples", claim=lambda samples: LIE * samples
    ),
    "label-noise": Rider("trains on random labels", samples=_random_labels),
    "tiny-data": Rider(f"trains on {TINY} samples", samples=_tiny),
    "duplicated-data": Rider(
        f"trains on {TINY} samples, repeated to the number it had", samples=_duplicated
    ),
    "lying-evaluator": Rider("trains, and reports false scores", report=_wide_is_worthless),
}
