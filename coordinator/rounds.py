"""What the coordinator decides: `decide(state, input, now) -> events`. Pure.

Each input is answered with the facts that follow from it; then `_follow_up` asks whether the
campaign moves on by itself (a round opens, closes, training stops, rewards are allocated), until
nothing more follows. What must be *done* is derived from the state in `coordinator.duties`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from broker.blobs import check_reference
from broker.errors import BlobError
from broker.messages import (
    DropReason,
    InstallState,
    OperatorAction,
    Participation,
    Stage,
    Update,
    WidthEvaluation,
)
from broker.topics import BLOB
from coordinator import inputs as i
from coordinator.capacity import deployed_width
from coordinator.claims import Claim
from coordinator.entitlement import entitlements, forecast, training_width
from coordinator.fleet import Campaign, Device, Phase, answered_deployment, confirmed, evolve
from coordinator.inputs import brief, is_finite, recordable
from coordinator.reported_curve import NOT_MEASURED, sound_evaluations
from coordinator.reported_round import with_reports, worse_than_in_use
from coordinator.rewards import Allocation, allocate
from coordinator.settings import Settings
from coordinator.width_policy import choose_width
from journal import events as e
from journal.events import LinkState

DAY_S = 86400.0
MIN_BLOCK = 1024
COMMAND_ID_LIMIT = 64
COUNTER_LIMIT = 2**53  # what a device claims may not carry the counter to where no format holds it
PRESENT = (LinkState.ONLINE, LinkState.LATE)


def decide(state: Campaign, given: i.Input, now: float) -> list[e.AnyEvent]:
    """Return every event that follows from ``given`` at server time ``now``, in order."""
    return advance(state, given, now)[0]


def advance(state: Campaign, given: i.Input, now: float) -> tuple[list[e.AnyEvent], Campaign]:
    """Return what `decide` does, and the state after these events."""
    events = _REACTIONS[type(given)](state, given, now)
    for event in events:
        state = evolve(state, event, now)
    while following := _follow_up(state, now):
        events = [*events, *following]
        for event in following:
            state = evolve(state, event, now)
    return events, state


def admit(
    state: Campaign, device: str, update: Update, limit_bytes: int
) -> tuple[DropReason, str] | None:
    """Return why an announced update is refused before its bytes are fetched, or None."""
    current = state.round
    if update.device != device:
        return DropReason.FORGED_ID, f"payload names device {update.device!r}, topic {device!r}"
    if current is None or update.round > current.number:
        return DropReason.WRONG_ROUND, f"round {update.round} has not been opened"
    if update.round < current.number or current.closed is not None:
        return DropReason.LATE, f"round {update.round} is closed"
    task = current.tasks.get(device)
    if task is None:
        return DropReason.WRONG_ROUND, f"not invited to round {update.round}"
    if task.dropped is not None:
        return task.dropped, f"already dropped from round {update.round}: {task.dropped}"
    if update.spec_hash != state.spec_hash:
        return (
            DropReason.WRONG_SPEC,
            f"spec {update.spec_hash[:8]}, expected {state.spec_hash[:8]}",
        )
    if update.width != task.task.width:
        return DropReason.WRONG_WIDTH, f"width {update.width:g}, task {task.task.width:g}"
    if task.update is not None and task.update.blob != update.blob.blob:
        return DropReason.LATE, f"another update was already accepted in round {update.round}"
    if not is_finite((update.loss, update.download_s, update.train_s)):
        return DropReason.NOT_FINITE, f"it reports a loss of {update.loss}"
    try:
        check_reference(update.blob, limit_bytes)
    except BlobError as error:
        return DropReason.BAD_BYTES, str(error)
    if not update.blob.size > 0 or not update.blob.block_size >= MIN_BLOCK:
        return DropReason.BAD_BYTES, f"{update.blob.size} bytes, at most {limit_bytes} make sense"
    if update.payload != "state-dict" or update.encoding != "safetensors-f32":
        payload = f"{update.payload[:32]!r} in {update.encoding[:32]!r}"
        return DropReason.BAD_BYTES, f"unknown payload {payload}"
    return None


# --- reactions to inputs ------------------------------------------------------------------------


def _started(state: Campaign, given: i.Started, now: float) -> list[e.AnyEvent]:
    events: list[e.AnyEvent] = [e.ServerStarted(epoch=state.epoch + 1)]
    if state.settings is None:
        settings = given.settings
        events.append(
            e.CampaignStarted(
                fleet=settings.fleet,
                model=settings.model,
                options=settings.options,
                spec_hash=given.spec_hash,
                widths=settings.widths,
                ladder=settings.rewards.ladder,
                seed=settings.seed,
                software=given.software,
                settings=msgspec.to_builtins(settings),
                memory=given.memory,
            )
        )
    return events


def _born(state: Campaign, given: i.BirthReceived, now: float) -> list[e.AnyEvent]:
    known, birth = state.devices.get(given.device), given.birth
    if known and birth.session <= known.session:
        return []
    return [
        e.DeviceBorn(
            device=given.device,
            session=birth.session,
            agent=birth.agent,
            can_train=birth.can_train,
            running=birth.running,
            emulated=birth.emulated,
        )
    ]


def _lease(state: Campaign, given: i.LeaseChanged, now: float) -> list[e.AnyEvent]:
    return [e.PresenceChanged(device=given.device, state=given.link, cause=given.cause)]


def _profiled(state: Campaign, given: i.ProfileReceived, now: float) -> list[e.AnyEvent]:
    known, profile = state.devices.get(given.device), recordable(given.profile)
    if known and known.profile and _same_profile(known.profile, profile):
        return []
    choice = choose_width(
        profile, _settings(state), state.spec_hash, given.payload_bytes.__getitem__
    )
    return [
        e.DeviceProfiled(device=given.device, profile=profile),
        e.WidthChosen(
            device=given.device,
            width=choice.width,
            participation=choice.participation,
            reason=choice.reason,
            predicted_s=choice.predicted_s,
            predicted_bytes=choice.predicted_bytes,
            forecasts=choice.forecasts,
        ),
    ]


def _same_profile(old: Any, new: Any) -> bool:
    stamp = {"session": 0, "seq": 0, "sent_at": 0.0}
    return bool(msgspec.structs.replace(old, **stamp) == msgspec.structs.replace(new, **stamp))


def _progressed(state: Campaign, given: i.ProgressReceived, now: float) -> list[e.AnyEvent]:
    current, progress = state.round, recordable(given.progress)
    if current is None or progress.round != current.number or current.closed:
        return []
    task = current.tasks.get(given.device)
    if task is None or task.answered or not _later(progress.stage, task.stage):
        return []
    events: list[e.AnyEvent] = [
        e.TaskProgressed(
            round=progress.round,
            device=given.device,
            stage=progress.stage,
            reason=progress.reason,
            detail=progress.detail,
            downloaded_bytes=progress.downloaded_bytes,
            download_s=progress.download_s,
            train_s=progress.train_s,
        )
    ]
    if progress.stage in (Stage.DECLINED, Stage.FAILED):
        fallback = (
            DropReason.DECLINED if progress.stage is Stage.DECLINED else DropReason.TRAINING_FAILED
        )
        events.append(
            e.DeviceDropped(
                round=progress.round,
                device=given.device,
                reason=progress.reason or fallback,
                detail=progress.detail,
            )
        )
    return events


def _later(stage: Stage, than: Stage | None) -> bool:
    order = list(Stage)
    return than is None or order.index(stage) > order.index(than)


def _announced(state: Campaign, given: i.UpdateAnnounced, now: float) -> list[e.AnyEvent]:
    refusal = admit(state, given.device, given.update, given.limit_bytes)
    return _refuse(state, given.device, given.update, refusal) if refusal else []


def _fetched(state: Campaign, given: i.UpdateFetched, now: float) -> list[e.AnyEvent]:
    update, current = given.update, state.round
    refusal = admit(state, given.device, update, given.limit_bytes) or given.fault
    if refusal:
        return _refuse(state, given.device, update, refusal)
    assert current is not None
    if current.tasks[given.device].update is not None:
        return []
    evaluations, refused = _evaluations(state, update)
    events: list[e.AnyEvent] = [
        e.UpdateAccepted(
            round=update.round,
            device=given.device,
            width=update.width,
            blob=update.blob.blob,
            digest=given.digest,
            size=update.blob.size,
            samples=max(0, update.samples),
            steps=update.steps,
            loss=update.loss,
            download_s=update.download_s,
            train_s=update.train_s,
            round_s=now - current.opened_at,
            evaluations=evaluations,
        )
    ]
    if refused:
        events.append(
            e.MessageRefused(sender=given.device, channel="update", reason=brief(refused))
        )
    return events


def _evaluations(state: Campaign, update: Update) -> tuple[tuple[WidthEvaluation, ...], str]:
    """Return what counts of a device's evaluations, and why the others do not."""
    settings = _settings(state)
    if settings.contributions.evaluator == "server":
        return (), ""
    return sound_evaluations(update.evaluations, settings.widths, update.width)


