"""What a metric is: a name, a kind, labels, and how its values are found in the view. Pure.

Names follow the conventions of Prometheus (prometheus.io/docs/practices/naming): base units in the
name, ``_total`` for what only grows, ``_info`` for text, ``_ratio`` for shares, and the moment of
something instead of the time since then. No label ever holds a round, a release order or anything
else whose number grows with the age of a fleet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from monitor.histogram import Histogram
from monitor.terminal_text import plain

PREFIX = "slimfleet_"
LABEL_LIMIT = 120
Labels = tuple[str, ...]
Values = Mapping[Labels, float]


class Kind(StrEnum):
    """How the values of a metric behave."""

    GAUGE = "gauge"
    COUNTER = "counter"
    INFO = "info"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as it is asked for, with the suffix.
        kind: gauge, counter, info or histogram.
        help: one sentence.
        labels: names of the labels.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels = ()


@dataclass(frozen=True)
class Family:
    """A metric with its values.

    Attributes:
        values: values of the labels -> value; empty for histograms.
        histogram: of durations, for histograms alone.
    """

    metric: Metric
    values: Values
    histogram: Histogram | None = None


def tidy(text: str) -> str:
    """Return text of somebody else as the value of a label: printable and not endless."""
    shown = plain(text)
    return shown if len(shown) <= LABEL_LIMIT else shown[: LABEL_LIMIT - 1] + "…"


def family(metric: Metric, values: Values) -> Family:
    """Return a family without the values that are no finite numbers: devices may say anything."""
    return Family(metric, {at: float(one) for at, one in values.items() if math.isfinite(one)})
