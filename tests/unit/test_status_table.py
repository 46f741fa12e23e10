import itertools
import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import (
    Alive,
    Checkpoint,
    Contradiction,
    ContradictionKind,
    LinkStatus,
    Participation,
    Profile,
    ServerState,
    SignedCheckpoint,
    SignedEnvelope,
    Witness,
)
from broker.permissions import operator_permissions
from broker.topics import DeviceSays, ServerTells, ServerTopic, UpTopic, operator_filters
from monitor.status_table import (
    StatusView,
    fold,
    status_data,
    status_filters,
    status_lines,
)
from monitor.terminal_text import plain
from tests.fakes.fleet_status import (
    STATE,
    STATE_TOPIC,
    SUMMARY_TOPIC,
    birth,
    birth_topic,
    fleet_messages,
    standing,
    standing_topic,
    summary,
)

GOLDEN = """\
fleet pumps: training, round 7: 2 of 3 devices answered; round 7 of at most 12;
  1 of 3 devices there; score 0.712 at full width
! devices hold their width
! 1 of 3 machines are EMULATED

device link    takes  trains earned  sent   runs rounds contri-
               part    width  width width  width in/out  bution
pump-1 online  yes       0.5  0.375  0.25 0.0625   11/1  +0.125
    EMULATED machine: raspberry-pi-4
    takes part: width 0.5: predicted 1.2 s of 3 s
    earned: 1.40 times the average contribution
    sent: first release
    runs: not confirmed
    last missed: late: 0.4 s after the deadline
pump-2 late    paused      -      -     -      -   11/0       -
    paused: bearing is being changed
pump-3 offline no          -  0.375  0.25 0.0625    0/0  +0.125
    takes no part: no width fits its memory"""


def folded(messages, fleet="pumps"):
    view = StatusView(fleet)
    for topic, message in messages:
        view = fold(view, topic, message)
    return view


def test_the_table_of_a_small_fleet():
    assert "\n".join(status_lines(folded(fleet_messages()))) == GOLDEN


