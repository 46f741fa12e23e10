"""What the coordinator must be doing, derived from its state alone. Pure.

Everything it says is retained state: `publications` gives what must stand on the broker now, and
the shell publishes the differences. After a crash the same state gives the same publications, so
nothing has to be remembered about what was already said.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from broker import messages as m
from broker.topics import (
    DownTopic,
    ResultTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    Topic,
)
from coordinator.capacity import deployed_width, granted_width
from coordinator.entitlement import training_width
from coordinator.fleet import (
    POST_TRAINING_NOTICE,
    TRAINING_TIME_NOTICE,
    Campaign,
    Device,
    Phase,
    answered_deployment,
    confirmed,
)
from coordinator.inputs import brief
from coordinator.rounds import PRESENT
from coordinator.settings import Settings

SUMMARY_LIMIT = 90  # lines; with the longest names, so many stay below the control limit


@dataclass(frozen=True)
class Share:
    """A blob that several devices may open.

    Attributes:
        reference: of the ciphertext.
        key: opens it; derived from the fleet secret, never stored.
    """

    reference: m.BlobReference
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class SharedWeights:
    """The weights of one width in the open round must be on the broker."""

    round: int
    width: float
    base: str


@dataclass(frozen=True)
class SharedRelease:
    """An ONNX file must be on the broker."""

    digest: str


Shared = SharedWeights | SharedRelease
Sign = Callable[[msgspec.Struct, str], m.SignedEnvelope]


@dataclass(frozen=True)
class Initialise:
    """Job: make the initial weights."""


@dataclass(frozen=True)
class Score:
    """Job: aggregate and measure the closed round."""

    round: int


@dataclass(frozen=True)
class Assess:
    """Job: measure what each device trained alone in the closed assessment round."""

    round: int


@dataclass(frozen=True)
class Export:
    """Job: export these widths of the current weights."""

    widths: tuple[float, ...]


Job = Initialise | Score | Assess | Export


def job(state: Campaign) -> Job | None:
    """Return the slow work that is due, if any."""
    match state.phase:
        case Phase.INITIALISING:
            return Initialise()
        case Phase.SCORING:
            assert state.round is not None
            number = state.round.number
            return Assess(number) if state.round.opened.assessment else Score(number)
        case Phase.EXPORTING:
            assert state.settings is not None
            if not state.measured_round:
                return Export(())  # nobody is given a model that was never trained
            devices = state.devices.values()
            due = {deployed_width(state, device, state.settings)[0] for device in devices}
            return Export(tuple(sorted(due - {0.0})))
    return None


def needed_blobs(state: Campaign) -> set[str]:
    """Return the digests in the blob folder that may still be read; all others can go.

    That is the weights in use, those to compare with, the updates of a round that is not measured
    yet, and the ONNX files that some device shall run or may be sent back to.
    """
    needed = {
        state.weights,
        state.best,
        state.measured,
        state.released_weights,
        *state.releases,
        *state.earlier,
    }
    current = state.round
    if current:
        needed.add(current.opened.base)
        if not current.scored:
            needed |= {task.update.digest for task in current.tasks.values() if task.update}
    return needed - {""}


def shared(state: Campaign) -> set[Shared]:
    """Return the blobs that must be on the broker now."""
    wanted: set[Shared] = set()
    current = state.round
    if current and current.closed is None:
        wanted |= {
            SharedWeights(current.number, width, current.opened.base)
            for width, devices in current.waiting.items()
            if devices
        }
    for device in state.devices.values() if state.releases else ():
        deployed = device.deployed
        if deployed and deployed.digest and not answered_deployment(device):
            wanted.add(SharedRelease(deployed.digest))
    return wanted


def publications(
    state: Campaign, shares: Mapping[Shared, Share], sign: Sign
) -> dict[Topic, m.Message | None]:
    """Return what must stand retained on each topic; None means that the topic must be empty.

    Args:
        state: of the campaign.
        shares: the blobs that are on the broker; a task or deployment whose blob is not there
            yet is left out.
        sign: signs releases and deployments (Ed25519: equal documents, equal signatures).
    """
    settings = state.settings
    if settings is None:
        return {}
    wanted: dict[Topic, m.Message | None] = {
        ServerTopic(ServerTells.STATE): _server_state(state, settings),
        ServerTopic(ServerTells.SUMMARY): summary(state, settings),
    }
    for device in state.devices:
        wanted |= device_publications(state, device, shares, sign)
    for operator, acted in state.last_commands.items():
        wanted[ResultTopic(operator)] = m.CommandResult(
            command_id=acted.command_id, done=acted.done, detail=acted.detail
        )
    return wanted


def device_publications(
    state: Campaign, name: str, shares: Mapping[Shared, Share], sign: Sign
) -> dict[Topic, m.Message | None]:
    """Return what of `publications` is for one device."""
    device, settings = state.devices.get(name), state.settings
    if device is None or settings is None:
        return {}
    wanted: dict[Topic, m.Message | None] = {
        DownTopic(name, ServerSays.STANDING): _standing(state, device, settings)
    }
    if device.receipt:
        wanted[DownTopic(name, ServerSays.RECEIPT)] = _receipt(device)
    wanted[DownTopic(name, ServerSays.TASK)] = _task(state, device, settings, shares)
    order = _order(state, device, settings, shares, sign)
    if order:
        wanted[DownTopic(name, ServerSays.DEPLOYMENT)] = order
    return wanted


def _server_state(state: Campaign, settings: Settings) -> m.ServerState:
    return m.ServerState(
        status=m.LinkStatus.ONLINE,
        model=settings.model,
        options=settings.options,
        spec_hash=state.spec_hash,
        widths=settings.widths,
        batch_size=settings.training.batch_size,
        heartbeat_s=settings.presence.heartbeat_s,
        block_size=settings.block_size,
        notice=TRAINING_TIME_NOTICE
        if settings.rewards.mode == "training-time"
        else POST_TRAINING_NOTICE,
    )


def summary(state: Campaign, settings: Settings) -> m.Summary:
    """Return how the whole fleet is doing."""
    devices = sorted(state.devices.values(), key=lambda device: device.device)
    return m.Summary(
        phase=state.phase,
        detail=brief(phase_detail(state)),
        round=round_of_budget(state),
        rounds=settings.rounds.budget,
        score=state.scored.curve[-1].score if state.scored and state.scored.curve else None,
        online=sum(device.link in PRESENT for device in devices),
        devices=tuple(
            m.DeviceSummary(
                device=device.device,
                link=device.link,
                participation=participation(device)[0],
                training_width=training_width(state, device, settings)[0],
                running_width=device.report.width if device.report else 0.0,
            )
            for device in devices[:SUMMARY_LIMIT]
        ),
        more=max(0, len(devices) - SUMMARY_LIMIT),
    )


def round_of_budget(state: Campaign) -> int:
    """Return which of the planned rounds this is; an assessment and a missed round are none.

    A repeated round keeps its place here, while its number, by which journal and devices know it,
    goes on.
    """
    current = state.round
    counts = current is not None and not (current.scored or current.opened.assessment)
    return state.trained_rounds + counts


def _round_name(state: Campaign) -> str:
    assert state.round is not None
    place, number = round_of_budget(state), state.round.number
    return f"round {place}" if place == number else f"round {place} (number {number})"


def phase_detail(state: Campaign) -> str:
    """Return in one sentence what the coordinator is doing."""
    current = state.round
    match state.phase:
        case Phase.GATHERING if state.settings and current is None:
            waiting = m.Participation.WAITING
            heard = sum(d.participation is not waiting for d in state.devices.values())
            return f"{heard} of {state.settings.rounds.min_devices} devices said what they can do"
        case Phase.TRAINING if current:
            done = len(current.tasks) - sum(current.waiting.values())
            answered = f"{done} of {len(current.tasks)} devices answered"
            if current.opened.assessment:
                return f"assessment: each device trains alone: {answered}"
            return f"{_round_name(state)}: {answered}"
        case Phase.SCORING if current and current.opened.assessment:
            return "assessment: measuring what each device trained alone"
        case Phase.SCORING if current:
            return f"{_round_name(state)}: measuring the aggregate and contributions"
        case Phase.EXPORTING:
            return f"exporting ONNX files ({state.stopped})"
        case Phase.DELIVERING:
            given = [d for d in state.devices.values() if d.deployed and d.deployed.digest]
            done = sum(confirmed(device) for device in given)
            return f"{done} of {len(given)} devices confirmed their release"
        case Phase.FINISHED:
            return state.withheld or state.stopped
    return ""


def participation(device: Device) -> tuple[m.Participation, str]:
    """Return whether a device takes part, and why, in one sentence."""
    if device.suspended:
        return m.Participation.SUSPENDED, device.suspended
    return device.participation, device.reason


def _standing(state: Campaign, device: Device, settings: Settings) -> m.Standing:
    takes_part, reason = participation(device)
    entitled, entitled_reason = granted_width(device, settings)
    if state.allocation is None and not entitled:
        entitled_reason = "rewards are allocated when training is over"
    trains, training_reason = training_width(state, device, settings)
    deployed = device.deployed
    running = device.report.width if device.report else 0.0
    return m.Standing(
        participation=takes_part,
        reason=brief(reason),
        training_width=trains,
        entitled_width=entitled,
        deployed_width=deployed.width if deployed else 0.0,
        running_width=running,
        width_reasons={
            "training": brief(training_reason),
            "entitled": brief(entitled_reason),
            "deployed": brief(deployed.reason) if deployed else _not_deployed(state, device),
            "running": "confirmed by the device" if confirmed(device) else "not confirmed",
        },
        rounds_taken=device.rounds_taken,
        rounds_missed=device.rounds_missed,
        last_drop=brief(device.last_drop),
        contribution=state.contribution(device.device),
        method=settings.contributions.method,
        confirmed=device.report.running if device.report and confirmed(device) else "",
    )


def _not_deployed(state: Campaign, device: Device) -> str:
    """Return why a device has nothing, where it could have something but for its capacity."""
    assert state.settings is not None
    width, why = deployed_width(state, device, state.settings)
    entitled = granted_width(device, state.settings)[0]
    return brief(why) if entitled and not width else "nothing was deployed yet"


def _receipt(device: Device) -> m.Receipt:
    record = device.receipt
    assert record is not None
    return m.Receipt(
        round=record.round,
        blob=record.blob,
        verdict=record.verdict,
        reason=record.reason,
        detail=brief(record.detail),
    )


def _task(
    state: Campaign, device: Device, settings: Settings, shares: Mapping[Shared, Share]
) -> m.Task | None:
    current = state.round
    if current is None or current.closed is not None:
        return None
    mine = current.tasks.get(device.device)
    if mine is None or mine.answered:
        return None
    share = shares.get(SharedWeights(current.number, mine.task.width, current.opened.base))
    if share is None:
        return None
    return m.Task(
        round=current.number,
        width=mine.task.width,
        model=settings.model,
        options=settings.options,
        spec_hash=state.spec_hash,
        weights=share.reference,
        key=share.key,
        training=current.opened.training,
        budget_s=current.opened.budget_s,
        seed=mine.task.seed,
        evaluate=settings.contributions.evaluator == "devices",
    )


def _order(
    state: Campaign,
    device: Device,
    settings: Settings,
    shares: Mapping[Shared, Share],
    sign: Sign,
) -> m.DeploymentOrder | None:
    deployed = device.deployed
    if deployed is None:
        return None
    document = m.Deployment(
        fleet=settings.fleet,
        device=device.device,
        counter=deployed.counter,
        digest=deployed.digest,
        reason=deployed.reason,
        expires_at=deployed.expires_at,
    )
    envelope = sign(document, "deployment")
    if not deployed.digest:
        return m.DeploymentOrder(deployment=envelope)
    share = shares.get(SharedRelease(deployed.digest))
    release, blob = state.releases[deployed.digest]
    if share is None and not answered_deployment(device):
        return None
    return m.DeploymentOrder(
        deployment=envelope,
        release=sign(release, "release"),
        blob=share.reference if share else blob,
        key=share.key if share else b"",
    )
