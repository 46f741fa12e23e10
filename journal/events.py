"""Every fact that the coordinator records, as versioned typed structs.

The journal *is* the state: replaying these events rebuilds it, and auditing them explains it.
Rules: an event type keeps its tag and meaning for ever; new fields have defaults; no key, no
password and no raw data ever stands in an event. Digests are SHA-256 in hex, times are the
server's clock in seconds since the epoch, sizes bytes, durations seconds.
"""

from enum import StrEnum
from typing import Any

import msgspec

from broker.messages import (
    BlobReference,
    ContradictionKind,
    DropReason,
    InstallState,
    OperatorAction,
    Participation,
    Profile,
    Release,
    Report,
    Stage,
    TrainingSettings,
    WidthEvaluation,
)
from slimmable.window import PREFIX, Window


class LinkState(StrEnum):
    """Presence of a device as a lease: derived from the server's own receive times."""

    NEVER_SEEN = "never-seen"
    ONLINE = "online"
    LATE = "late"
    OFFLINE = "offline"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """Base of all events. The time of the event stands in its journal record."""


class WidthMemory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The least resident bytes of a process that runs a sub-model of this width."""

    width: float
    inference_bytes: int


class CampaignStarted(Event, frozen=True, kw_only=True, tag="campaign-started"):
    """Training of one model was set up with these settings.

    Attributes:
        settings: the coordinator's settings as plain data, for the auditor and for replay.
        memory: of each reward width, where it is known.
    """

    fleet: str
    model: str
    options: dict[str, Any]
    spec_hash: str
    widths: tuple[float, ...]
    ladder: tuple[float, ...]
    seed: int
    software: str
    settings: dict[str, Any]
    memory: tuple[WidthMemory, ...] = ()


class ServerStarted(Event, frozen=True, kw_only=True, tag="server-started"):
    """The coordinator process started for the ``epoch``-th time; it is the session it sends.

    Attributes:
        signer: id of the public key whose signatures devices must trust from now on.
    """

    epoch: int
    signer: str = ""


class ModelInitialised(Event, frozen=True, kw_only=True, tag="model-initialised"):
    """The weights of round 0 exist.

    Attributes:
        digest: of the full-width state dict in the blob folder.
        score: at full width on the measurement half of the validation data (a_0); 0 where devices
            measure: the first round that they report on tells.
        public: digest of the public inputs in the blob folder, where devices score such.
    """

    digest: str
    score: float
    public: str = ""


class DeviceBorn(Event, frozen=True, kw_only=True, tag="device-born"):
    """A device announced itself (first time, or with a new session)."""

    device: str
    session: int
    agent: str
    can_train: bool
    running: str
    emulated: str = ""


class PresenceChanged(Event, frozen=True, kw_only=True, tag="presence-changed"):
    """The lease of a device changed state."""

    device: str
    state: LinkState
    cause: str


class DeviceProfiled(Event, frozen=True, kw_only=True, tag="device-profiled"):
    """A device reported what it can do."""

    device: str
    profile: Profile


class RoundForecast(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long a round of the campaign takes a device at one training width.

    Attributes:
        predicted_s: of the whole round; step_s: of one step in it.
        size: bytes of the weights in full precision; sent: of an update as it travels. Journals
            from before they were recorded say 0.
        received: bytes that the device fetches, where more travels than the weights, else 0.
        upload: encoding of the updates where it is chosen for each device, else "".
        upload_reason: why, in one sentence.
    """

    width: float
    predicted_s: float
    step_s: float
    size: int = 0
    sent: int = 0
    upload: str = ""
    upload_reason: str = ""
    received: int = 0

    @property
    def moved(self) -> int:
        """Bytes that travel in a round, both ways."""
        return (self.received or self.size) + self.sent


class WidthChosen(Event, frozen=True, kw_only=True, tag="width-chosen"):
    """The width policy decided for a device; width 0 means that it cannot train.

    Attributes:
        predicted_s: predicted round time at that width; predicted_bytes: predicted peak memory.
        reason: one sentence.
        forecasts: for that width and the others that its memory and the operator allow: a device
            trains narrower ones where its entitlement or its pace holds it down. Journals from
            before the pace was followed know none that are wider.
        steps: of a round, where it is too slow for the ordinary ones; 0 = those.
        commanded: an operator's command changed what it may train; what its profile predicts, and
            so its pace, stays what it was.
    """

    device: str
    width: float
    participation: Participation
    reason: str
    predicted_s: float = 0.0
    predicted_bytes: int = 0
    forecasts: tuple[RoundForecast, ...] = ()
    steps: int = 0
    commanded: bool = False


