"""What the agent process keeps between its starts."""

import json
import time

from slimfleet.agent_process import next_session


def test_each_start_of_a_device_has_a_higher_session(tmp_path):
    path = tmp_path / "session.json"
    first, second = next_session(path), next_session(path)

    assert second == first + 1


def test_a_device_set_up_anew_is_not_taken_for_a_message_of_the_past(tmp_path):
    """Its session is above any that was counted one by one, so the server listens to it."""
    before = int(time.time())
    session = next_session(tmp_path / "session.json")

    assert session > before - 1


def test_a_damaged_session_file_starts_from_the_clock_and_is_mended(tmp_path):
    path = tmp_path / "session.json"
    path.write_bytes(b"\x00garbage")
    before = int(time.time())
    session = next_session(path)

    assert session >= before
    assert json.loads(path.read_bytes()) == {"session": session}
