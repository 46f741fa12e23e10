"""Draw the pictures of the documentation that come from data: ``python docs/make_pictures.py``.

Needs matplotlib (``pip install "slimfleet[monitor]"``).
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from coordinator.contribution.ledger import Total
from coordinator.rewards import Claim, allocate
from coordinator.settings import Rewards
from journal.events import CurvePoint
from slimfleet import watch
from slimmable.models.spec_builder import SpecBuilder
from slimmable.spec import ConcatTerm, ProductTerm, WidthSpec

IMAGES = Path(__file__).parent / "images"
RATE = 50  # samples a second
PERSON = 1
RIGHT_ARM = 1
START_S, SECONDS = 10, 12
EXERCISES = {"PEN": "pendulum", "ABD": "abduction", "ROW": "upright row"}
# Okabe and Ito's colours, which most colour-blind readers can tell apart.
COLOURS = {"ax": "#0072B2", "ay": "#D55E00", "az": "#009E73"}
WIDTHS = (0.25, 0.5, 0.75, 1.0)
# From dark to light, so that they differ in print too.
KEPT_AT = ("#0b3c5d", "#2e86c1", "#85c1e9", "#e3eff8")


def watch_waveforms() -> Figure:
    """Return the acceleration of three exercises of one person, one below the other."""
    figure, rows = plt.subplots(
        len(EXERCISES), sharex=True, sharey=True, figsize=(8, 5), layout="constrained"
    )
    time_s = np.arange(SECONDS * RATE) / RATE
    for row, (name, title) in zip(rows, EXERCISES.items(), strict=True):
        signal = _signal(name)
        for channel, colour in COLOURS.items():
            values = signal[:, watch.SENSORS.index(channel)]
            row.plot(time_s, values, color=colour, linewidth=1, label=channel)
        row.axvspan(2, 2 + watch.WINDOW / RATE, color="#999999", alpha=0.2, linewidth=0)
        row.set_title(f"{name}: {title}", loc="left", fontsize=10)
        row.set_ylabel("acceleration, g")
        row.spines[["top", "right"]].set_visible(False)
    rows[0].legend(loc="upper right", ncols=3, frameon=False, fontsize=9)
    rows[-1].set_xlabel("time, s (grey: one window of 2 s)")
    rows[-1].set_xlim(0, SECONDS)
    return figure


def _signal(exercise: str) -> np.ndarray:
    number = watch.EXERCISES.index(exercise)
    for record in watch.recordings():
        if (record.person, record.exercise, record.side) == (PERSON, number, RIGHT_ARM):
            return record.signal[START_S * RATE : (START_S + SECONDS) * RATE]
    raise LookupError(f"person {PERSON} has no recording of {exercise}")


def kept_entries() -> Figure:
    """Return four weights, each entry coloured by the narrowest width that keeps it."""
    spec, titles = _example_spec()
    figure, row = plt.subplots(1, len(titles), figsize=(11, 4.3), layout="constrained")
    for axes, (name, title) in zip(row, titles.items(), strict=True):
        axes.imshow(
            _narrowest(spec, name),
            cmap=mpl.colors.ListedColormap(KEPT_AT),
            vmin=0,
            vmax=len(WIDTHS) - 1,
            interpolation="nearest",
        )
        axes.set_anchor("N")
        axes.set_title(title, loc="left", fontsize=10)
        rows, columns = spec.shape(name, 1.0)
        axes.set_xlabel(f"{columns} inputs", fontsize=9)
        axes.set_ylabel(f"{rows} outputs", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    squares = [mpl.patches.Patch(color=colour) for colour in KEPT_AT]
    labels = [f"kept from width {width:g} on" for width in WIDTHS]
    figure.legend(squares, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _example_spec() -> tuple[WidthSpec, dict[str, str]]:
    spec = SpecBuilder()
    first, second = spec.scaling(32, 8), spec.scaling(16, 4)
    heads, features = spec.scaling(4), spec.scaling(32, 8)
    spec.tensors = {
        "plain": (first, first),
        "joined": (first, ConcatTerm((second, first))),
        "flattened": (spec.fixed(10), spec.flattened(second, 4)),
        "attention": (ProductTerm((spec.fixed(3), heads, spec.fixed(6))), features),
    }
    titles = {
        "plain": "plain layer\n<32> x <32>",
        "joined": "behind a skip connection\n<32> x (<16> + <32>)",
        "flattened": "classifier behind a flatten\n10 x <16>*4",
        "attention": "query, key and value in one\n3*<4>*6 x <32>",
    }
    return spec.spec(), titles


def _narrowest(spec: WidthSpec, name: str) -> np.ndarray:
    """Return, per entry of a (rows, columns) tensor, which width is the first to keep it."""
    found = np.zeros(spec.shape(name, 1.0), dtype=int)
    for number, width in reversed(list(enumerate(WIDTHS))):
        found[np.ix_(*spec.indices(name, width))] = number
    return found


def reward_rule() -> Figure:
    """Return the allocation of one made-up fleet: what widths score, what devices are worth."""
    ladder = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    scored = (0.55, 0.63, 0.68, 0.72, 0.77, 0.80, 0.82, 0.835, 0.845, 0.85)
    curve = [
        CurvePoint(width=w, score=s, low=s, high=s, offered=True, fitted=s)
        for w, s in zip(ladder, scored, strict=True)
    ]
    alone = {"A": 0.76, "B": 0.71, "C": 0.70, "D": 0.62, "rider": 0.60}
    worth = {"A": 1.5, "B": 1.2, "C": 1.15, "D": 0.9, "rider": 0.0}
    claims = [Claim(name, Total(worth[name]), alone[name]) for name in worth]
    rewards = {
        one.device: one for one in allocate(claims, curve, Rewards(ladder=ladder), 0.1).rewards
    }
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(9.5, 4.2), layout="constrained", width_ratios=(3, 2)
    )
    left.step(ladder, scored, where="post", color="#999999", linewidth=1)
    left.plot(ladder, scored, "o", color="#0b3c5d", markersize=5)
    left.set_xlabel("width")
    left.set_ylabel("score")
    left.set_title("what each width scores", loc="left", fontsize=10)
    for place, (name, reward) in enumerate(rewards.items()):
        right.plot([place], [alone[name]], "o", color="#D55E00", markersize=6)
        if not reward.width:
            right.text(place, alone[name] + 0.012, "no release", ha="center", fontsize=9)
            continue
        right.annotate(
            "",
            (place, reward.score),
            (place, alone[name]),
            arrowprops={"arrowstyle": "->", "color": "#0b3c5d"},
        )
        right.text(place, reward.score + 0.008, f"width {reward.width:g}", ha="center", fontsize=9)
        left.axhline(reward.score, color="#85c1e9", linewidth=0.8, zorder=0)
    right.set_xticks(range(len(rewards)), list(rewards))
    right.set_title("alone (dot) and rewarded (arrow): equal gains", loc="left", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    right.set_xlim(-0.6, len(rewards) - 0.4)
    right.set_ylim(0.5, 0.89)
    return figure


def main() -> None:
    """Write all pictures."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "slimfleet"
    IMAGES.mkdir(exist_ok=True)
    # Without the date, the same data gives the same file.
    watch_waveforms().savefig(IMAGES / "watch-waveforms.png", dpi=110, metadata={"Software": None})
    reward_rule().savefig(IMAGES / "reward-rule.svg", metadata={"Date": None, "Creator": None})
    kept_entries().savefig(IMAGES / "kept-entries.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