class RoundTask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One device's task in a round. The key of its blob is derived, never stored.

    Attributes:
        steps: of its own; 0 = those of the round's training.
        upload: encoding of its update, where it is chosen for each device, else "".
        reason: what of it was decided for this round, in one sentence, or "".
    """

    device: str
    width: float
    predicted_s: float
    seed: int
    steps: int = 0
    upload: str = ""
    reason: str = ""


class RoundOpened(Event, frozen=True, kw_only=True, tag="round-opened"):
    """A round began.

    Attributes:
        base: digest of the full-width weights it starts from.
        tasks: who was invited, at what width.
        not_invited: device -> why it was not eligible.
        budget_s: time from the opening to the deadline.
        quorum: updates needed.
        assessment: the devices train alone, from the initial weights and at full length; the
            updates are measured one by one and never aggregated.
        not_drawn: who could have taken part, while others were drawn.
        enough: updates with which it closes at once; 0 = all.
        window: which entries of the model its slices hold.
        resting: who could train but for a limit of the moment, which ``not_invited`` names.
        excused: those of them whom the operator's limits keep away: they lose no contribution.
        reason: why the deadline is what it is, where it was chosen, in one sentence.
        late_s: how long after the deadline an update may still come, to count in a later round.
    """

    round: int
    base: str
    tasks: tuple[RoundTask, ...]
    not_invited: dict[str, str]
    budget_s: float
    quorum: int
    training: TrainingSettings
    assessment: bool = False
    not_drawn: tuple[str, ...] = ()
    enough: int = 0
    window: Window = PREFIX
    resting: tuple[str, ...] = ()
    excused: tuple[str, ...] = ()
    reason: str = ""
    late_s: float = 0.0


class RoundsHeld(Event, frozen=True, kw_only=True, tag="rounds-held"):
    """Devices enough could train, and too few of them now: no round opens for the moment.

    Attributes:
        reason: one sentence.
        resting: device -> why not now.
    """

    reason: str
    resting: dict[str, str]


class TaskProgressed(Event, frozen=True, kw_only=True, tag="task-progressed"):
    """A device said how far it is with its task."""

    round: int
    device: str
    stage: Stage
    reason: DropReason | None = None
    detail: str = ""
    downloaded_bytes: int = 0
    download_s: float = 0.0
    train_s: float = 0.0


class UpdateAccepted(Event, frozen=True, kw_only=True, tag="update-accepted"):
    """An update is in the blob folder and will be aggregated.

    Attributes:
        digest: of the update's bytes in the blob folder.
        round_s: from the opening of the round to this commit, by the server's clock.
        evaluations: where devices measure, what the round's base scored on this one's recordings.
        corrected: whether the device says that it corrected its gradients.
    """

    round: int
    device: str
    width: float
    blob: str
    digest: str
    size: int
    samples: int
    steps: int
    loss: float
    download_s: float
    train_s: float
    round_s: float
    evaluations: tuple[WidthEvaluation, ...] = ()
    corrected: bool = False


class UpdateRefused(Event, frozen=True, kw_only=True, tag="update-refused"):
    """An update was not used; the device is told why.

    Attributes:
        size: bytes that it announced, no more than an honest one has.
    """

    round: int
    device: str
    blob: str
    reason: DropReason
    detail: str
    size: int = 0


class DeviceDropped(Event, frozen=True, kw_only=True, tag="device-dropped"):
    """An invited device did not contribute to a round."""

    round: int
    device: str
    reason: DropReason
    detail: str = ""


class LateStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A late update that counts in the aggregate of a later round.

    Attributes:
        round: that it was trained in.
        staleness: how many times the weights have moved since those that it was trained on.
        weight: what its change is multiplied by.
    """

    device: str
    round: int
    staleness: int
    weight: float


class RoundClosed(Event, frozen=True, kw_only=True, tag="round-closed"):
    """No further update counts for the round.

    Attributes:
        aggregated: devices whose updates of this round will be aggregated.
        reason: one sentence.
        late: updates of earlier rounds that will be aggregated with them. Where both are empty the
            quorum was missed.
        owed: devices whose updates have not come, and may still count in a later round.
    """

    round: int
    aggregated: tuple[str, ...]
    reason: str
    late: tuple[LateStep, ...] = ()
    owed: tuple[str, ...] = ()