def _refuse(
    state: Campaign, device: str, update: Update, refusal: tuple[DropReason, str]
) -> list[e.AnyEvent]:
    known = state.devices.get(device)
    reason, detail = refusal[0], brief(refusal[1])
    # A receipt names the blob, so what has no name gets none.
    if known is None or not BLOB.fullmatch(update.blob.blob):
        who = "unknown device" if known is None else "no blob"
        return [e.MessageRefused(sender=device, channel="update", reason=f"{who}: {detail}")]
    receipt = known.receipt
    if receipt and (receipt.round, receipt.blob) == (update.round, update.blob.blob):
        return []
    if known.accepted.get(update.round) == update.blob.blob:
        return []  # a late repetition of what counts already
    events: list[e.AnyEvent] = [
        e.UpdateRefused(
            round=update.round, device=device, blob=update.blob.blob, reason=reason, detail=detail
        )
    ]
    current = state.round
    invited = current.tasks.get(device) if current and not current.closed else None
    if current and invited and not invited.answered and update.round == current.number:
        events.append(
            e.DeviceDropped(round=current.number, device=device, reason=reason, detail=detail)
        )
    return events


def _reported(state: Campaign, given: i.ReportReceived, now: float) -> list[e.AnyEvent]:
    known, report = state.devices.get(given.device), recordable(given.report)
    if known is None:
        return []
    # A download is worth recording only where the device had answered before: it lost its files
    # and needs the blob on the broker again.
    if report.state is InstallState.DOWNLOADING and not answered_deployment(known):
        return []
    if known.report and _same_profile(known.report, report):
        return []
    return [e.InstallReported(device=given.device, state=report.state, report=report)]


