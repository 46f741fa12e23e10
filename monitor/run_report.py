"""What a report of one campaign holds: plain values, whoever they come from."""

from dataclasses import dataclass

from journal.events import CurvePoint


@dataclass(frozen=True)
class DeviceRow:
    """One device in the report.

    Attributes:
        machine: what it is; for an emulated machine the name with "(emulated)".
        predicted_s, observed_s: round time; observed is the median of its rounds, or None.
        training_width: 0 where it cannot train; training_reason: in one sentence.
        rounds_taken, rounds_missed: and missed_why the last reason.
        contribution: accumulated score, None where never invited; share: 1 is the average.
        reward_width: 0 = no release; reward_reason: in one sentence.
        unseen_score: of the delivered model on data nobody trained on, as the device measured it.
        own_score: on the device's own data.
        alone_score: of a model trained on this device's data alone, on the unseen data.
        onnx_bytes, latency_p50_s, latency_p95_s: of the delivered model.
        confirmed: digest that the device confirmed to run, "" where none.
    """

    device: str
    machine: str
    predicted_s: float
    observed_s: float | None
    training_width: float
    training_reason: str
    rounds_taken: int
    rounds_missed: int
    missed_why: str
    contribution: float | None
    share: float | None
    reward_width: float
    reward_reason: str
    unseen_score: float | None = None
    own_score: float | None = None
    alone_score: float | None = None
    onnx_bytes: int = 0
    latency_p50_s: float = 0.0
    latency_p95_s: float = 0.0
    confirmed: str = ""


@dataclass(frozen=True)
class RoundRow:
    """One round in the report.

    Attributes:
        invited, aggregated: how many devices, with late updates too; seconds: opening to closing.
        score: of the full width after the round, None where nothing was aggregated.
        drops: "device: reason" of each device that did not make it.
        shared_bytes: bytes of the shared weight blobs that the server published.
        uploaded_bytes: bytes of the accepted updates.
    """

    number: int
    invited: int
    aggregated: int
    seconds: float
    score: float | None
    drops: tuple[str, ...] = ()
    shared_bytes: int = 0
    uploaded_bytes: int = 0


@dataclass(frozen=True)
class RunReport:
    """Everything that the page shows.

    Attributes:
        title: headline; fleet: name.
        notices: sentences that every reader must see (emulation, reward mode).
        score_name: "accuracy" for classification, else "score".
        devices, rounds, curve: the tables and the picture.
        untrained: score of the initial model on the validation data.
        stopped: why training ended; rule, rule_note: how rewards were allocated.
        method: how contributions were measured.
        seconds: of the whole run.
        grid: the widths that devices train; the curve has reward widths between them too.
    """

    title: str
    fleet: str
    notices: tuple[str, ...]
    score_name: str
    devices: tuple[DeviceRow, ...]
    rounds: tuple[RoundRow, ...]
    curve: tuple[CurvePoint, ...]
    untrained: float
    stopped: str
    rule: str
    rule_note: str
    method: str
    seconds: float
    grid: tuple[float, ...] = ()
