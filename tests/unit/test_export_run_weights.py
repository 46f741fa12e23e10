"""Weights of a round, taken from a coordinator's folder."""

import shutil
import sqlite3

import numpy as np
import pytest

from exporter.run_weights import RunError, WeightsGoneError, _listed, read_run
from journal.chain import Record
from journal.errors import ChainError, JournalError
from tests.fakes.finished_run import SPEC_HASH, FinishedRun

OPTIONS = {"into": 4}


def state(number):
    return {"first.weight": np.full((2, 2), number, np.float32)}


class Server(FinishedRun):
    """A run whose weights tell the round."""

    def __init__(self, folder, **changes):
        super().__init__(folder, options=OPTIONS, **changes)

    def finish_round(self, number):
        super().finish_round(number, state(number))


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "data")
    server.initialise(state(0))
    yield server
    server.journal.close()


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_last_finished_round_is_taken_while_the_server_writes(server):
    server.finish_round(1)
    server.finish_round(2)
    before = listing(server.folder)
    run = read_run(server.folder)
    assert listing(server.folder) == before
    assert (run.fleet, run.model, run.options, run.round) == ("plant", "toy", OPTIONS, 2)
    assert run.spec_hash == SPEC_HASH
    assert (run.grid, run.widths) == ((0.5, 1.0), (0.25, 0.5, 1.0))
    assert run.scores == {0.25: 0.1, 0.5: 0.2, 1.0: 0.4}
    np.testing.assert_array_equal(run.state["first.weight"], state(2)["first.weight"])
    server.finish_round(3)
    assert read_run(server.folder).round == 3


def test_a_folder_at_rest_is_read_and_left_as_it_is(server):
    server.finish_round(1)
    server.journal.close()
    before = listing(server.folder)
    assert read_run(server.folder, 1).scores[1.0] == 0.2
    assert listing(server.folder) == before


def test_round_zero_are_the_initial_weights(server):
    server.finish_round(1)
    run = read_run(server.folder, 0)
    assert (run.round, run.scores) == (0, {1.0: 0.05})


def test_a_curve_that_devices_reported_is_no_score_of_the_rounds_own_weights(tmp_path):
    by_devices = {"contributions": {"evaluator": "devices"}}
    server = Server(tmp_path / "data", settings=by_devices)
    server.initialise(state(0), score=0.0)
    server.finish_round(1)
    assert [read_run(server.folder, number).scores for number in (0, 1)] == [{}, {}]
    server.journal.close()


@pytest.mark.parametrize("number", [-1, 3, 99])
def test_an_unknown_round_is_answered_with_those_that_there_are(server, number):
    server.finish_round(1)
    server.finish_round(2)
    with pytest.raises(
        RunError, match=rf"no finished round {number}; there are rounds 0 to 2$"
    ) as refused:
        read_run(server.folder, number)
    assert str(server.folder) in str(refused.value)


def test_a_round_whose_weights_the_server_dropped_is_answered_with_those_kept(server):
    for number in (1, 2, 3):
        server.finish_round(number)
    keep = [server.keep(state(number)) for number in (0, 3)]
    server.blobs.collect(keep)
    assert read_run(server.folder).round == 3
    with pytest.raises(WeightsGoneError, match=r"round 2 are no longer in .*here: rounds 0, 3$"):
        read_run(server.folder, 2)


def test_weights_dropped_between_looking_and_reading_are_looked_for_again(server, monkeypatch):
    server.finish_round(1)
    verify = read_run.__globals__["verify"]

    def meanwhile(records: list[Record], head):
        monkeypatch.undo()
        server.finish_round(2)
        server.blobs.collect([server.keep(state(2))])
        return verify(records, head)

    monkeypatch.setattr("exporter.run_weights.verify", meanwhile)
    assert read_run(server.folder).round == 2


def test_a_run_without_weights_is_told_to_wait(tmp_path):
    server = Server(tmp_path / "data")
    with server.journal, pytest.raises(RunError, match="no weights yet; wait"):
        read_run(tmp_path / "data")


def test_a_folder_that_is_no_servers_is_named(tmp_path):
    with pytest.raises(RunError, match="holds no journal; name the data folder of a server"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="nowhere holds no journal"):
        read_run(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_the_configuration_or_of_a_demo_leads_to_the_data(server, tmp_path):
    assert read_run(tmp_path).round == 0
    demo = tmp_path / "demo" / "server"
    demo.mkdir(parents=True)
    server.journal.close()
    shutil.move(server.folder, demo / "data")
    assert read_run(tmp_path / "demo").fleet == "plant"


def test_damaged_weights_are_never_used(server):
    server.finish_round(1)
    path = server.blobs.folder / server.keep(state(1))
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(RunError, match="weights of round 1 are damaged"):
        read_run(server.folder)


def test_missing_blobs_are_missed_and_not_made(server):
    shutil.rmtree(server.blobs.folder)
    with pytest.raises(RunError, match="no folder 'blobs'"):
        read_run(server.folder)
    assert not server.blobs.folder.exists()


def test_a_forged_journal_is_not_believed(server, tmp_path):
    server.finish_round(1)
    server.journal.close()
    path = server.folder / "journal" / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET payload = replace(payload, 'plant', 'field')")
    connection.close()
    with pytest.raises(ChainError):
        read_run(server.folder)


def test_a_journal_that_is_none_is_said_to_be_damaged(tmp_path):
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "journal.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(JournalError):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([], "none"),
        ([4], "rounds 4"),
        ([0, 1, 2, 5, 7, 8], "rounds 0 to 2, 5, 7 to 8"),
    ],
)
def test_long_lists_of_rounds_are_shortened(rounds, said):
    assert _listed(rounds) == said