def _commanded(state: Campaign, given: i.CommandReceived, now: float) -> list[e.AnyEvent]:
    command = given.command
    if (given.operator, command.command_id) in state.commands:
        return []
    if len(command.command_id) > COMMAND_ID_LIMIT:
        reason = f"command_id of {len(command.command_id)} characters: use {COMMAND_ID_LIMIT}"
        return [e.MessageRefused(sender=given.operator, channel="command", reason=reason)]
    known = state.devices.get(command.device)
    event = e.OperatorActed(
        operator=given.operator,
        command_id=command.command_id,
        action=command.action,
        device=command.device,
        reason=command.reason,
        done=known is not None,
        detail="" if known else brief(f"no device {command.device!r} in this fleet"),
    )
    current = state.round
    if event.done and command.action is OperatorAction.SUSPEND and current and not current.closed:
        task = current.tasks.get(command.device)
        if task and not task.answered:
            return [
                event,
                e.DeviceDropped(
                    round=current.number, device=command.device, reason=DropReason.SUSPENDED
                ),
            ]
    return [event]


def _forged(state: Campaign, given: i.MessageForged, now: float) -> list[e.AnyEvent]:
    return [e.MessageRefused(sender=given.sender, channel=given.channel, reason=given.reason)]


def _initialised(state: Campaign, given: i.Initialised, now: float) -> list[e.AnyEvent]:
    if state.phase is not Phase.INITIALISING:
        return []
    return [e.ModelInitialised(digest=given.digest, score=given.score)]


