"""What each event changes: `evolve(state, event, at) -> state`.

Nothing here decides. A replay of the journal through `evolve` gives the state of the moment the
server stopped, and `coordinator.rounds` goes on from there.
"""

from typing import Any

import msgspec

from broker.messages import InstallState
from coordinator.changes import moved_bytes, replace, with_device
from coordinator.command_evolution import acted
from coordinator.contribution.ledger import Ledger
from coordinator.fleet import Campaign, Device, Phase, lacks_resources
from coordinator.pace import after_profile, spread_of
from coordinator.round_evolution import ROUND_HANDLERS
from coordinator.score_evolution import SCORE_HANDLERS
from coordinator.settings import Settings
from journal import events as e

REMEMBERED = 8  # releases that a device ran


def evolve(state: Campaign, event: e.AnyEvent, at: float) -> Campaign:
    """Return the state after ``event``, which happened at server time ``at``."""
    evolved: Campaign = _HANDLERS[type(event)](state, event, at)
    return evolved


def _campaign_started(state: Campaign, event: e.CampaignStarted, at: float) -> Campaign:
    settings = msgspec.convert(event.settings, Settings)
    return replace(
        state,
        settings=settings,
        spec_hash=event.spec_hash,
        phase=Phase.INITIALISING,
        since=at,
        ledger=Ledger(settings.contributions.decay),
        inference_bytes={one.width: one.inference_bytes for one in event.memory},
    )


def _server_started(state: Campaign, event: e.ServerStarted, at: float) -> Campaign:
    """Go on from a restart; where the clock is behind what it was, waiting begins anew."""
    current = state.round
    if current and current.opened_at > at:
        current = replace(current, opened_at=at)
    owed = {
        device: replace(one, opened_at=min(one.opened_at, at)) for device, one in state.owed.items()
    }
    since = min(state.since, at)
    return replace(state, epoch=event.epoch, started_at=at, since=since, round=current, owed=owed)


