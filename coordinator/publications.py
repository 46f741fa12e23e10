"""What must stand retained on every topic, derived from the state alone. Pure.

`publications` gives what must stand on the broker now, and the shell publishes the differences.
After a crash the same state gives the same publications, so nothing has to be remembered about what
was already said.
"""

from collections.abc import Callable, Mapping

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
from coordinator.duties import (
    Share,
    Shared,
    SharedPublic,
    SharedRelease,
    SharedWeights,
    correction_due,
)
from coordinator.entitlement import training_width
from coordinator.fleet import (
    OWN_NETWORKS,
    POST_TRAINING_NOTICE,
    TRAINING_TIME_NOTICE,
    Campaign,
    Device,
    answered_deployment,
    confirmed,
)
from coordinator.fleet_summary import participation_now, summary
from coordinator.inputs import brief
from coordinator.settings import Settings
from coordinator.training_cap import training_cap
from journal.events import RoundOpened, RoundTask
from slimmable.update_codec import UpdateEncoding

Sign = Callable[[msgspec.Struct, str], m.SignedEnvelope]


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
    if device.retired:  # nothing is wanted of it; its standing tells why, should it appear again
        said = [channel for channel in ServerSays if channel is not ServerSays.STANDING]
        return wanted | {DownTopic(name, channel): None for channel in said}
    if device.receipt:
        wanted[DownTopic(name, ServerSays.RECEIPT)] = _receipt(device)
    wanted[DownTopic(name, ServerSays.TASK)] = _task(state, device, settings, shares)
    if device.request:
        asked = m.ProfileRequest(request=device.request) if device.requested else None
        wanted[DownTopic(name, ServerSays.PROFILE_REQUEST)] = asked
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
        notice=_notice(settings),
        exchange=settings.exchange,
    )


def _notice(settings: Settings) -> str:
    if settings.keeps_own:
        return OWN_NETWORKS
    training_time = settings.rewards.mode == "training-time"
    return TRAINING_TIME_NOTICE if training_time else POST_TRAINING_NOTICE


def _standing(state: Campaign, device: Device, settings: Settings) -> m.Standing:
    takes_part, reason = participation_now(state, device)
    entitled, entitled_reason = granted_width(device, settings)
    if state.allocation is None and not entitled:
        entitled_reason = "rewards are allocated when training is over"
    trains, training_reason = training_width(state, device, settings)
    current = state.round
    task = current.tasks.get(device.device) if current and not current.closed else None
    if task and task.task.width < trains and task.task.reason:  # in this round alone
        trains, training_reason = task.task.width, task.task.reason
    deployed = device.deployed
    running = device.report.width if device.report else 0.0
    local = max(device.local, key=lambda one: one.width) if device.local else None
    own = local if settings.keeps_own else None
    cap = training_cap(device, settings)
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
            **({"cap": brief(cap.reason)} if cap else {}),
        },
        rounds_taken=device.rounds_taken,
        rounds_missed=device.rounds_missed,
        last_drop=brief(device.last_drop),
        contribution=state.contribution(device.device),
        method=settings.contributions.method if settings.exchange == "weights" else "none",
        confirmed=device.report.running if device.report and confirmed(device) else "",
        local_score=own.score if own else None,
        local_samples=own.samples if own else 0,
        training_cap=cap.width if cap else 0.0,
        retired=bool(device.retired),
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
    current, owed = state.round, state.owed.get(device.device)
    if owed:
        opened, mine = owed.opened, owed.task
    elif current and current.closed is None and device.device in current.tasks:
        opened, mine = current.opened, current.tasks[device.device]
    else:
        return None
    weights = SharedWeights(opened.round, mine.task.width, opened.base, opened.window)
    share = shares.get(weights)
    if mine.answered or share is None:
        return None
    correction = None
    if due := correction_due(state, mine):
        correction = shares.get(due)
        if correction is None:
            return None
    public = shares.get(SharedPublic(state.public)) if state.public else None
    if state.public and public is None:
        return None
    return m.Task(
        round=opened.round,
        width=mine.task.width,
        model=settings.model,
        options=settings.options,
        spec_hash=state.spec_hash,
        weights=share.reference,
        key=share.key,
        training=_training(opened, mine.task),
        budget_s=opened.budget_s + opened.late_s,
        seed=mine.task.seed,
        evaluate=settings.contributions.evaluator == "devices",
        # An assessment measures what a device trained, not how it travels.
        upload=_upload(opened, mine.task, settings),
        upload_keep=settings.uploads.keep,
        correction=correction.reference if correction else None,
        correction_key=correction.key if correction else b"",
        start_seed=settings.seed if settings.keeps_own else 0,
        payload="state-dict" if settings.exchange == "weights" else settings.exchange,
        knowledge_weight=0.0 if settings.exchange == "weights" else settings.knowledge.weight,
        public=public.reference if public else None,
        public_key=public.key if public else b"",
        digest_steps=settings.digest_steps,
    )


def _upload(opened: RoundOpened, task: RoundTask, settings: Settings) -> str:
    # An assessment measures what a device trained, not how it travels.
    if opened.assessment:
        return UpdateEncoding.FLOAT32
    adaptive = settings.uploads.encoding == "adaptive"
    return task.upload or (UpdateEncoding.FLOAT32 if adaptive else settings.uploads.encoding)


def _training(opened: RoundOpened, task: RoundTask) -> m.TrainingSettings:
    ordinary = opened.training
    steps = task.steps or ordinary.steps
    first = round(ordinary.private_steps * steps / ordinary.steps)
    return msgspec.structs.replace(ordinary, steps=steps, private_steps=min(first, steps - 1))


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