def _scored(state: Campaign, given: i.Scored, now: float) -> list[e.AnyEvent]:
    if state.phase is not Phase.SCORING or not state.round or given.round != state.round.number:
        return []
    if _settings(state).contributions.evaluator == "devices":
        given = with_reports(state, given)
    measured = (given.curve, given.contributions, given.value_before, given.value_after)
    if not is_finite(measured):
        broken = i.JobFailed("score", "the aggregate gives NaN or infinity")
        return _job_failed(state, broken, now)
    return [
        e.RoundScored(
            round=given.round,
            digest=given.digest,
            curve=given.curve,
            contributions=given.contributions,
            method=given.method,
            value_before=given.value_before,
            value_after=given.value_after,
            coalitions=given.coalitions,
            seconds=given.seconds,
            better=given.better,
            measured=given.measured,
        )
    ]


def _assessed(state: Campaign, given: i.Assessed, now: float) -> list[e.AnyEvent]:
    if state.phase is not Phase.SCORING or not state.round or given.round != state.round.number:
        return []
    return [e.AloneMeasured(round=given.round, scores=given.scores, seconds=given.seconds)]


def _exported(state: Campaign, given: i.Exported, now: float) -> list[e.AnyEvent]:
    if state.phase is not Phase.EXPORTING:
        return []
    settings = _settings(state)
    if worse := given.worse or worse_than_in_use(state):
        return [
            e.ReleaseWithheld(round=state.weights_round, reason=worse),
            *_lowered(state, settings, now),
        ]
    events: list[e.AnyEvent] = [
        e.ReleaseBuilt(release=release, blob=blob) for release, blob in given.releases
    ]
    digest_of = {r.manifest.width: r.manifest.digest for r, _ in given.releases}
    for device in sorted(state.devices.values(), key=lambda device: device.device):
        width, reason = deployed_width(state, device, settings)
        if width in digest_of:  # not where the device came while the files were made
            if not _stands(device, digest_of[width]):
                events.append(_deployment(device, digest_of[width], width, reason, settings, now))
        elif width:
            continue
        elif device.deployed and device.deployed.digest:
            events.append(_deployment(device, "", 0.0, reason, settings, now))
    if not any(isinstance(event, e.DeploymentIssued) for event in events):
        reason = "every device has its file already" if digest_of else "no device earned a release"
        events.append(e.ReleaseWithheld(round=state.weights_round, reason=reason))
    return events


def _stands(device: Device, digest: str) -> bool:
    """Return whether a device runs this file, or is at it, by the deployment in force."""
    if device.deployed is None or device.deployed.digest != digest:
        return False
    return confirmed(device) or not answered_deployment(device)


def _lowered(state: Campaign, settings: Settings, now: float) -> list[e.AnyEvent]:
    """Redeploy releases already in use where the reward fell: a lower reward still deploys."""
    digest_of = {
        release.manifest.width: digest
        for digest, (release, _) in state.releases.items()
        if release.version == state.release_version
    }
    events: list[e.AnyEvent] = []
    for device in sorted(state.devices.values(), key=lambda device: device.device):
        if not device.deployed or not device.deployed.digest:
            continue
        width, reason = deployed_width(state, device, settings)
        narrower = [w for w in digest_of if w <= width]
        if width and not narrower:
            continue  # no file so narrow was made: until the next release it keeps what it has
        if width < device.deployed.width:
            chosen = max(narrower, default=0.0)
            events.append(
                _deployment(device, digest_of.get(chosen, ""), chosen, reason, settings, now)
            )
    return events


