"""What a device is sent of what it earned: the operator, its memory and its failures limit it."""

import msgspec
import pytest

from broker.messages import InstallState
from broker.topics import DownTopic, ServerSays
from coordinator.capacity import deployed_width, granted_width
from coordinator.duties import Export, job
from coordinator.fleet import Phase
from coordinator.publications import publications
from coordinator.settings import Rewards
from journal import events as e
from tests.fakes.office import MIB, Office, curve, profile, settings

A, B, C = "press", "lathe", "mill"
LADDER = (0.125, 0.25, 0.5, 0.75, 1.0)
KILLED = "try-again:killed"


def office(*devices, rounds=None, **rewards):
    waits = {"min_devices": len(devices)} | (rounds or {})
    return Office(settings(rounds=waits, rewards=Rewards(ladder=LADDER, **rewards))).begin(*devices)


def trained(*devices, **changes):
    return office(*devices, **changes).finish_training()


def deployed(desk, device):
    return deployed_width(desk.state, desk.device(device), desk.settings)


def small(memory):
    return profile(memory_total=memory)


def test_a_device_is_sent_what_it_earned_where_nothing_limits_it():
    desk = trained(A, B)
    assert deployed(desk, A) == granted_width(desk.device(A), desk.settings)
    assert deployed(desk, A)[0] == 1.0


def test_the_operators_cap_limits_what_is_sent_and_not_what_is_earned():
    desk = trained(A, B, caps={A: 0.5})
    width, why = deployed(desk, A)
    assert (width, desk.device(A).reward.width) == (0.5, 1.0)
    assert (
        why == "width 0.5 of the 1 it is entitled to: the operator allows this device at most 0.5"
    )
    assert job(desk.state) == Export((0.5, 1.0))
    desk.exported()
    assert (desk.device(A).deployed.width, desk.device(B).deployed.width) == (0.5, 1.0)


def test_where_nothing_is_offered_within_the_cap_there_is_no_release():
    desk = office(A, B, caps={A: 0.125}, rounds={"budget": 1, "minimum": 1})
    for device in (A, B):
        desk.fetched(device)
    desk.scored(points=without(0.125))
    width, why = deployed(desk, A)
    assert width == 0.0
    assert why.startswith("no release, although entitled to 1: the operator allows")
    desk.exported()
    assert desk.device(A).deployed is None
    standing = publications(desk.state, {}, lambda *_: None)[DownTopic(A, ServerSays.STANDING)]
    assert standing.entitled_width == 1.0
    assert standing.width_reasons["deployed"] == why


def test_a_width_that_needs_more_memory_than_the_device_has_is_not_sent():
    desk = office(A, B)
    desk.profiled(A, small(25 * MIB))
    desk.finish_training()
    assert deployed(desk, A) == (
        0.5,
        "width 0.5 of the 1 it is entitled to: 1 would need at least 40 of its 25 MiB",
    )


def test_a_device_without_the_memory_for_any_width_gets_none():
    desk = office(A, B)
    desk.profiled(A, small(MIB))
    desk.finish_training()
    assert deployed(desk, A)[0] == 0.0
    assert "1 would need at least 40 of its 1 MiB" in deployed(desk, A)[1]


def test_what_training_may_use_limits_inference_on_emulated_machines_only():
    desk = office(A, B)
    desk.profiled(A, profile(memory_total=MIB, memory_budget=25 * MIB, emulated="old-pc"))
    desk.profiled(B, profile(memory_total=100 * MIB, memory_budget=25 * MIB))
    desk.finish_training()
    assert (deployed(desk, A)[0], deployed(desk, B)[0]) == (0.5, 1.0)


def test_a_device_that_says_nothing_of_its_memory_is_not_limited_by_it():
    assert deployed(trained(A, B), A)[0] == 1.0


def test_only_offered_widths_are_sent():
    desk = office(A, B, caps={A: 0.75}, rounds={"budget": 1, "minimum": 1})
    for device in (A, B):
        desk.fetched(device)
    desk.scored(points=without(0.75))
    assert deployed(desk, A)[0] == 0.5


def without(width):
    return tuple(
        msgspec.structs.replace(point, offered=point.width != width, why="dominated")
        for point in curve()
    )


def test_a_device_earns_nothing_by_its_capacity():
    desk = office(A, B, C).finish_training({A: 0.2, B: 0.2, C: 0.0})
    assert deployed(desk, C)[0] == 0.0
    assert "below the cut-off" in deployed(desk, C)[1]


