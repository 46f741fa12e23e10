"""What ran where, over time: right at every moment that is kept, and bounded."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.messages import InstallState, OperatorAction, Report
from journal import events as e
from monitor.fleet_data import version_history
from monitor.version_history import VersionHistory
from tests.unit.test_fleet_view import acted, born, folded

CHANGES = st.lists(
    st.tuples(
        st.integers(0, 50),
        st.sampled_from("abcd"),
        st.none() | st.tuples(st.sampled_from(["", "x", "y"]), st.booleans()),
    ),
    max_size=40,
)


@given(CHANGES)
def test_the_last_point_is_what_runs_now_and_points_lie_in_order(changes):
    history, known, at = VersionHistory(limit=6), {}, 0.0
    for after, device, running in changes:
        at += after
        history.note(at, device, running)
        known[device] = running
        assert len(history.points) <= 6
    times = [point[0] for point in history.points]
    assert times == sorted(times)
    now = Counter(running for running in known.values() if running is not None)
    assert (history.points[-1][1] if history.points else {}) == now


@given(CHANGES)
def test_every_kept_point_is_what_ran_at_that_moment(changes):
    history, known, at, naive = VersionHistory(limit=6), {}, 0.0, {}
    for after, device, running in changes:
        at += after
        history.note(at, device, running)
        known[device] = running
        naive[at] = dict(Counter(one for one in known.values() if one is not None))
    assert all(naive[when] == counts for when, counts in history.points)


def test_a_report_a_new_order_and_a_retirement_are_moments_of_the_history():
    def ordered(counter, digest):
        return e.DeploymentIssued(
            device="a", counter=counter, digest=digest, width=0.5, reason="first", expires_at=9e9
        )

    report = Report(
        session=1, counter=1, state=InstallState.CONFIRMED, running="x", installed="x", width=0.5
    )
    said = e.InstallReported(device="a", state=report.state, report=report)
    retired = acted(OperatorAction.RETIRE, "a")
    view = folded(born("a"), ordered(1, "x"), said, ordered(2, "y"), retired)
    found = [
        (
            point["at"],
            [(one["digest"], one["confirmed"], one["devices"]) for one in point["running"]],
        )
        for point in version_history(view)
    ]
    assert found == [
        (0.0, [("", False, 1)]),
        (2.0, [("x", True, 1)]),
        (3.0, [("x", False, 1)]),
        (4.0, []),
    ]
    assert version_history(view)[1]["running"][0]["release"] == "unknown x"