def _deployment(
    device: Device, digest: str, width: float, reason: str, settings: Settings, now: float
) -> e.DeploymentIssued:
    # A device that served another campaign counts on from there, and says so in its report.
    claimed = device.report.counter if device.report else 0
    return e.DeploymentIssued(
        device=device.device,
        counter=max(device.counter, min(claimed, COUNTER_LIMIT)) + 1,
        digest=digest,
        width=width,
        reason=reason,
        expires_at=now + settings.releases.valid_days * DAY_S,
    )


def _blob_published(state: Campaign, given: i.BlobPublished, now: float) -> list[e.AnyEvent]:
    return [
        e.BlobShared(purpose=given.purpose, width=given.width, blob=given.blob, size=given.size)
    ]


def _job_failed(state: Campaign, given: i.JobFailed, now: float) -> list[e.AnyEvent]:
    events: list[e.AnyEvent] = [e.WorkFailed(job=given.job, detail=given.detail)]
    tries = state.work_failures + 1
    limit = _settings(state).rounds.failures_limit
    if state.phase is Phase.SCORING and state.round and tries >= limit:
        reason = f"measuring round {state.round.number} failed {tries} times: {given.detail}"
        events.append(e.TrainingStopped(round=state.weights_round, reason=reason))
    if state.phase is Phase.EXPORTING and tries >= _settings(state).releases.attempts:
        events.append(
            e.ReleaseWithheld(
                round=state.weights_round, reason=f"export failed {tries} times: {given.detail}"
            )
        )
    return events


def _tick(state: Campaign, given: i.Tick, now: float) -> list[e.AnyEvent]:
    return []


_REACTIONS: dict[type, Callable[[Campaign, Any, float], list[e.AnyEvent]]] = {
    i.Started: _started,
    i.BirthReceived: _born,
    i.LeaseChanged: _lease,
    i.ProfileReceived: _profiled,
    i.ProgressReceived: _progressed,
    i.UpdateAnnounced: _announced,
    i.UpdateFetched: _fetched,
    i.ReportReceived: _reported,
    i.CommandReceived: _commanded,
    i.MessageForged: _forged,
    i.Initialised: _initialised,
    i.Scored: _scored,
    i.Assessed: _assessed,
    i.Exported: _exported,
    i.BlobPublished: _blob_published,
    i.JobFailed: _job_failed,
    i.Tick: _tick,
}


# --- what follows by itself ---------------------------------------------------------------------


def _follow_up(state: Campaign, now: float) -> list[e.AnyEvent]:
    match state.phase:
        case Phase.GATHERING:
            return _revise(state) or _stop(state) or _open(state, now)
        case Phase.TRAINING:
            return _close(state, now)
        case Phase.ALLOCATING:
            return _allocate(state)
        case Phase.DELIVERING:
            return _finish(state, now)
    return []


def eligible(state: Campaign) -> tuple[list[Device], dict[str, str]]:
    """Return the devices that can be invited now, and for each other one why it cannot."""
    invited, reasons = [], {}
    for device in sorted(state.devices.values(), key=lambda device: device.device):
        if device.suspended:
            reasons[device.device] = device.suspended
        elif device.link not in PRESENT:
            reasons[device.device] = f"link is {device.link}"
        elif not device.width:
            reasons[device.device] = device.reason
        else:
            invited.append(device)
    return invited, reasons


