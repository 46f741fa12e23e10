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


def _server(**values: Any) -> Settings:
    return _aggregation(server=values)


def _uploads(encoding: str, **values: Any) -> Settings:
    return {"uploads": {"encoding": encoding, **values}}


OURS = "slimfleet"
BOTH = "widest-and-drawn"
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
            **_training(rule=BOTH, distillation=1.0),
        },
    ),
    Method("fedrolex", "Alam et al., NeurIPS 2022", _training(rule="own-width", window="rolling")),
    Method("sheterofl", "as in PracMHBench, 2025", _training(rule="all-widths")),
    Method(OURS, "the defaults", {}),
)
OTHERS = (
    Method(
        "mostly-widest",
        "four of five steps take the own width",
        _training(widest_share=0.8),
    ),
    Method("sandwich", "Yu and Huang, ICCV 2019", _training(rule="sandwich")),
    Method("widest-and-drawn", "FjORD's steps without distillation", _training(rule=BOTH)),
    Method(
        "heterofl-no-scaler",
        "the same without the scaler, which the network has no norms for",
        _training(rule="own-width", masked_loss=True),
        tuned_as="heterofl",
    ),
    Method(
        "heterofl-dynamic",
        "Diao et al., ICLR 2021: the width drawn in each round",
        {
            **_training(rule="own-width", scaler=True, masked_loss=True),
            "width_policy": {"dynamic": True},
        },
    ),
    Method(
        "federated-dropout", "Caldas et al., 2018", _training(rule="own-width", window="random")
    ),
    Method("fedprox", "Li et al., MLSys 2020", _training(proximal=0.01)),
    Method(
        "scaffold",
        "Karimireddy et al., ICML 2020",
        _training(control="scaffold", momentum=0.0),
    ),
    Method("fedavgm", "Hsu et al., 2019", _server(name="fedavgm", momentum=0.5)),
    Method(
        "widest-and-momentum",
        "widest-and-drawn with fedavgm",
        {**_server(name="fedavgm", momentum=0.5), **_training(rule=BOTH)},
    ),
    Method(
        "mostly-widest-momentum",
        "mostly-widest with fedavgm",
        {**_server(name="fedavgm", momentum=0.5), **_training(widest_share=0.8)},
    ),
    Method("fedadam", "Reddi et al., ICLR 2021", _server(name="fedadam", rate=0.01)),
    Method(
        "feddf",
        "Lin et al., NeurIPS 2020",
        _aggregation(distillation={"rule": "feddf"}),
        tuned_as=OURS,
    ),
    Method(
        "fed-et",
        "Cho et al., IJCAI 2022",
        _aggregation(distillation={"rule": "fed-et"}),
        tuned_as=OURS,
    ),
    Method(
        "trimmed-mean", "Yin et al., ICML 2018", _aggregation(rule="trimmed-mean"), tuned_as=OURS
    ),
    Method("median", "Yin et al., ICML 2018", _aggregation(rule="median"), tuned_as=OURS),
    Method("clipped", "Sun et al., 2019", _aggregation(clip=2.0), tuned_as=OURS),
    Method(
        "fedbuff",
        "Nguyen et al., AISTATS 2022",
        {"rounds": {"mode": "buffered", "buffer": 5}},
        tuned_as=OURS,
    ),
    Method("float16", "uploads in half precision", _uploads("float16"), tuned_as=OURS),
    Method("int8", "Alistarh et al., NeurIPS 2017", _uploads("int8"), tuned_as=OURS),
    Method("top-k", "Stich et al., NeurIPS 2018", _uploads("top-k", keep=0.05), tuned_as=OURS),
    Method("adaptive", "an encoding for each link", _uploads("adaptive"), tuned_as=OURS),
)
# Candidates for the defaults: they are run in every case.
CANDIDATES = (
    *("mostly-widest", "widest-and-drawn", "fedavgm", "widest-and-momentum"),
    "mostly-widest-momentum",
)
METHODS = {method.name: method for method in (*NAMED, *OTHERS)}
