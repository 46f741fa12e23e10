"""Allocate Aequa's rewards anew in a finished cell: the rule may change, the training stays."""

from collections.abc import Mapping
from typing import Any

import msgspec

from benchmarks.cell_runner import commit
from benchmarks.fairness.data import TASKS
from benchmarks.fairness.methods import aequa
from slimmable.model import load_model


def reallocated(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's result with the rewards that today's rule gives after the same training.

    Rewards in training are left as they are: they shape the training that they follow from.

    Args:
        cell: a result file; as it is where Aequa's training diverged.
    """
    if "standing" not in cell:
        return dict(cell)
    task = TASKS[cell["cell"]["data"]]
    standing = msgspec.convert(cell["standing"], aequa.Standing)
    alone = msgspec.convert(cell["alone"], list[aequa.Alone])
    test = {point["width"]: point["test"] for point in cell["curve"]}
    spec = load_model(task.model, dict(task.options)).spec
    methods = dict(cell["methods"])
    # What the weights are does not matter: what each width of them scores is known.
    for name, rewards in aequa.post_training(standing, alone, spec, {}).items():
        methods[name] = methods.get(name, {"cpu_s": methods["aequa"]["cpu_s"]}) | {
            "reward": [test[width] if width else None for width in rewards.widths],
            "width": list(rewards.widths),
            "sent": rewards.sent,
            "received": rewards.received,
            "published": rewards.published,
            "notes": rewards.notes,
        }
    return {**cell, "rewarded_by": commit(), "methods": methods}