def _revise(state: Campaign) -> list[e.AnyEvent]:
    """Cap the training widths by what every device is entitled to after the last scored round."""
    settings, scored = _settings(state), state.scored
    if settings.rewards.mode != "training-time" or scored is None:
        return []
    if state.revision and state.revision.round == scored.round:
        return []
    allocation = _allocation(state)
    if allocation is None:
        return []
    return [
        e.EntitlementsRevised(
            round=scored.round,
            rule=allocation.rule,
            note=allocation.note,
            rewards=allocation.rewards,
            widths=entitlements(allocation.rewards, settings.widths),
        )
    ]


def _stop(state: Campaign) -> list[e.AnyEvent]:
    rounds, done, of = _settings(state).rounds, state.trained_rounds, state.weights_round
    if done >= rounds.budget:
        return [e.TrainingStopped(round=of, reason=f"budget of {rounds.budget} rounds is used")]
    if done >= rounds.minimum and state.without_gain >= rounds.patience:
        reason = f"plateau: no significant improvement in {state.without_gain} rounds"
        return [e.TrainingStopped(round=of, reason=reason)]
    if state.failures >= rounds.failures_limit:
        reason = f"{state.failures} rounds in a row missed their quorum"
        return [e.TrainingStopped(round=of, reason=reason)]
    every = rounds.release_every
    if every and done and done % every == 0 and state.release_round < done:
        return [e.ReleaseDue(round=of, reason=f"a release is due every {every} rounds")]
    return []


def _open(state: Campaign, now: float) -> list[e.AnyEvent]:
    settings = _settings(state)
    rounds = settings.rounds
    if state.failures and now < state.since + rounds.retry_s:
        return []
    if state.round is None and now < state.since + rounds.gather_s:
        # Who cannot train has been heard too: nobody waits for it.
        heard = sum(d.participation is not Participation.WAITING for d in state.devices.values())
        if heard < rounds.min_devices:
            return []
    invited, reasons = eligible(state)
    if len(invited) < rounds.quorum:
        return []
    number = state.round.number + 1 if state.round else 1
    alone_steps = settings.contributions.alone_steps
    training, assessment = settings.training_settings(), bool(alone_steps and not state.assessed)
    if assessment:
        training = msgspec.structs.replace(training, steps=alone_steps)
    # Never shorter: transfers take the same time however few steps there are.
    longer = max(1.0, training.steps / settings.training.steps)
    return [
        e.RoundOpened(
            round=number,
            base=state.weights,
            tasks=tuple(
                _task(state, device, number, position, training.steps, assessment=assessment)
                for position, device in enumerate(invited)
            ),
            not_invited=reasons,
            budget_s=rounds.deadline_s * longer,
            quorum=rounds.quorum,
            training=training,
            assessment=assessment,
        )
    ]


def _task(
    state: Campaign, device: Device, number: int, position: int, steps: int, *, assessment: bool
) -> e.RoundTask:
    settings = _settings(state)
    # The weights that an assessment starts from were never trained: there is nothing to withhold.
    width = device.width if assessment else training_width(state, device, settings)[0]
    return e.RoundTask(
        device=device.device,
        width=width,
        predicted_s=forecast(device, width, steps, settings),
        seed=(settings.seed * 1_000_003 + number * 1009 + position) % 2**31,
    )