@pytest.mark.parametrize(
    ("offset", "said"),
    [
        (3600.4, "clock: 3600 s ahead of the server's"),
        (-90.0, "clock: 90 s behind the server's"),
        (0.4, None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_a_clock_that_is_off_is_shown(offset, said):
    told = (UpTopic("pump-1", DeviceSays.PROFILE), Profile(clock_offset_s=offset))
    view = folded([*fleet_messages(), told])
    shown = [line for line in status_lines(view) if "clock" in line]
    assert shown == ([f"    {said}; set it, times shown are off"] if said else [])
    data = {one["device"]: one["clock_offset_s"] for one in status_data(view)["devices"]}
    assert data["pump-1"] == (offset if offset is not None and math.isfinite(offset) else None)
    assert data["pump-2"] is None


CAP = "held at 0.5 at most by anna: runs hot"


def shown_of(device, **changes):
    """The lines below a device's row, and its row."""
    view = folded([*fleet_messages(), (standing_topic(device), standing(**changes))])
    lines = status_lines(view)
    row = next(line for line in lines if line.startswith(device))
    below = lines[lines.index(row) + 1 :]
    return row, below[: next((n for n, one in enumerate(below) if one[0] != " "), None)]


def test_a_cap_is_shown_once_with_whose_it_is():
    _, below = shown_of("pump-1", training_cap=0.5, width_reasons={"cap": CAP})
    assert f"    cap: {CAP}" in below
    reason = f"width 0.5: {CAP}"
    _, below = shown_of("pump-1", training_cap=0.5, reason=reason, width_reasons={"cap": CAP})
    assert f"    takes part: {reason}" in below
    assert not [line for line in below if line.startswith("    cap:")]
    _, below = shown_of("pump-1", training_cap=0.5)
    assert "    cap: trains 0.5 at most" in below


def test_a_retired_device_is_shown_as_that_with_the_reason_whatever_its_link_is():
    why = "retired by anna via monitor: scrapped"
    changes = {"participation": Participation.SUSPENDED, "reason": why, "retired": True}
    row, below = shown_of("pump-1", **changes)
    assert row.split()[:3] == ["pump-1", "retired", "no"]
    assert f"    takes no part: {why}" in below
    view = folded([*fleet_messages(), (standing_topic("pump-1"), standing(**changes))])
    data = {one["device"]: one for one in status_data(view)["devices"]}
    assert (data["pump-1"]["retired"], data["pump-1"]["link"]) == (True, "retired")
    assert (data["pump-2"]["retired"], data["pump-2"]["training_cap"]) == (False, 0.0)


def test_the_order_of_arrival_does_not_matter():
    forward, backward = folded(fleet_messages()), folded(reversed(fleet_messages()))
    assert status_lines(forward) == status_lines(backward)


def test_the_newest_message_of_a_topic_counts():
    view = folded([*fleet_messages(), (standing_topic("pump-1"), standing(rounds_taken=12))])
    assert any("12/1" in line for line in status_lines(view))


def test_a_view_is_complete_when_everybody_listed_was_heard():
    messages = fleet_messages()
    for count in range(len(messages)):
        assert not folded(messages[:count]).complete
    assert folded(messages).complete


def test_devices_beyond_the_summary_are_waited_for():
    messages = [
        (STATE_TOPIC, STATE),
        (SUMMARY_TOPIC, summary(("pump-1", "online"), more=1)),
        (birth_topic("pump-1"), birth()),
        (standing_topic("pump-1"), standing()),
    ]
    assert not folded(messages).complete
    messages += [(birth_topic("pump-2"), birth()), (standing_topic("pump-2"), standing())]
    view = folded(messages)
    assert view.complete
    assert view.devices == ("pump-1", "pump-2")
    assert view.link("pump-2") == "online"  # by its own word


def witness(*, contradicts=False, **changed):
    envelope = SignedEnvelope(kind="checkpoint", payload=b"", signatures=())
    found = Contradiction(kind=ContradictionKind.SMALLER_TREE, kept=envelope, seen=envelope)
    return Witness(
        size=120,
        root=b"r" * 32,
        contradiction=found if contradicts else None,
        **changed,
    )


def test_a_contradiction_that_a_device_reports_is_said_first_and_below_the_device():
    told = (UpTopic("pump-2", DeviceSays.WITNESS), witness(contradicts=True))
    lines = status_lines(folded([*fleet_messages(), told]))
    alarm = next(at for at, line in enumerate(lines) if line.startswith("!"))
    assert lines[alarm].startswith("! THE SERVER'S HISTORY WAS CHANGED, report: pump-2;")
    text = " ".join(" ".join(lines).split())
    assert "CONTRADICTION (smaller-tree): it keeps a checkpoint of 120 events" in text
    assert max(map(len, lines)) <= 80


def test_a_witness_without_a_contradiction_changes_nothing_in_the_table():
    told = (UpTopic("pump-2", DeviceSays.WITNESS), witness())
    assert "\n".join(status_lines(folded([*fleet_messages(), told]))) == GOLDEN


def test_the_data_name_the_checkpoint_and_what_each_device_keeps():
    document = Checkpoint(fleet="pumps", size=200, root=b"s" * 32, signed_at=5.0)
    signed = SignedCheckpoint(
        checkpoint=SignedEnvelope(
            kind="checkpoint", payload=msgspec.msgpack.encode(document), signatures=()
        )
    )
    view = folded([
        *fleet_messages(),
        (ServerTopic(ServerTells.CHECKPOINT), signed),
        (UpTopic("pump-1", DeviceSays.WITNESS), witness(signed_at=float("nan"))),
        (UpTopic("pump-2", DeviceSays.WITNESS), witness(contradicts=True)),
    ])  # fmt: skip
    data = status_data(view)
    assert data["checkpoint"] == {"size": 200, "root": "73" * 32, "signed_at": 5.0}
    assert data["contradicted"] == ["pump-2"]
    kept = {one["device"]: one["witness"] for one in data["devices"]}
    assert kept["pump-3"] is None
    assert kept["pump-1"]["size"] == 120
    assert kept["pump-2"]["contradiction"] == "smaller-tree"
    assert "NaN" not in json.dumps(data)


def test_a_checkpoint_that_cannot_be_read_is_none():
    garbled = SignedCheckpoint(
        checkpoint=SignedEnvelope(kind="checkpoint", payload=b"\xc1", signatures=())
    )
    view = folded([*fleet_messages(), (ServerTopic(ServerTells.CHECKPOINT), garbled)])
    assert status_data(view)["checkpoint"] is None


def test_what_a_witness_says_is_waited_for_where_the_agent_is_one():
    messages = [
        (STATE_TOPIC, STATE),
        (SUMMARY_TOPIC, summary(("pump-1", "online"), ("old", "online"))),
        (birth_topic("pump-1"), birth(witness=True)),
        (standing_topic("pump-1"), standing()),
        (birth_topic("old"), birth()),
        (standing_topic("old"), standing()),
    ]
    assert not folded(messages).complete
    assert folded([*messages, (UpTopic("pump-1", DeviceSays.WITNESS), witness())]).complete


def test_a_fleet_without_devices_is_complete():
    view = folded([(STATE_TOPIC, STATE), (SUMMARY_TOPIC, summary())])
    assert view.complete
    assert status_lines(view)[-1] == "no device has appeared yet"


def test_a_fleet_that_nobody_serves_says_so():
    lines = status_lines(StatusView("pumps"))
    assert lines[0] == "fleet pumps: no server has served it on this broker"


def test_a_server_that_is_away_is_named_first():
    messages = [*fleet_messages(), (STATE_TOPIC, ServerState(status=LinkStatus.OFFLINE))]
    assert "! the server is OFFLINE: what follows is its last word" in status_lines(
        folded(messages)
    )


def test_a_device_that_the_server_has_not_judged_is_visible():
    view = folded([(STATE_TOPIC, STATE), (birth_topic("pump-9"), birth())])
    lines = status_lines(view)
    assert any(line.startswith("pump-9 online ?") for line in lines)
    assert "    the server has not said where this device stands" in lines
    assert any("not every device was heard" in line for line in lines)
    assert status_data(view)["devices"][0]["known"] is False


def test_other_messages_change_nothing():
    view = folded(fleet_messages())
    assert fold(view, UpTopic("pump-1", DeviceSays.ALIVE), Alive()) == view
    assert fold(view, birth_topic("pump-1"), standing()) == view


def test_the_data_form_is_json_and_holds_every_width_with_its_reason():
    data = json.loads(json.dumps(status_data(folded(fleet_messages()))))
    assert data["fleet"] == "pumps"
    assert data["complete"] is True
    assert data["summary"]["phase"] == "training"
    first = data["devices"][0]
    assert first == {
        "device": "pump-1",
        "link": "online",
        "agent": "slimfleet 0",
        "can_train": True,
        "emulated": "raspberry-pi-4",
        "known": True,
        "clock_offset_s": None,
        "witness": None,
        "participation": "takes-part",
        "reason": "width 0.5: predicted 1.2 s of 3 s",
        "training_width": 0.5,
        "entitled_width": 0.375,
        "deployed_width": 0.25,
        "running_width": 0.0625,
        "width_reasons": {
            "training": "width 0.5: predicted 1.2 s of 3 s",
            "entitled": "1.40 times the average contribution",
            "deployed": "first release",
            "running": "not confirmed",
        },
        "rounds_taken": 11,
        "rounds_missed": 1,
        "last_drop": "late: 0.4 s after the deadline",
        "contribution": 0.125,
        "method": "permutation-shapley",
        "confirmed": "",
        "local_score": None,
        "local_samples": 0,
        "training_cap": 0.0,
        "retired": False,
    }


def test_the_data_form_of_nothing_is_empty():
    assert status_data(StatusView("pumps")) == {
        "fleet": "pumps",
        "complete": False,
        "server": None,
        "summary": None,
        "checkpoint": None,
        "contradicted": [],
        "devices": [],
    }


def test_control_characters_never_reach_the_terminal():
    hostile = "\x1b[2Jgone\r\n\x07"
    messages = [
        (STATE_TOPIC, ServerState(status=LinkStatus.ONLINE, notice=hostile)),
        (SUMMARY_TOPIC, summary(("pump-1", hostile), phase=hostile, detail=hostile)),
        (birth_topic("pump-1"), birth(emulated=hostile)),
        (
            standing_topic("pump-1"),
            standing(reason=hostile, width_reasons={"entitled": hostile}, last_drop=hostile),
        ),
    ]
    lines = status_lines(folded(messages))
    assert all(line.isprintable() for line in lines)
    assert any("[2Jgone" in line for line in lines)


@given(st.text())
def test_plain_text_is_printable_and_as_long(text):
    assert plain(text).isprintable()
    assert len(plain(text)) == len(text)


@pytest.mark.parametrize(
    ("participation", "columns"), list(itertools.product(Participation, (80, 120)))
)
def test_no_line_is_wider_than_the_terminal(participation, columns):
    name = "a-device-with-a-name-of-sixty-four-characters-which-is-the-limit"
    judged = standing(
        participation=participation,
        reason="one of the longer sentences that a server may say about a device, " * 3,
        rounds_taken=1000,
        rounds_missed=100,
        contribution=-12.3456,
    )
    view = folded(
        [
            (STATE_TOPIC, STATE),
            (SUMMARY_TOPIC, summary((name, "never-seen"))),
            (birth_topic(name), birth()),
            (standing_topic(name), judged),
        ]
    )
    lines = status_lines(view, columns)
    assert max(map(len, lines)) <= columns
    assert name in " ".join(" ".join(lines).split())


def test_an_operator_may_read_what_a_status_is_made_of():
    asked = status_filters("pumps")
    allowed = operator_permissions("pumps", "anna")
    assert all(allowed.may_read(filter_.replace("+", "pump-1")) for filter_ in asked)
    known = operator_filters("pumps", "anna")
    assert all(f in known or "/srv/" in f for f in asked)
