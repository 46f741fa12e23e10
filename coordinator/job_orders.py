"""What the worker is asked for, from the state alone: which weights, which updates. Pure."""

from coordinator.bench import AssessJob, Control, ExportJob, ScoreJob, UpdateFile
from coordinator.entitlement import widest_training
from coordinator.fleet import Campaign, Device, settings_of
from coordinator.reported_round import reported_scores
from slimmable.window import WindowKind


def score_job(state: Campaign) -> ScoreJob:
    """Return the order to aggregate and measure the closed round."""
    current, settings = state.round, settings_of(state)
    assert current is not None
    updates = _update_files(state)
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
        known=state.earlier,
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
    tasks, ordinary = state.round.tasks, state.round.opened.training.steps
    updates = [task.update for task in tasks.values() if task.update]
    by_samples = settings_of(state).weighting == "samples"
    return tuple(
        UpdateFile(
            u.device,
            u.width,
            u.digest,
            weight=float(max(1, u.samples)) if by_samples else 1.0,
            samples=u.samples,
            rounds=state.devices[u.device].rounds_taken,
            window=state.round.opened.window,
            reach=_reach(state, state.devices[u.device], u.width),
            steps=tasks[u.device].task.steps or ordinary,
            corrected=u.corrected,
        )
        for u in sorted(updates, key=lambda update: update.device)
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
