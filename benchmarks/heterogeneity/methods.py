"""The methods that are compared: each is a set of settings, named by its paper.

All run on the same coordinator and agents, with the same data, network, batches a step, passes over
the own data, wire encoding and deadline. What differs stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: as in the tables.
        source: the paper.
        settings: of the campaign, over those that all share.
        widths: "grid": each device the widest that it can; "full": the full width or nothing;
            "narrowest": the narrowest for everybody.
        tuned_as: the method whose learning rate it takes; "" = one of its own.
    """

    name: str
    source: str
    settings: Settings
    widths: str = "grid"
    tuned_as: str = ""


def _training(**values: Any) -> Settings:
    return {"training": values}


def _aggregation(**values: Any) -> Settings:
    return {"aggregation": values}


OURS = "slimfleet"
REFERENCE = "heterofl"
NAMED = (
    Method("fedavg", "McMahan et al., AISTATS 2017", {"weighting": "samples"}, "full"),
    Method(
        "fedavg-narrow",
        "the same, at the width that all can",
        {"weighting": "samples", **_training(rule="own-width")},
        "narrowest",
    ),
    Method(
        "heterofl",
        "Diao et al., ICLR 2021: static, scaler, masked cross-entropy",
        _training(rule="own-width", scaler=True, masked_loss=True),
    ),
    Method("fjord", "Horvath et al., NeurIPS 2021", {"weighting": "samples"}),
    Method(
        "fjord-kd",
        "the same with self-distillation",
        {
            "weighting": "samples",
            **_training(rule="widest-and-drawn", distillation=1.0),
        },
    ),
    Method("fedrolex", "Alam et al., NeurIPS 2022", _training(rule="own-width", window="rolling")),
    Method("sheterofl", "as in PracMHBench, 2025", _training(rule="all-widths")),
    Method(OURS, "the defaults", {}),
)
OTHERS = (
    Method("sandwich", "Yu and Huang, ICCV 2019", _training(rule="sandwich")),
    Method(
        "widest-and-drawn",
        "FjORD's steps, without distillation",
        _training(rule="widest-and-drawn"),
    ),
    Method(
        "federated-dropout",
        "Caldas et al., 2018",
        _training(rule="own-width", window="random"),
        tuned_as="fedrolex",
    ),
)
METHODS = {method.name: method for method in (*NAMED, *OTHERS)}
