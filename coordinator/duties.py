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
from coordinator.fleet import (
    POST_TRAINING_NOTICE,
    Campaign,
    Device,
    Phase,
    answered_deployment,
    confirmed,
)
from coordinator.inputs import brief
from coordinator.rounds import PRESENT, granted_width
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
class Export:
    """Job: export these widths of the current weights."""

    widths: tuple[float, ...]


Job = Initialise | Score | Export


def job(state: Campaign) -> Job | None:
    """Return the slow work that is due, if any."""
    match state.phase:
        case Phase.INITIALISING:
            return Initialise()
        case Phase.SCORING:
            assert state.round is not None
            return Score(state.round.number)
        case Phase.EXPORTING:
            assert state.settings is not None
            if state.scored is None:
                return Export(())  # nobody is given a model that was never trained
            granted = {granted_width(d, state.settings)[0] for d in state.devices.values()}
            return Export(tuple(sorted(granted - {0.0})))
    return None


def needed_blobs(state: Campaign) -> set[str]:
    """Return the digests in the blob folder that may still be read; all others can go.

    That is the weights in use, those to compare with, the updates of a round that is not scored
    yet, and the ONNX files that some device shall run or may be sent back to.
    """
    needed = {state.weights, state.best, state.released_weights, *state.releases, *state.earlier}
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
            SharedWeights(current.number, task.task.width, current.opened.base)
            for task in current.tasks.values()
            if not task.answered
        }
    for device in state.devices.values():
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
        ServerTopic(ServerTells.SUMMARY): _summary(state, settings),
    }
    for device in state.devices.values():
        wanted[DownTopic(device.device, ServerSays.STANDING)] = _standing(state, device, settings)
        if device.receipt:
            wanted[DownTopic(device.device, ServerSays.RECEIPT)] = _receipt(device)
        task = _task(state, device, settings, shares)
        wanted[DownTopic(device.device, ServerSays.TASK)] = task
        order = _order(state, device, settings, shares, sign)
        if order:
            wanted[DownTopic(device.device, ServerSays.DEPLOYMENT)] = order
    for operator, acted in state.last_commands.items():
        wanted[ResultTopic(operator)] = m.CommandResult(
            command_id=acted.command_id, done=acted.done, detail=acted.detail
        )
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
        notice=POST_TRAINING_NOTICE,
    )


def _summary(state: Campaign, settings: Settings) -> m.Summary:
    devices = sorted(state.devices.values(), key=lambda device: device.device)
    return m.Summary(
        phase=state.phase,
        detail=brief(phase_detail(state)),
        round=state.round.number if state.round else 0,
        rounds=settings.rounds.budget,
        score=state.scored.curve[-1].score if state.scored else None,
        online=sum(device.link in PRESENT for device in devices),
        devices=tuple(
            m.DeviceSummary(
                device=device.device,
                link=device.link,
                participation=participation(device)[0],
                training_width=device.width,
                running_width=device.report.width if device.report else 0.0,
            )
            for device in devices[:SUMMARY_LIMIT]
        ),
        more=max(0, len(devices) - SUMMARY_LIMIT),
    )


def phase_detail(state: Campaign) -> str:
    """Return in one sentence what the coordinator is doing."""
    current = state.round
    match state.phase:
        case Phase.GATHERING if state.settings and current is None:
            waiting = m.Participation.WAITING
            heard = sum(d.participation is not waiting for d in state.devices.values())
            return f"{heard} of {state.settings.rounds.min_devices} devices said what they can do"
        case Phase.TRAINING if current:
            done = sum(task.answered for task in current.tasks.values())
            return f"round {current.number}: {done} of {len(current.tasks)} devices answered"
        case Phase.SCORING if current:
            return f"round {current.number}: measuring the aggregate and contributions"
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
    deployed = device.deployed
    running = device.report.width if device.report else 0.0
    return m.Standing(
        participation=takes_part,
        reason=brief(reason),
        training_width=device.width,
        entitled_width=entitled,
        deployed_width=deployed.width if deployed else 0.0,
        running_width=running,
        width_reasons={
            "training": brief(device.reason),
            "entitled": brief(entitled_reason),
            "deployed": brief(deployed.reason) if deployed else "nothing was deployed yet",
            "running": "confirmed by the device" if confirmed(device) else "not confirmed",
        },
        rounds_taken=device.rounds_taken,
        rounds_missed=device.rounds_missed,
        last_drop=brief(device.last_drop),
        contribution=state.contribution(device.device),
        method=settings.contributions.method,
        confirmed=device.report.running if device.report and confirmed(device) else "",
    )


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
