"""Which weights an export is made of, and whose word stands for their scores."""

from coordinator.bench import ExportJob
from coordinator.fleet import Campaign
from coordinator.reported_round import reported_scores


def export_job(state: Campaign, widths: tuple[float, ...]) -> ExportJob:
    """Return the order for the ONNX files of the newest weights that were measured.

    Where none were, nobody is given anything either: the order is empty.
    """
    assert state.settings is not None
    scores: dict[float, float] = {}
    source = ""
    if state.settings.contributions.evaluator == "devices":
        scores, source = reported_scores(state)
    return ExportJob(
        weights=state.measured or state.weights,
        round=state.measured_round,
        widths=widths,
        in_use=state.released_weights,
        reported=scores,
        score_data=source,
    )