class BlobShared(Event, frozen=True, kw_only=True, tag="blob-shared"):
    """A blob that several devices may open was published, once for all of them.

    Attributes:
        purpose: "round-7", "correction-7", "release-3" or "public"; width: of the weights or the
            ONNX file.
        size: bytes of its blocks.
        device: that it is for, where it is for one.
    """

    purpose: str
    width: float
    blob: str
    size: int
    device: str = ""


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Measured score of one width with its 95 % bootstrap interval over recordings.

    Attributes:
        offered: False where a narrower width is significantly better (the width is dominated), or
            too few devices trained it.
        fitted: the isotonic fit over the offered widths, which rewards are allocated on.
        why: why it is not offered.
    """

    width: float
    score: float
    low: float
    high: float
    offered: bool
    fitted: float
    why: str = ""


class Contribution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one device was worth in one round, and the update it was computed from.

    Attributes:
        score: in units of the method; update: digest of the update's bytes.
        blocks: the score on each block of the validation recordings, whose mean it is; how much
            they differ says how sure it is. Empty where the method gives none.
        known: share of the update (0 to 1, of its squared length) that the server could foresee
            from its own earlier steps, and that nothing was credited for.
        late: digest of its late update, where the score is that of two: then ``update`` is the one
            of the round itself, and ``known`` the average of both.
    """

    device: str
    score: float
    update: str
    blocks: tuple[float, ...] = ()
    known: float = 0.0
    late: str = ""


class Distilled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the server taught the aggregate of a round, by what the devices' networks say.

    Attributes:
        rule: of `coordinator.settings.Distillation`; teachers: how many networks were heard.
        left_out: devices whose network said NaN or infinity.
        steps: that the new weights were taught; 0 = none did them good, or could be taken.
        loss_before, loss_after: on the recordings set aside, over the grid; None without any.
        trouble: why it ended early, where something went wrong.
    """

    rule: str
    teachers: int
    steps: int
    left_out: tuple[str, ...] = ()
    loss_before: float | None = None
    loss_after: float | None = None
    trouble: str = ""


class ControlVariates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of gradients after a round, as digests in the blob folder.

    Attributes:
        fleet: of everybody; devices: of each device of the round.
    """

    fleet: str
    devices: dict[str, str]


class RoundScored(Event, frozen=True, kw_only=True, tag="round-scored"):
    """The aggregate of a round, measured.

    Attributes:
        digest: of the new full-width state dict.
        curve: score over width, training grid and reward ladder.
        method: name of the contribution estimator; value_before, value_after: of the game.
        coalitions: how many were evaluated; seconds: CPU time of scoring.
        better: whether the round improved significantly on the best round so far
            (paired bootstrap over recordings).
        measured: digest of the weights that the curve describes, where devices measure: those that
            the round started from, or the last that any device reported on. "" = the new ones.
        optimiser: digest of what the server's optimiser remembers, or "".
        distilled: what the server taught the aggregate, where it did. Contributions and values are
            from before that; the curve and ``digest`` are of the result.
        variates: control variates after the round, where gradients are corrected.
    """

    round: int
    digest: str
    curve: tuple[CurvePoint, ...]
    contributions: tuple[Contribution, ...]
    method: str
    value_before: float
    value_after: float
    coalitions: int
    seconds: float
    better: bool
    measured: str = ""
    optimiser: str = ""
    distilled: Distilled | None = None
    variates: ControlVariates | None = None


class AloneScore(msgspec.Struct, frozen=True, kw_only=True):
    """What one device's own model scored, with its 95 % bootstrap interval over recordings.

    Attributes:
        width: of the model that the device trained alone; update: digest of its bytes.
        blocks: the score in blocks of recordings, (B,), whose mean it is; the blocks are the same
            for all devices. Empty in journals from before they were recorded.
    """

    device: str
    width: float
    score: float
    low: float
    high: float
    update: str
    blocks: tuple[float, ...] = ()


class AloneMeasured(Event, frozen=True, kw_only=True, tag="alone-measured"):
    """The stand-alone models of an assessment round were measured; the weights stay as they were.

    Attributes:
        seconds: CPU time of measuring.
    """

    round: int
    scores: tuple[AloneScore, ...]
    seconds: float


class EntitlementsRevised(Event, frozen=True, kw_only=True, tag="entitlements-revised"):
    """While training goes on: no device trains a wider width than it is entitled to now.

    Attributes:
        rule, note, rewards: as in `RewardsAllocated`.
        widths: device -> widest training width it may hold from now on.
    """

    round: int
    rule: str
    note: str
    rewards: tuple["Reward", ...]
    widths: dict[str, float]


class TrainingStopped(Event, frozen=True, kw_only=True, tag="training-stopped"):
    """No further round opens: plateau, budget, or too many failed rounds."""

    round: int
    reason: str


class ReleaseDue(Event, frozen=True, kw_only=True, tag="release-due"):
    """Training goes on, but devices shall get what was reached so far."""

    round: int
    reason: str


