"""Average changes of different widths, coordinate by coordinate. numpy only, pure.

Each coordinate of the full model moves by the weighted mean of the changes of those devices whose
slice holds it; coordinates that nobody held keep their value (HeteroFL, Diao et al., ICLR 2021,
section 3).
"""

from collections.abc import Sequence

import numpy as np

from coordinator.aggregation.changes import Change
from coordinator.aggregation.steps import Step
from slimmable.slicing import coverage
from slimmable.spec import WidthSpec


def partial_average(spec: WidthSpec, changes: Sequence[Change]) -> list[Step]:
    """Return each device's step: its change times its share of the weight on each coordinate."""
    total = {name: np.zeros(spec.shape(name, 1.0), np.float64) for name in spec.parameters}
    for one in changes:
        for name in spec.parameters:
            total[name][coverage(spec, name, *one.place)] += one.weight
    return [
        Step(
            one.device,
            one.width,
            {
                name: (
                    one.change[name] * (one.weight / total[name][coverage(spec, name, *one.place)])
                ).astype(np.float32)
                for name in spec.parameters
            },
            one.window,
        )
        for one in changes
    ]