def _close(state: Campaign, now: float) -> list[e.AnyEvent]:
    current = state.round
    assert current is not None
    deadline = current.deadline
    if state.started_at > current.opened_at:
        # What was said while the server was away is retained at the broker: it is read first.
        deadline = max(deadline, state.started_at + _settings(state).presence.grace_s)
    if any(current.waiting.values()) and now < deadline:
        return []
    events: list[e.AnyEvent] = []
    for name in [name for name, task in current.tasks.items() if not task.answered]:
        here = state.devices[name].link in PRESENT
        stage = current.tasks[name].stage
        events.append(
            e.DeviceDropped(
                round=current.number,
                device=name,
                reason=DropReason.LATE if here else DropReason.OFFLINE,
                detail=f"no update within {current.opened.budget_s:.1f} s,"
                f" last stage: {stage or 'no answer'}",
            )
        )
    arrived = tuple(sorted(name for name, task in current.tasks.items() if task.update))
    enough = len(arrived) >= current.opened.quorum
    if not enough:
        events += [
            e.DeviceDropped(
                round=current.number,
                device=name,
                reason=DropReason.ROUND_ABANDONED,
                detail=f"{len(arrived)} updates, quorum is {current.opened.quorum}",
            )
            for name in arrived
        ]
    reason = f"{len(arrived)} of {len(current.tasks)} updates in {now - current.opened_at:.1f} s"
    if not enough:
        reason += f", quorum is {current.opened.quorum}: not aggregated"
    events.append(
        e.RoundClosed(round=current.number, aggregated=arrived if enough else (), reason=reason)
    )
    return events


def _allocate(state: Campaign) -> list[e.AnyEvent]:
    if state.scored is None:
        return [
            e.RewardsAllocated(
                round=0, rule="none", note="no round was aggregated: nothing to reward", rewards=()
            )
        ]
    allocation = _allocation(state)
    if allocation is None:
        note = "no device has reported what trained weights score: nothing can be given"
        return [e.RewardsAllocated(round=state.weights_round, rule="none", note=note, rewards=())]
    return [
        e.RewardsAllocated(
            round=state.weights_round,
            rule=allocation.rule,
            note=allocation.note,
            rewards=allocation.rewards,
        )
    ]


def claimed(state: Campaign) -> tuple[list[Claim], list[e.CurvePoint], str] | None:
    """Return who claims what of which ladder, with a note on the ladder; None if unmeasured."""
    settings, totals = _settings(state), state.ledger.totals
    ladder = [
        point
        for point in (state.scored.curve if state.scored else ())
        if point.width in settings.rewards.ladder and point.why != NOT_MEASURED
    ]
    if not ladder or not state.measured_round:
        return None
    note = ""
    if not any(point.offered for point in ladder):
        best = max(ladder, key=lambda point: point.score)
        ladder = [msgspec.structs.replace(best, offered=True)]
        note = f"no width is worth offering, so there is only the best one, {best.width:g}"
    return [Claim(name, total, _alone(state, name)) for name, total in totals.items()], ladder, note


def _allocation(state: Campaign) -> Allocation | None:
    """Return what everybody earns on the ledger and the curve as they stand; None if unmeasured."""
    found = claimed(state)
    if found is None:
        return None
    claims, ladder, note = found
    allocation = allocate(claims, ladder, _settings(state).rewards, state.untrained)
    return replace(allocation, note="; ".join(filter(None, (note, allocation.note))))


def _alone(state: Campaign, device: str) -> float | None:
    measured = state.alone.get(device)
    return measured.score if measured else None


def _finish(state: Campaign, now: float) -> list[e.AnyEvent]:
    if stepping := sorted(d.device for d in state.devices.values() if _steps_down(state, d)):
        reason = f"no memory or time for its width on {', '.join(stepping)}: a narrower one follows"
        return [e.ReleaseDue(round=state.weights_round, reason=brief(reason))]
    waiting = [
        device.device
        for device in state.devices.values()
        if device.deployed and device.deployed.digest and not answered_deployment(device)
    ]
    if waiting and now < state.since + _settings(state).releases.delivery_s:
        return []
    return [
        e.CampaignFinished(
            detail=f"not confirmed: {', '.join(waiting)}"
            if waiting
            else (state.withheld or "every deployment was answered")
        )
    ]


def _steps_down(state: Campaign, device: Device) -> bool:
    if not device.steps_down or device.deployed is None:
        return False
    return deployed_width(state, device, _settings(state))[0] < device.deployed.width


def _settings(state: Campaign) -> Settings:
    if state.settings is None:
        raise ValueError("the campaign has not started: decide on inputs.Started first")
    return state.settings
