"""What the worker is asked for, from the state alone: which weights, which updates. Pure."""

from dataclasses import replace

from coordinator.bench import AssessJob, Control, ExportJob, ScoreJob, UpdateFile
from coordinator.entitlement import widest_training
from coordinator.fleet import Campaign, Device, settings_of
from coordinator.reported_round import reported_scores
from journal.events import RoundOpened, UpdateAccepted
from slimmable.window import WindowKind


def score_job(state: Campaign) -> ScoreJob:
    """Return the order to aggregate and measure the closed round."""
    current, settings = state.round, settings_of(state)
    assert current is not None
    updates, novelty = _update_files(state), settings.contributions.novelty
    present = {update.device for update in updates}
    absent = [d for d in state.devices.values() if d.device not in present]
    return ScoreJob(
        round=current.number,
        base=current.opened.base,
        best=state.best,
        updates=updates,
        method=settings.contributions.method,
        coalitions=settings.contributions.coalitions,
        widths=settings.contributions.widths,
        aggregation=settings.aggregation,
        optimiser=state.optimiser,
        control=_control(state),
        known=state.earlier[:novelty],
        known_to_late=state.earlier[novelty:] if current.late else (),
        private=settings.training.private,
        min_trainers=settings.rewards.min_trainers,
        absent_widths=tuple(_reach(state, d, d.trained_width) for d in absent if d.trained_width),
    )


def _control(state: Campaign) -> Control | None:
    """Return the control variates that the closed round went by."""
    assert state.round is not None
    if settings_of(state).training.control == "none":
        return None
    rate = state.round.opened.training.learning_rate
    return Control(state.variates, state.own_variates, rate)


def assess_job(state: Campaign) -> AssessJob:
    """Return the order to measure the updates of the closed assessment round one by one."""
    assert state.round is not None
    return AssessJob(state.round.number, state.round.opened.base, _update_files(state))


def _update_files(state: Campaign) -> tuple[UpdateFile, ...]:
    assert state.round is not None
    tasks, opened = state.round.tasks, state.round.opened
    updates = [task.update for task in tasks.values() if task.update]
    fresh = [
        _update_file(state, update, opened, tasks[update.device].task.steps)
        for update in sorted(updates, key=lambda one: one.device)
    ]
    late = [
        replace(
            _update_file(state, one.update, one.opened, 0),
            base=one.opened.base,
            round=one.update.round,
            staleness=one.step.staleness,
            factor=one.step.weight,
        )
        for one in state.round.late
        if one.step
    ]
    return (*fresh, *late)


def _update_file(
    state: Campaign, update: UpdateAccepted, opened: RoundOpened, steps: int
) -> UpdateFile:
    by_samples = settings_of(state).weighting == "samples"
    return UpdateFile(
        update.device,
        update.width,
        update.digest,
        weight=float(max(1, update.samples)) if by_samples else 1.0,
        samples=update.samples,
        rounds=state.devices[update.device].rounds_taken,
        window=opened.window,
        reach=_reach(state, state.devices[update.device], update.width),
        steps=steps or opened.training.steps,
        corrected=update.corrected,
    )


def _reach(state: Campaign, device: Device, width: float) -> float:
    """Return the widest sub-model that a device comes to train, whatever it trained last."""
    settings = settings_of(state)
    if settings.training.window != WindowKind.PREFIX:
        return 1.0  # a window that moves passes over the whole network
    if settings.width_policy.dynamic:
        return max(width, widest_training(state, device, settings)[0])
    return width


def export_job(state: Campaign, widths: tuple[float, ...]) -> ExportJob:
    """Return the order for the ONNX files of the newest weights that were measured.

    Where none were, nobody is given anything either: the order is empty.
    """
    scores: dict[float, float] = {}
    source = ""
    if settings_of(state).contributions.evaluator == "devices":
        scores, source = reported_scores(state)
    return ExportJob(
        weights=state.measured or state.weights,
        round=state.measured_round,
        widths=widths,
        in_use=state.released_weights,
        reported=scores,
        score_data=source,
    )