def _initialised(state: Campaign, event: e.ModelInitialised, at: float) -> Campaign:
    return replace(
        state,
        weights=event.digest,
        best=event.digest,
        public=event.public,
        untrained=event.score,
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def _born(state: Campaign, event: e.DeviceBorn, at: float) -> Campaign:
    known = state.devices.get(event.device, Device(event.device))
    changes: dict[str, Any] = {
        "session": event.session,
        "agent": event.agent,
        "can_train": event.can_train,
        "emulated": event.emulated,
    }
    if not event.can_train and known.profile is None:
        changes |= {"reason": "has not reported a profile yet"}
    return with_device(state, event.device, **changes)


def _presence(state: Campaign, event: e.PresenceChanged, at: float) -> Campaign:
    return with_device(state, event.device, link=event.state)


def _profiled(state: Campaign, event: e.DeviceProfiled, at: float) -> Campaign:
    return with_device(
        state,
        event.device,
        profile=event.profile,
        profiled_at=at,
        can_train=event.profile.can_train,
        failed_width=0.0,  # measured anew: it may have room now
        **_followed(state, event),
    )


def _followed(state: Campaign, event: e.DeviceProfiled) -> dict[str, Any]:
    """Return what changes where a device measured itself because it was asked to."""
    known = state.devices.get(event.device)
    followed = known and known.requested and event.profile.answers == known.request
    return {"requested": False} if followed else {}


def _width_chosen(state: Campaign, event: e.WidthChosen, at: float) -> Campaign:
    if event.width and state.round is None and not any(d.width for d in state.devices.values()):
        state = replace(state, since=at)  # the others get their time from the first one on
    known = state.devices.get(event.device)
    pace: float = 1.0
    ratios: tuple[float, ...] = ()
    if known and (event.commanded or known.forecasts == event.forecasts):
        pace, ratios = known.pace, known.ratios
    elif known:  # what a new profile predicts is not what the pace was measured against
        pace, ratios = after_profile(known, event.forecasts), spread_of(known.ratios)
    return with_device(
        state,
        event.device,
        pace=pace,
        ratios=ratios,
        width=event.width,
        participation=event.participation,
        reason=event.reason,
        predicted_s=event.predicted_s,
        forecasts=event.forecasts,
        steps=event.steps,
    )


def _entitlements(state: Campaign, event: e.EntitlementsRevised, at: float) -> Campaign:
    return replace(state, entitled={**state.entitled, **event.widths}, revision=event)


def _stopped(state: Campaign, event: e.TrainingStopped, at: float) -> Campaign:
    return replace(state, stopped=event.reason, phase=Phase.ALLOCATING, since=at)


def _release_due(state: Campaign, event: e.ReleaseDue, at: float) -> Campaign:
    return replace(state, phase=Phase.ALLOCATING, since=at)


def _allocated(state: Campaign, event: e.RewardsAllocated, at: float) -> Campaign:
    for reward in event.rewards:
        state = with_device(state, reward.device, reward=reward)
    for device in [device for device in state.devices.values() if device.steps_down]:
        state = with_device(state, device.device, steps_down=False)
    return replace(state, allocation=event, phase=Phase.EXPORTING, since=at)


def _released(state: Campaign, event: e.ReleaseBuilt, at: float) -> Campaign:
    digest = event.release.manifest.digest
    return replace(
        state,
        releases={**state.releases, digest: (event.release, event.blob)},
        release_version=max(state.release_version, event.release.version),
        released_weights=state.measured,
        withheld="",
        work_failures=0,
    )


def _withheld(state: Campaign, event: e.ReleaseWithheld, at: float) -> Campaign:
    return replace(_after_export(state, at), withheld=event.reason, work_failures=0)


def _deployed(state: Campaign, event: e.DeploymentIssued, at: float) -> Campaign:
    known = state.devices.get(event.device, Device(event.device))
    if event.commanded:  # at any time: the phase goes its own way
        ran = known.ran
        if event.digest in ran:  # what came after it is not gone back to
            ran = ran[: len(ran) - ran[::-1].index(event.digest)]
        changes = {"counter": event.counter, "deployed": event, "ran": ran}
        return with_device(state, event.device, **changes)
    rolled_from = known.rolled_from
    if event.digest and rolled_from and _is_newer(state, event.digest, rolled_from):
        rolled_from = ()
    state = with_device(
        state, event.device, counter=event.counter, deployed=event, rolled_from=rolled_from
    )
    return _after_export(state, at)


def _is_newer(state: Campaign, digest: str, than: tuple[str, ...]) -> bool:
    """Return whether a release is of later weights than all of the others."""
    rounds = {one: state.releases[one][0].manifest.round for one in (digest, *than)}
    return rounds[digest] > max(rounds[one] for one in than)


def _after_export(state: Campaign, at: float) -> Campaign:
    """Go on training, or wait for confirmations where training is over."""
    phase = Phase.DELIVERING if state.stopped else Phase.GATHERING
    return replace(state, phase=phase, since=at, release_round=state.trained_rounds)


def _reported(state: Campaign, event: e.InstallReported, at: float) -> Campaign:
    known = state.devices.get(event.device)
    if (
        event.state is InstallState.REFUSED
        and known
        and known.deployed
        and event.report.counter != known.deployed.counter
    ):
        return state  # some other document was refused; what runs has not changed
    state = with_device(state, event.device, report=event.report, **_fetched(state, event, at))
    state = _with_confirmed(state, event.device)
    if known and known.deployed and lacks_resources(event.report, known.deployed):
        width = known.deployed.width
        narrowest = min(width, known.failed_width or width)
        state = with_device(state, event.device, failed_width=narrowest, steps_down=True)
    return state


def _with_confirmed(state: Campaign, name: str) -> Campaign:
    """Remember which releases a device ran, in their order.

    Those too that were overtaken by a newer order; not the one that it was just rolled back from,
    which it may say once more before it hears of that.
    """
    device = state.devices[name]
    report = device.report
    if report is None or report.state is not InstallState.CONFIRMED:
        return state
    digest = report.running
    if digest not in state.releases or digest in (*device.ran[-1:], *device.rolled_from):
        return state
    return with_device(state, name, ran=(*device.ran, digest)[-REMEMBERED:])


def _fetched(state: Campaign, event: e.InstallReported, at: float) -> dict[str, Any]:
    """Return what changes of a device that first says what became of a release."""
    known = state.devices.get(event.device)
    deployed = known.deployed if known else None
    if known is None or deployed is None or deployed.digest not in state.releases:
        return {}
    before, report = known.report, event.report
    told = before is not None and before.counter == deployed.counter
    if report.counter != deployed.counter or told or event.state is InstallState.DOWNLOADING:
        return {}
    return moved_bytes(state, event.device, state.releases[deployed.digest][1].size, at)


def _operator(state: Campaign, event: e.OperatorActed, at: float) -> Campaign:
    return acted(state, event)


def _contradicted(state: Campaign, event: e.ContradictionReported, at: float) -> Campaign:
    return with_device(state, event.device, contradiction=event)


def _settled(state: Campaign, event: e.ContradictionSettled, at: float) -> Campaign:
    return with_device(state, event.device, contradiction=None)


def _blob_shared(state: Campaign, event: e.BlobShared, at: float) -> Campaign:
    return state


def _message_refused(state: Campaign, event: e.MessageRefused, at: float) -> Campaign:
    return state


def _work_failed(state: Campaign, event: e.WorkFailed, at: float) -> Campaign:
    return replace(state, work_failures=state.work_failures + 1)


def _finished(state: Campaign, event: e.CampaignFinished, at: float) -> Campaign:
    return replace(state, phase=Phase.FINISHED, since=at)


_HANDLERS: dict[type, Any] = {
    e.CampaignStarted: _campaign_started,
    e.ServerStarted: _server_started,
    e.ModelInitialised: _initialised,
    e.DeviceBorn: _born,
    e.PresenceChanged: _presence,
    e.DeviceProfiled: _profiled,
    e.WidthChosen: _width_chosen,
    **ROUND_HANDLERS,
    **SCORE_HANDLERS,
    e.EntitlementsRevised: _entitlements,
    e.TrainingStopped: _stopped,
    e.ReleaseDue: _release_due,
    e.RewardsAllocated: _allocated,
    e.ReleaseBuilt: _released,
    e.ReleaseWithheld: _withheld,
    e.DeploymentIssued: _deployed,
    e.InstallReported: _reported,
    e.OperatorActed: _operator,
    e.ContradictionReported: _contradicted,
    e.ContradictionSettled: _settled,
    e.MessageRefused: _message_refused,
    e.BlobShared: _blob_shared,
    e.WorkFailed: _work_failed,
    e.CampaignFinished: _finished,
}