# --- stepping down ------------------------------------------------------------------------------


def test_a_device_that_has_no_memory_for_its_model_is_sent_the_next_narrower_one():
    desk = trained(A, B)
    desk.exported()
    desk.confirm(B)
    events = desk.confirm(A, InstallState.FAILED, running="", code=KILLED)
    assert [type(one).__name__ for one in events] == [
        "InstallReported",
        "ReleaseDue",
        "RewardsAllocated",
    ]
    assert A in events[1].reason
    assert job(desk.state) == Export((0.75, 1.0))
    before = desk.device(B).deployed
    events = desk.exported()
    assert desk.device(A).deployed.width == 0.75
    assert "1 failed to install here for want of memory or time" in desk.device(A).deployed.reason
    assert desk.device(B).deployed == before, "what runs is not sent again"
    assert desk.device(A).reward.width == 1.0
    desk.confirm(A)
    assert desk.state.phase is Phase.FINISHED
    assert desk.replayed() == desk.state


def test_each_report_steps_down_once_and_the_narrowest_is_the_last():
    desk = trained(A, B)
    desk.exported()
    desk.confirm(B)
    seen = [desk.device(A).deployed.width]
    while desk.state.phase is Phase.DELIVERING:
        desk.confirm(A, InstallState.FAILED, running="", code=KILLED)
        if desk.state.phase is Phase.EXPORTING:
            desk.exported()
            seen.append(desk.device(A).deployed.width)
    assert seen == [1.0, 0.75, 0.5, 0.25, 0.125]
    assert desk.state.phase is Phase.FINISHED


@pytest.mark.parametrize("code", ["try-again", "wrong-output", "bad-signature", ""])
def test_another_failure_does_not_step_down(code):
    desk = trained(A, B)
    desk.exported()
    desk.confirm(B)
    desk.confirm(A, InstallState.FAILED, running="", code=code)
    assert desk.state.phase is Phase.FINISHED
    assert desk.device(A).failed_width == 0.0


def test_a_report_on_another_deployment_does_not_step_down():
    desk = trained(A, B)
    desk.exported()
    desk.confirm(A, InstallState.FAILED, counter=99, running="", code=KILLED)
    assert desk.device(A).failed_width == 0.0


def test_an_export_that_fails_meanwhile_does_not_repeat_for_ever():
    desk = trained(A, B)
    desk.exported()
    desk.confirm(B)
    desk.confirm(A, InstallState.FAILED, running="", code=KILLED)
    for _ in range(desk.settings.releases.attempts):
        desk.failed()
    assert desk.state.withheld.startswith("export failed")
    assert desk.state.phase is Phase.FINISHED


def test_while_training_goes_on_the_next_release_is_narrower():
    desk = office(A, B, rounds={"budget": 2, "minimum": 2, "release_every": 1})
    desk.round_()
    desk.exported()
    desk.confirm(A, InstallState.FAILED, running="", code=KILLED)
    assert desk.state.phase is Phase.TRAINING
    desk.round_()
    desk.exported()
    assert (desk.device(A).deployed.width, desk.device(B).deployed.width) == (0.75, 1.0)


def test_a_device_that_measures_itself_anew_is_sent_all_of_it_again():
    desk = trained(A, B)
    desk.exported()
    desk.confirm(A, InstallState.FAILED, running="", code=KILLED)
    assert deployed(desk, A)[0] == 0.75
    desk.profiled(A, profile(memory_total=2000 * MIB))
    assert deployed(desk, A)[0] == 1.0
    assert len(desk.of(e.InstallReported)) == 1


def test_who_is_still_at_the_same_file_is_not_sent_it_again():
    desk = trained(A, B, C)
    desk.exported()
    desk.confirm(B)
    desk.confirm(A, InstallState.FAILED, running="", code=KILLED)
    desk.confirm(C)
    desk.exported()
    assert [desk.device(name).counter for name in (A, B, C)] == [2, 1, 1]


def test_a_step_down_waits_for_nobody_who_has_not_answered():
    desk = trained(A, B)
    desk.exported()
    desk.confirm(A, InstallState.FAILED, running="", code=KILLED)
    assert desk.state.phase is Phase.EXPORTING
    desk.exported()
    assert [desk.device(name).counter for name in (A, B)] == [2, 1]
    desk.confirm(B)
    desk.confirm(A)
    assert desk.state.phase is Phase.FINISHED
