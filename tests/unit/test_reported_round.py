"""What the coordinator decides from reports: the best weights, a plateau, and what is withheld."""

import pytest

from broker.messages import WidthEvaluation
from coordinator.duties import Export, job, needed_blobs
from coordinator.job_orders import export_job
from coordinator.settings import Contributions
from journal import events as e
from tests.fakes.office import WIDTHS, Office, digest, settings

DEVICES = ("fan", "lathe", "press", "saw", "drill")


def report(score):
    return tuple(
        WidthEvaluation(width=width, score=score, loss=1.0 - score, samples=9) for width in WIDTHS
    )


@pytest.fixture
def office():
    def begin(**rounds):
        chosen = settings(
            {"min_devices": 5} | rounds, contributions=Contributions(evaluator="devices")
        )
        return Office(chosen).begin(*DEVICES)

    return begin


def take_round(office, score):
    """Take a round in which every device reports about the same score; None = none reports."""
    for position, device in enumerate(DEVICES):
        told = () if score is None else report(score + position / 1000)
        office.fetched(device, evaluations=told)
    return office.scored(points=())


def test_a_round_is_better_by_what_the_same_devices_said_before(office):
    office = office(budget=9, minimum=9)
    better = []
    for score in (0.2, 0.5, 0.4, None, 0.6):
        take_round(office, score)
        better.append(office.of(e.RoundScored)[-1].better)
    assert better == [True, True, False, False, True]
    bases = [one.base for one in office.of(e.RoundOpened)]
    assert office.state.best == bases[4]
    assert office.state.without_gain == 0


def test_a_value_is_carried_from_round_to_round(office):
    office = office(budget=9, minimum=9)
    for score in (0.2, 0.5, None, 0.6):
        take_round(office, score)
    values = [(one.value_before, one.value_after) for one in office.of(e.RoundScored)]
    flat = [value for pair in values for value in pair]
    assert flat == pytest.approx([-0.798, -0.798, -0.798, -0.498, -0.498, -0.498, -0.498, -0.398])


def test_the_reports_that_may_still_be_compared_are_kept_and_no_others(office):
    office = office(budget=9, minimum=9)
    for score in (0.2, 0.5, 0.4, 0.3):
        take_round(office, score)
    state = office.state
    assert set(state.reports) == {state.measured, state.best}
    assert state.measured == digest("round 3")
    assert {state.measured, state.best, state.weights} <= needed_blobs(state)
    assert office.replayed() == state


def test_weights_that_devices_report_to_be_worse_than_those_in_use_are_withheld(office):
    office = office(budget=9, minimum=9, release_every=3)
    for score in (0.2, 0.5, 0.7):
        take_round(office, score)
    assert isinstance(job(office.state), Export)
    office.exported()
    first = office.state.released_weights
    assert first == digest("round 2")
    for score in (0.7, 0.6, 0.6):
        take_round(office, score)
    office.exported()
    (withheld,) = office.of(e.ReleaseWithheld)
    assert withheld.reason.startswith("round 5 scores 0.100 lower than the release in use")
    assert "by what devices report" in withheld.reason
    assert office.state.released_weights == first


def test_the_order_of_an_export_is_about_the_newest_measured_weights(office):
    office = office(budget=9, minimum=9)
    for score in (0.2, 0.5, None):
        take_round(office, score)
    order = export_job(office.state, (0.25, 1.0))
    assert (order.weights, order.round) == (digest("round 1"), 1)
    assert set(order.reported) == set(WIDTHS)
    assert order.score_data == "recordings of 5 devices, as they report it, trimmed mean"


def test_where_the_server_measures_evaluations_are_not_even_kept():
    office = Office().begin("press")
    office.join("lathe")
    office.fetched("press", evaluations=report(0.5))
    (accepted,) = office.of(e.UpdateAccepted)
    assert accepted.evaluations == ()
    assert office.of(e.MessageRefused) == []
