"""What the coordinator decides: `decide(state, input, now) -> events`. Pure.

Each input is answered with the facts that follow from it; then `_follow_up` asks whether the
campaign moves on by itself (a round opens, closes, training stops, rewards are allocated), until
nothing more follows. What must be *done* is derived from the state in `coordinator.duties`.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from broker.messages import DropReason, InstallState, Stage
from coordinator import inputs as i
from coordinator.admission import announced, fetched
from coordinator.allocation import allocate_rewards, revise_entitlements
from coordinator.commands import commanded
from coordinator.delivery import exported, finish_campaign
from coordinator.evolution import evolve
from coordinator.fleet import Campaign, Phase, answered_deployment, open_task, settings_of
from coordinator.inputs import brief, is_finite, recordable
from coordinator.lateness import give_up
from coordinator.reported_round import with_reports
from coordinator.round_closing import close_round
from coordinator.round_schedule import follow_pace, open_round, stop_training
from coordinator.training_cap import width_for
from journal import events as e


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


# --- reactions to inputs ------------------------------------------------------------------------


def _started(state: Campaign, given: i.Started, now: float) -> list[e.AnyEvent]:
    events: list[e.AnyEvent] = [e.ServerStarted(epoch=state.epoch + 1, signer=given.signer)]
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
    held = known.width if known else 0.0
    choice = width_for(state, given.device, profile, given.payload_bytes, held=held)
    return [
        e.DeviceProfiled(device=given.device, profile=profile),
        choice.event(given.device),
    ]


def _same_profile(old: Any, new: Any) -> bool:
    stamp = {"session": 0, "seq": 0, "sent_at": 0.0}
    return bool(msgspec.structs.replace(old, **stamp) == msgspec.structs.replace(new, **stamp))


def _progressed(state: Campaign, given: i.ProgressReceived, now: float) -> list[e.AnyEvent]:
    progress = recordable(given.progress)
    task = open_task(state, given.device, progress.round)
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
                # Only the server says that a device was not waited for, which is no missed round.
                reason=(
                    fallback if progress.reason in (None, DropReason.SURPLUS) else progress.reason
                ),
                detail=progress.detail,
            )
        )
    return events


def _later(stage: Stage, than: Stage | None) -> bool:
    order = list(Stage)
    return than is None or order.index(stage) > order.index(than)


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


def _forged(state: Campaign, given: i.MessageForged, now: float) -> list[e.AnyEvent]:
    return [e.MessageRefused(sender=given.sender, channel=given.channel, reason=given.reason)]


def _witnessed(state: Campaign, given: i.WitnessReported, now: float) -> list[e.AnyEvent]:
    known, claim = state.devices.get(given.device), given.claim
    before = known.contradiction if known else None
    if claim is None:
        reason = brief(given.accepted)
        return [e.ContradictionSettled(device=given.device, reason=reason)] if before else []
    # What is not proven costs nothing to say: once is enough.
    if claim == before or (before and not claim.proven):
        return []
    return [claim]


def _initialised(state: Campaign, given: i.Initialised, now: float) -> list[e.AnyEvent]:
    if state.phase is not Phase.INITIALISING:
        return []
    return [e.ModelInitialised(digest=given.digest, score=given.score, public=given.public)]


def _scored(state: Campaign, given: i.Scored, now: float) -> list[e.AnyEvent]:
    if state.phase is not Phase.SCORING or not state.round or given.round != state.round.number:
        return []
    result, measured = given.result, ""
    if settings_of(state).contributions.evaluator == "devices":
        result, measured = with_reports(state, result)
    if not is_finite((result.curve, result.contributions, result.value_before, result.value_after)):
        broken = i.JobFailed("score", "the aggregate gives NaN or infinity")
        return _job_failed(state, broken, now)
    return [e.RoundScored(round=given.round, measured=measured, **vars(result))]


def _assessed(state: Campaign, given: i.Assessed, now: float) -> list[e.AnyEvent]:
    if state.phase is not Phase.SCORING or not state.round or given.round != state.round.number:
        return []
    return [e.AloneMeasured(round=given.round, scores=given.scores, seconds=given.seconds)]


def _blob_published(state: Campaign, given: i.BlobPublished, now: float) -> list[e.AnyEvent]:
    return [
        e.BlobShared(
            purpose=given.purpose,
            width=given.width,
            blob=given.blob,
            size=given.size,
            device=given.device,
        )
    ]


def _job_failed(state: Campaign, given: i.JobFailed, now: float) -> list[e.AnyEvent]:
    events: list[e.AnyEvent] = [e.WorkFailed(job=given.job, detail=given.detail)]
    tries = state.work_failures + 1
    limit = settings_of(state).rounds.failures_limit
    if state.phase is Phase.SCORING and state.round and tries >= limit:
        reason = f"measuring round {state.round.number} failed {tries} times: {given.detail}"
        events.append(e.TrainingStopped(round=state.weights_round, reason=reason))
    if state.phase is Phase.EXPORTING and tries >= settings_of(state).releases.attempts:
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
    i.UpdateAnnounced: announced,
    i.UpdateFetched: fetched,
    i.ReportReceived: _reported,
    i.CommandReceived: commanded,
    i.WitnessReported: _witnessed,
    i.MessageForged: _forged,
    i.Initialised: _initialised,
    i.Scored: _scored,
    i.Assessed: _assessed,
    i.Exported: exported,
    i.BlobPublished: _blob_published,
    i.JobFailed: _job_failed,
    i.Tick: _tick,
}


# --- what follows by itself ---------------------------------------------------------------------


def _follow_up(state: Campaign, now: float) -> list[e.AnyEvent]:
    if dropped := give_up(state, now):
        return dropped
    match state.phase:
        case Phase.GATHERING:
            return (
                revise_entitlements(state)
                or stop_training(state)
                or follow_pace(state)
                or open_round(state, now)
            )
        case Phase.TRAINING:
            return close_round(state, now)
        case Phase.ALLOCATING:
            return allocate_rewards(state)
        case Phase.DELIVERING:
            return finish_campaign(state, now)
    return []
