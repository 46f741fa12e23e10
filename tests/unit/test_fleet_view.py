"""What the operator sees of devices and rounds follows from the journal, and from nothing else."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages import (
    ContradictionKind,
    DropReason,
    InstallState,
    OperatorAction,
    Participation,
    Report,
    Stage,
    Telemetry,
    TrainingSettings,
)
from journal import events as e
from monitor.device_data import Seen, device_detail
from monitor.device_view import Link
from monitor.drift import ConfidenceDrift, stability_index
from monitor.fleet_data import overview, version_shares
from monitor.fleet_view import KEPT_ROUNDS, FleetView
from monitor.folding import fold
from monitor.round_data import round_rows
from monitor.round_view import STEPS

TRAINING = TrainingSettings(
    steps=5, batch_size=8, learning_rate=0.1, momentum=0.9, weight_decay=0.0, widths=(1.0,)
)
SEEN = Seen(now=100.0, server_online=True)


def born(name, can_train=True):
    return e.DeviceBorn(device=name, session=1, agent="1.0", can_train=can_train, running="")


def opened(number, *names, not_invited=None, **changes):
    known = {
        "round": number,
        "base": "",
        "tasks": tuple(e.RoundTask(device=n, width=1.0, predicted_s=1.0, seed=0) for n in names),
        "not_invited": not_invited or {},
        "budget_s": 30.0,
        "quorum": 1,
        "training": TRAINING,
    }
    return e.RoundOpened(**known | changes)


def accepted(number, name, round_s=2.0, width=1.0):
    return e.UpdateAccepted(
        round=number,
        device=name,
        width=width,
        blob="b",
        digest="d",
        size=100,
        samples=10,
        steps=5,
        loss=0.5,
        download_s=0.1,
        train_s=1.0,
        round_s=round_s,
    )


def dropped(number, name, reason=DropReason.OFFLINE, detail=""):
    return e.DeviceDropped(round=number, device=name, reason=reason, detail=detail)


def closed(number, *names, **changes):
    return e.RoundClosed(round=number, aggregated=names, reason="all have answered", **changes)


def acted(action, device="", done=True):
    return e.OperatorActed(
        operator="anna", command_id="1", action=action, device=device, reason="bearing", done=done
    )


def commanded(action, device="a", reason="bearing", **changes):
    return e.OperatorActed(
        operator="monitor",
        command_id="1",
        action=action,
        device=device,
        reason=reason,
        on_behalf_of="anna",
        **{"done": True} | changes,
    )


def folded(*events, start=0.0):
    view = FleetView()
    for at, event in enumerate(events):
        fold(view, start + at, event)
    return view


def test_participation_is_the_share_of_eligible_rounds_whose_aggregate_holds_the_update():
    view = folded(
        born("a"),
        born("b"),
        opened(1, "a", "b"),
        accepted(1, "a"),
        dropped(1, "b", DropReason.LATE),
        closed(1, "a"),
        opened(2, "a", not_invited={"b": "offline: heard nothing for 90 s"}),
        accepted(2, "a"),
        closed(2, "a"),
    )
    assert view.devices["a"].participation_ratio == 1
    assert view.devices["b"].participation_ratio == 0
    assert view.devices["b"].eligible == 2
    assert [turn.outcome for turn in view.devices["b"].turns] == ["late", "not invited"]
    assert view.rounds[2].drops == {"offline": 1}


def test_rounds_that_an_operator_keeps_a_device_out_of_do_not_count_against_it():
    view = folded(
        born("a"),
        born("b"),
        born("c"),
        born("d", can_train=False),
        acted(OperatorAction.SUSPEND, "b"),
        opened(
            1,
            "a",
            not_invited={"b": "suspended", "c": "outside of its hours", "d": "no torch"},
            excused=("c",),
        ),
        closed(1, "a"),
    )
    assert [view.devices[name].eligible for name in "abcd"] == [1, 0, 0, 0]
    assert view.rounds[1].funnel["eligible"] == 1


def test_rounds_for_which_others_were_drawn_and_assessments_do_not_count():
    view = folded(
        born("a"),
        born("b"),
        opened(1, "a", not_drawn=("b",)),
        closed(1, "a"),
        opened(2, "a", "b", assessment=True),
        accepted(2, "a"),
        closed(2, "a", "b"),
    )
    assert view.devices["a"].eligible == view.devices["a"].taken == 1
    assert view.devices["b"].eligible == 0
    assert view.rounds[1].funnel == dict(zip(STEPS, (2, 1, 1, 1, 1, 1), strict=True))
    assert view.rounds[1].not_invited == {"b": "not drawn"}


def test_a_surplus_device_was_not_waited_for_and_missed_nothing():
    view = folded(
        born("a"),
        born("b"),
        opened(1, "a", "b", enough=1),
        accepted(1, "a"),
        dropped(1, "b", DropReason.SURPLUS),
        closed(1, "a"),
    )
    assert view.devices["b"].participation_ratio is None


def test_a_round_below_its_quorum_counts_for_nobody():
    view = folded(born("a"), opened(1, "a"), accepted(1, "a"), closed(1))
    assert view.devices["a"].participation_ratio == 0
    assert view.devices["a"].turns[0].outcome == "quorum missed"
    assert view.counted == 0
    assert view.rounds[1].counted is False


def test_a_late_update_that_counts_in_a_later_round_is_participation_after_all():
    view = folded(
        born("a"),
        born("b"),
        opened(1, "a", "b", late_s=60.0),
        accepted(1, "a"),
        closed(1, "a", owed=("b",)),
        accepted(1, "b", round_s=50.0),
        opened(2, "a"),
        accepted(2, "a"),
        closed(2, "a", late=(e.LateStep(device="b", round=1, staleness=1, weight=0.5),)),
    )
    device = view.devices["b"]
    assert (device.taken, device.eligible) == (1, 1)
    assert device.turns[0].outcome == "aggregated"
    assert not device.drops
    assert view.rounds[1].tasks["b"].late


def test_the_funnel_tells_how_far_each_device_came():
    progress = [
        e.TaskProgressed(round=1, device="a", stage=Stage.ACCEPTED),
        e.TaskProgressed(round=1, device="a", stage=Stage.STARTED, downloaded_bytes=70),
        e.TaskProgressed(round=1, device="b", stage=Stage.ACCEPTED),
        e.TaskProgressed(
            round=1, device="b", stage=Stage.FAILED, reason=DropReason.OUT_OF_MEMORY, detail="full"
        ),
    ]
    view = folded(
        *(born(name) for name in "abc"),
        opened(1, "a", "b", "c"),
        *progress,
        accepted(1, "a"),
        dropped(1, "b", DropReason.OUT_OF_MEMORY),
        dropped(1, "c"),
        closed(1, "a"),
    )
    found = view.rounds[1]
    assert found.funnel == dict(zip(STEPS, (3, 3, 2, 1, 1, 1), strict=True))
    assert found.drops == {"out-of-memory": 1, "offline": 1}
    assert (found.sent, found.received) == (100, 70)
    assert "full" in view.devices["b"].errors[-1].text


def test_a_straggler_is_compared_with_devices_of_the_same_width():
    events = [born(name) for name in "abcd"]
    for number in (1, 2, 3):
        tasks = (("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 0.5))
        tasks = tuple(
            e.RoundTask(device=name, width=width, predicted_s=1.0, seed=0) for name, width in tasks
        )
        events.append(opened(number, tasks=tasks))
        for name, width, seconds in (
            ("a", 1.0, 2.0),
            ("b", 1.0, 2.0),
            ("c", 1.0, 6.0),
            ("d", 0.5, 60.0),
        ):
            events.append(accepted(number, name, seconds, width))
        events.append(closed(number, *"abcd"))
    view = folded(*events)
    assert view.devices["c"].straggler_index == 3
    assert view.devices["d"].straggler_index == 1  # alone at its width
    rows = {name: device_detail(view, name, SEEN) for name in "acd"}
    assert "straggler" in rows["c"]["alarms"]
    assert "straggler" not in rows["d"]["alarms"]


def test_link_telemetry_and_work_are_three_facts():
    view = folded(
        born("a"),
        e.PresenceChanged(device="a", state=e.LinkState.ONLINE, cause="birth"),
        opened(1, "a"),
        accepted(1, "a"),
        start=10.0,
    )
    view.hear("a", 50.0, Telemetry(inferences=0))
    device = view.devices["a"]
    assert (device.since, device.telemetry_at, device.useful_at) == (11.0, 50.0, 13.0)
    assert device.useful == "update of round 1"
    view.hear("a", 60.0, Telemetry(inferences=3))
    assert (device.useful_at, device.useful) == (60.0, "inference")


def test_without_a_server_nobody_knows_who_is_online():
    view = folded(
        born("a"), e.PresenceChanged(device="a", state=e.LinkState.ONLINE, cause="birth"), born("b")
    )
    device = view.devices["a"]
    assert device.link(server_online=True) is Link.ONLINE
    assert device.link(server_online=False) is Link.STALE
    assert view.devices["b"].link(server_online=False) is Link.NEVER_SEEN
    found = overview(view, Seen(now=0.0, server_online=False))
    assert found["links"]["stale"] == 1


def test_suspended_devices_say_so_until_they_are_resumed_and_refused_commands_do_nothing():
    view = folded(born("a"), acted(OperatorAction.SUSPEND, "a", done=False))
    assert view.devices["a"].link(server_online=True) is Link.NEVER_SEEN
    fold(view, 3.0, acted(OperatorAction.SUSPEND, "a"))
    assert view.devices["a"].link(server_online=True) is Link.SUSPENDED
    assert device_detail(view, "a", SEEN)["alarms"] == []
    fold(view, 4.0, acted(OperatorAction.RESUME, "a"))
    assert view.devices["a"].suspended == ""
    fold(view, 5.0, acted(OperatorAction.PAUSE_ROUNDS))
    assert view.paused == "paused by anna: bearing"
    fold(view, 6.0, acted(OperatorAction.RESUME_ROUNDS))
    assert view.paused == ""


def test_whoever_is_away_does_not_take_part_whatever_was_last_decided_about_its_width():
    takes = e.WidthChosen(
        device="a", width=1.0, participation=Participation.TAKES_PART, reason="fits"
    )
    here = e.PresenceChanged(device="a", state=e.LinkState.ONLINE, cause="birth")
    gone = e.PresenceChanged(device="a", state=e.LinkState.OFFLINE, cause="will")
    view = folded(born("a"), here, takes)
    device = view.devices["a"]
    assert device.takes_part(server_online=True) == ("takes-part", "fits")
    assert device.takes_part(server_online=False) == ("waiting", "stale: birth")
    fold(view, 4.0, gone)
    assert device.takes_part(server_online=True) == ("waiting", "offline: will")
    fold(view, 5.0, acted(OperatorAction.SUSPEND, "a"))
    assert device.takes_part(server_online=True) == ("suspended", "suspended by anna: bearing")
    assert overview(view, SEEN)["participation"] == {"suspended": 1}


def test_what_operators_do_is_seen_on_the_device_and_lifted_again():
    view = folded(born("a"), acted(OperatorAction.RETIRE, "a"))
    device = view.devices["a"]
    assert device.link(server_online=True) is Link.RETIRED
    fold(view, 2.0, acted(OperatorAction.RESUME, "a"))
    assert device.link(server_online=True) is Link.NEVER_SEEN
    capped = acted(OperatorAction.CAP_WIDTH, "a")
    fold(view, 3.0, msgspec.structs.replace(capped, width=0.5, on_behalf_of="eva"))
    assert device_detail(view, "a", SEEN)["cap_width"] == 0.5
    assert device.cap == "held at 0.5 at most by eva via anna: bearing"
    fold(view, 4.0, capped)
    assert (device.cap_width, device.cap) == (0.0, "")
    fold(view, 5.0, acted(OperatorAction.NOTE, "a"))
    fold(view, 6.0, acted(OperatorAction.NOTE))
    assert [one.text for one in device.notes] == ["anna: bearing"]
    assert [one.text for one in view.notes] == ["anna: bearing"]


def test_a_device_whose_checkpoint_denies_the_journal_is_an_alarm_until_it_is_settled():
    told = e.ContradictionReported(
        device="a",
        kind=ContradictionKind.OTHER_ROOT,
        kept_size=90,
        kept_root="aa",
        seen_size=120,
        seen_root="bb",
        proven=True,
    )
    view = folded(born("a"), acted(OperatorAction.SUSPEND, "a"), told)
    row = device_detail(view, "a", SEEN)
    assert row["alarms"] == ["the journal was changed"]  # whether it takes part or not
    assert "kept a checkpoint of 90 records and was shown one of 120" in row["contradiction"]
    assert [one.kind for one in view.incidents] == ["audit"]
    fold(view, 9.0, e.ContradictionSettled(device="a", reason="restored from Monday's copy"))
    assert device_detail(view, "a", SEEN)["contradiction"] == ""
    assert "Monday" in view.devices["a"].timeline[-1].text


def test_a_model_is_confirmed_by_the_device_alone():
    order = e.DeploymentIssued(
        device="a", counter=2, digest="new", width=0.5, reason="earned", expires_at=9e9
    )

    def report(counter, state, running):
        said = Report(counter=counter, state=state, running=running, width=0.5)
        return e.InstallReported(device="a", state=state, report=said)

    view = folded(born("a"), order)
    device = view.devices["a"]
    assert not device.confirmed
    for counter, state, running in (
        (1, InstallState.CONFIRMED, "new"),
        (2, InstallState.INSTALLED, "new"),
        (2, InstallState.CONFIRMED, "old"),
    ):
        fold(view, 5.0, report(counter, state, running))
        assert not device.confirmed
    assert "model not confirmed" in device_detail(view, "a", SEEN)["alarms"]
    fold(view, 6.0, report(2, InstallState.CONFIRMED, "new"))
    assert device.confirmed
    assert version_shares(view) == [
        {"digest": "new", "release": "unknown new", "confirmed": True, "devices": 1}
    ]


def test_a_device_that_the_settings_name_and_nobody_saw_is_listed_as_never_seen():
    started = e.CampaignStarted(
        fleet="pumps",
        model="mlp",
        options={},
        spec_hash="",
        widths=(1.0,),
        ladder=(1.0,),
        seed=0,
        software="1",
        settings={"labels": {"pump-9": {"site": "hall-2"}}},
    )
    view = folded(started)
    found = device_detail(view, "pump-9", SEEN)
    assert (found["link"], found["site"]) == ("never-seen", "hall-2")
    assert overview(view, SEEN)["sites"] == ["hall-2"]


def test_what_nobody_knows_has_no_page():
    assert device_detail(FleetView(), "nobody", SEEN) is None
    assert overview(FleetView(), SEEN)["phase"] == "empty"


def test_old_rounds_are_let_go_and_what_devices_did_in_them_is_not():
    view = folded(born("a"))
    for number in range(1, KEPT_ROUNDS + 51):
        for event in (opened(number, "a"), accepted(number, "a"), closed(number, "a")):
            fold(view, float(number), event)
    assert len(view.rounds) == KEPT_ROUNDS
    assert view.devices["a"].taken == view.opened == view.counted == KEPT_ROUNDS + 50
    assert round_rows(view)[0]["round"] == KEPT_ROUNDS + 50


def test_drift_is_zero_where_nothing_moved_and_is_not_told_from_few_samples():
    drift = ConfidenceDrift.empty(10)
    drift.add([0] * 9 + [150])
    assert drift.index is None
    drift.add([0] * 9 + [150])
    drift.add([0] * 9 + [250])
    assert drift.index == pytest.approx(0, abs=0.01)
    for _ in range(20):
        drift.add([50] + [0] * 9)
    assert drift.index > 0.2


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=10))
def test_the_stability_index_is_never_negative_and_the_same_both_ways(bins):
    before, after = [b for b, _ in bins], [a for _, a in bins]
    if not sum(before) or not sum(after):
        with pytest.raises(ValueError, match="without samples"):
            stability_index(before, after)
        return
    assert stability_index(before, after) >= -1e-12
    assert stability_index(before, after) == pytest.approx(stability_index(after, before))
    assert stability_index(before, before) == pytest.approx(0)


NAMES = ("a", "b", "c")
EVENTS = st.one_of(
    st.builds(born, st.sampled_from(NAMES), st.booleans()),
    st.builds(
        lambda number, names, away: opened(
            number, *names, not_invited=dict.fromkeys(set(away) - set(names), "offline")
        ),
        st.integers(1, 3),
        st.sets(st.sampled_from(NAMES)),
        st.sets(st.sampled_from(NAMES)),
    ),
    st.builds(accepted, st.integers(1, 4), st.sampled_from(NAMES), st.floats(0.1, 100)),
    st.builds(dropped, st.integers(1, 4), st.sampled_from(NAMES), st.sampled_from(DropReason)),
    st.builds(
        lambda number, names, owed: closed(number, *sorted(names), owed=tuple(sorted(owed))),
        st.integers(1, 4),
        st.sets(st.sampled_from(NAMES)),
        st.sets(st.sampled_from(NAMES)),
    ),
    st.builds(acted, st.sampled_from(OperatorAction), st.sampled_from(NAMES), done=st.booleans()),
    st.builds(
        lambda number, name, stage: e.TaskProgressed(round=number, device=name, stage=stage),
        st.integers(1, 4),
        st.sampled_from(NAMES),
        st.sampled_from(Stage),
    ),
)


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=60))
def test_whatever_the_journal_says_the_view_can_be_shown(events):
    view = folded(*events)
    for found in view.rounds.values():
        steps = list(found.funnel.values())
        assert steps == sorted(steps, reverse=True)
    for device in view.devices.values():
        assert 0 <= device.taken <= device.eligible
        assert isinstance(device.participation, Participation)
        msgspec.json.encode(device_detail(view, device.name, SEEN))
    msgspec.json.encode([overview(view, SEEN), round_rows(view), version_shares(view)])


def test_a_command_for_a_device_that_nobody_knows_makes_none():
    view = folded(born("a"), acted(OperatorAction.SUSPEND, "typo", done=False))
    assert set(view.devices) == {"a"}
    assert len(view.actions) == 1
