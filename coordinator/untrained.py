"""What the initial weights score at every width, measured once a process. Imports torch."""

from dataclasses import dataclass

from coordinator.bench import Bench
from coordinator.bench_loading import load_bench_model, load_validation
from coordinator.measuring import outputs_per_width, sample_values
from slimmable.evaluation import initial_state
from slimmable.state import Array, digest, encode_state


@dataclass(frozen=True)
class Untrained:
    """The initial weights on the validation data.

    Attributes:
        digest: of the encoded weights.
        scores: width -> score of each sample, (N,), at every width of the grid and the ladder.
        values: (N,), see `coordinator.measuring.sample_values`.
    """

    digest: str
    scores: dict[float, Array]
    values: Array


_known: dict[str, Untrained] = {}


def untrained(bench: Bench) -> Untrained:
    """Return what the initial weights of a campaign with validation data score."""
    key = repr(bench)
    if key not in _known:
        model, validation = load_bench_model(bench), load_validation(bench)
        assert validation is not None
        state = initial_state(model, bench.seed)
        widths = sorted({*bench.grid, *bench.ladder})
        said = outputs_per_width(model, state, widths, validation)
        data = validation.samples
        _known.clear()
        _known[key] = Untrained(
            digest(encode_state(state)),
            {width: model.task.sample_scores(said[width], data.y) for width in widths},
            sample_values(model, said, bench.grid, data),
        )
    return _known[key]