class Reward(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one device earned.

    Attributes:
        contribution: accumulated score; share: multiple of the average of
            the contributions above 0.
        value: contribution in score units (c_i); target: score that the rule grants (r_i).
        width: reward width, 0 below the cut-off; score: measured score of that width.
        reason: one sentence.
        low, high: 95 % interval of the contribution; equal to it where the method gives none.
        equals: devices whose contribution does not differ significantly, at most the 16 nearest in
            rank; all get one width.
        alone: score of the device's own model where it was measured, else None.
    """

    device: str
    contribution: float
    share: float
    value: float
    target: float
    width: float
    score: float
    reason: str
    low: float = 0.0
    high: float = 0.0
    equals: tuple[str, ...] = ()
    alone: float | None = None


class RewardsAllocated(Event, frozen=True, kw_only=True, tag="rewards-allocated"):
    """Reward widths follow from contributions.

    Attributes:
        rule: the name of the rule that was applied, see `coordinator.rewards`.
        note: why the rule was changed, where it was.
    """

    round: int
    rule: str
    note: str
    rewards: tuple[Reward, ...]


class ReleaseBuilt(Event, frozen=True, kw_only=True, tag="release-built"):
    """One ONNX file passed its parity check and stands in the blob folder.

    Attributes:
        release: the document that is signed (signatures are deterministic and made when sent).
        blob: the encrypted form that is shared.
    """

    release: Release
    blob: BlobReference


class ReleaseWithheld(Event, frozen=True, kw_only=True, tag="release-withheld"):
    """New weights were not released, with the reason."""

    round: int
    reason: str


class DeploymentIssued(Event, frozen=True, kw_only=True, tag="deployment-issued"):
    """A device shall run a release; digest "" takes its model away.

    Attributes:
        commanded: it follows from an operator's command, to go back or forward, not from an export.
    """

    device: str
    counter: int
    digest: str
    width: float
    reason: str
    expires_at: float
    commanded: bool = False


class InstallReported(Event, frozen=True, kw_only=True, tag="install-reported"):
    """A device said what it really runs."""

    device: str
    state: InstallState
    report: Report


class OperatorActed(Event, frozen=True, kw_only=True, tag="operator-acted"):
    """An operator's command was carried out (or refused, with the detail).

    Attributes:
        operator: user name at the broker.
        on_behalf_of: the person for whom the operator's tool asked, or "".
        reason: in the operator's words; of a note, what it says.
        width: of "cap-width": the widest that the device may train; 0 = any.
    """

    operator: str
    command_id: str
    action: OperatorAction
    device: str
    reason: str
    done: bool
    detail: str = ""
    width: float = 0.0
    on_behalf_of: str = ""

    @property
    def author(self) -> str:
        """Who asked, as in "anna", or "anna via monitor"."""
        return f"{self.on_behalf_of} via {self.operator}" if self.on_behalf_of else self.operator

    @property
    def by_whom(self) -> str:
        """By whom and why, as in "by anna via monitor: too hot"."""
        return f"by {self.author}: {self.reason or 'no reason given'}"


class ContradictionReported(Event, frozen=True, kw_only=True, tag="contradiction-reported"):
    """A device holds two checkpoints that cannot both be of a journal that only grew.

    Attributes:
        kept_size, kept_root: the checkpoint that it kept, root in hex; seen_size, seen_root: the
            later one, which denies it.
        proven: whether both carry this server's signature and do contradict each other; else it is
            the device's word.
    """

    device: str
    kind: ContradictionKind
    kept_size: int
    kept_root: str
    seen_size: int
    seen_root: str
    proven: bool


class ContradictionSettled(Event, frozen=True, kw_only=True, tag="contradiction-settled"):
    """A device reports its contradiction no more.

    Attributes:
        reason: what the operator wrote who accepted it on the device; "" where nobody did: the
            device has lost what it kept.
    """

    device: str
    reason: str


class MessageRefused(Event, frozen=True, kw_only=True, tag="message-refused"):
    """Somebody sent a message that is not acceptable, for example with a forged device id."""

    sender: str
    channel: str
    reason: str


class WorkFailed(Event, frozen=True, kw_only=True, tag="work-failed"):
    """A job of the coordinator's worker failed; it is tried again up to a limit."""

    job: str
    detail: str


class CampaignFinished(Event, frozen=True, kw_only=True, tag="campaign-finished"):
    """Training is over and every deployment was answered or timed out."""

    detail: str


AnyEvent = (
    CampaignStarted
    | ServerStarted
    | ModelInitialised
    | DeviceBorn
    | PresenceChanged
    | DeviceProfiled
    | WidthChosen
    | RoundOpened
    | RoundsHeld
    | TaskProgressed
    | UpdateAccepted
    | UpdateRefused
    | DeviceDropped
    | RoundClosed
    | BlobShared
    | RoundScored
    | AloneMeasured
    | EntitlementsRevised
    | TrainingStopped
    | ReleaseDue
    | RewardsAllocated
    | ReleaseBuilt
    | ReleaseWithheld
    | DeploymentIssued
    | InstallReported
    | OperatorActed
    | ContradictionReported
    | ContradictionSettled
    | MessageRefused
    | WorkFailed
    | CampaignFinished
)
