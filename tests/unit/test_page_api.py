"""What the page's server answers: the fleet as it is, whatever devices call themselves."""

import asyncio
import csv
import io
import json

import pytest

from broker.errors import LinkError
from broker.messages import FLEET_ACTIONS, CommandResult, OperatorAction
from journal import events as e
from journal.errors import JournalError
from journal.store import Journal
from monitor.exposition import CONTENT_TYPE
from monitor.folding import fold
from monitor.web.audit_entries import SEARCHED, SHOWN_BYTES
from monitor.web.fleet_csv import COLUMNS, fleet_csv
from monitor.web.live import READERS
from monitor.web.turns import BusyError, Turns
from tests.fakes.page import (
    ANNA_TOKEN,
    BEN_TOKEN,
    EVENTS,
    HOSTILE,
    FakeDesk,
    action,
    serving,
    signed_in,
)
from tests.unit.test_fleet_view import born, opened


async def got(page, path, status=200):
    answer = await page.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def test_the_fleet_is_told_from_the_journal(tmp_path):
    async with serving(tmp_path, people=False) as page:
        overview = await got(page, "/api/overview")
        assert (overview["devices"], overview["rounds_counted"]) == (3, 1)
        assert overview["server_online"] is True
        rows = await got(page, "/api/devices")
        assert [row["device"] for row in rows] == [HOSTILE, "a", "b"]
        assert (await got(page, "/api/devices/a"))["participation"] == 1
        assert (await got(page, "/api/rounds"))[0]["round"] == 1
        assert [task["device"] for task in (await got(page, "/api/rounds/1"))["tasks"]] == [
            "a",
            "b",
        ]
        assert await got(page, "/api/rewards") == []
        versions = await got(page, "/api/versions")
        assert versions["now"][0]["devices"] == 3
        assert versions["history"][-1]["running"][0]["devices"] == 3


async def test_what_is_new_in_the_journal_is_told_with_the_next_look(tmp_path):
    async with serving(tmp_path, people=False) as page:
        with Journal.open(page.journal) as journal:
            journal.append([born("c")], 9.0)
            await page.watch.refresh()
        assert (await got(page, "/api/overview"))["devices"] == 4


async def test_prometheus_gets_the_metrics_of_the_same_view(tmp_path):
    async with serving(tmp_path, people=False) as page:
        answer = await page.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == CONTENT_TYPE
        assert "slimfleet_server_up 1.0" in answer.text
        assert 'slimfleet_participation_ratio{device="a"} 1.0' in answer.text


async def test_with_users_prometheus_needs_a_token_of_one_who_may_view(tmp_path):
    async with serving(tmp_path) as page:
        assert (await page.get("/metrics")).status_code == 401
        token = {"authorization": f"Bearer {BEN_TOKEN}"}
        answer = await page.get("/metrics", headers=token)
        assert answer.status_code == 200
        assert "slimfleet_devices{" in answer.text


async def test_what_is_not_there_is_said_in_one_sentence(tmp_path):
    async with serving(tmp_path, people=False) as page:
        for path in ("/api/devices/nobody", "/api/rounds/77", "/api/audit/77", "/api/nothing"):
            assert "there is no" in (await got(page, path, 404))["error"]
        found = await got(page, "/api/devices/%3Cscript%3E", 404)
        assert found["error"] == "there is no device '<script>'"
        answer = await page.client.post("/api/overview", headers={"Origin": page.origin})
        assert answer.status_code == 401


async def test_a_name_of_markup_stays_a_string_of_json(tmp_path):
    async with serving(tmp_path, people=False) as page:
        answer = await page.get("/api/devices")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert json.loads(answer.text)[0]["device"] == HOSTILE
        detail = await page.get(f"/api/devices/{HOSTILE.replace('/', '%2F')}")
        assert detail.status_code == 404  # no such name stands in a topic
        assert detail.json()["error"]


async def test_before_the_journal_was_read_nothing_is_answered_but_that(tmp_path):
    async with serving(tmp_path, people=False) as page:
        page.watch.ready = False
        found = await got(page, "/api/overview", 503)
        assert "is being read" in found["error"]
        answer = await page.get("/events")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert (await page.get("/healthz")).status_code == 503


async def test_without_a_journal_the_page_says_so_and_serves_it_once_it_is_there(tmp_path):
    async with serving(tmp_path, people=False, events=None) as page:
        overview = await got(page, "/api/overview")
        assert "no journal in" in overview["damage"]
        assert await got(page, "/healthz") == {"ok": False}
        assert "no journal in" in (await got(page, "/api/audit", 503))["error"]
        with Journal.open(page.journal) as journal:
            journal.append([born("a")], 0.0)
        await page.watch.refresh()
        assert await got(page, "/healthz") == {"ok": True}
        assert (await got(page, "/api/overview"))["damage"] == ""


async def test_a_mistake_of_ours_in_one_entry_is_said_and_hides_no_other(
    tmp_path, monkeypatch, caplog
):
    def folding(view, at, event):
        if at == 1.0:
            raise KeyError("b")
        fold(view, at, event)

    monkeypatch.setattr("monitor.feed.fold", folding)
    async with serving(tmp_path, people=False) as page:
        await page.watch.refresh()
        overview = await got(page, "/api/overview")
        assert overview["rounds_counted"] == 1
        assert "KeyError: 'b'; report it" in overview["incidents"][0]["text"]
        assert "internal error" in caplog.text


async def test_an_explanation_is_passed_on_and_runs_beside_everything_else(tmp_path):
    def explain(name):
        if name == "broken":
            raise JournalError("the disk is gone; check it")
        return {"device": name, "text": ["because"]} if name == "a" else None

    async with serving(tmp_path, people=False, explain=explain) as page:
        assert await got(page, "/api/devices/a/explain") == {"device": "a", "text": ["because"]}
        await got(page, "/api/devices/b/explain", 404)
        found = await got(page, "/api/devices/broken/explain", 503)
        assert found["error"] == "the disk is gone; check it"


async def test_long_work_waits_its_turn_and_no_endless_queue_is_made():
    turns, order = Turns(waiting=1), []

    async def work(name):
        async with turns.turn():
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    done = await asyncio.gather(*(work(name) for name in "abc"), return_exceptions=True)
    assert order == ["a begins", "a ends", "b begins", "b ends"]
    assert isinstance(done[2], BusyError)
    await work("d")


# --- audit ---------------------------------------------------------------------------------------


async def test_entries_are_told_newest_first_a_page_at_a_time(tmp_path):
    async with serving(tmp_path, people=False) as page:
        first = await got(page, "/api/audit?limit=4")
        assert [one["index"] for one in first["entries"]] == [5, 4, 3, 2]
        assert (first["head"], first["next"]) == (5, 2)
        rest = await got(page, f"/api/audit?limit=4&before={first['next']}")
        assert [one["index"] for one in rest["entries"]] == [1, 0]
        assert rest["next"] is None
        entries = [*first["entries"], *rest["entries"]]
        assert [one["previous"] for one in entries[:-1]] == [one["hash"] for one in entries[1:]]
        assert entries[-1]["kind"] == "device-born"
        assert entries[-1]["event"] == {
            "device": "a",
            "session": 1,
            "agent": "1.0",
            "can_train": True,
            "running": "",
        }


async def test_entries_are_found_by_device_and_kind(tmp_path):
    async with serving(tmp_path, people=False) as page:

        async def found(query):
            return [one["index"] for one in (await got(page, f"/api/audit?{query}"))["entries"]]

        assert await found("device=b") == [3, 1]  # 3 invites it
        assert await found("device=a") == [5, 4, 3, 0]
        assert await found("kind=round-opened") == [3]
        assert await found("device=b&kind=device-born") == [1]
        assert await found("device=device") == []  # a field's name is no device
        assert await found("device=d") == []  # nor is a digest
        assert await found("device=%22") == []


async def test_a_question_about_the_audit_that_makes_no_sense_is_refused(tmp_path):
    async with serving(tmp_path, people=False) as page:
        await got(page, "/api/audit?before=soon", 400)
        await got(page, "/api/audit?limit=x", 400)
        assert len((await got(page, "/api/audit?limit=-5"))["entries"]) == 1
        assert len((await got(page, "/api/audit?before=99999999999999999999"))["entries"]) == 6
        assert (await got(page, "/api/audit?before=-3"))["entries"] == []


async def test_a_large_entry_is_shown_when_it_is_asked_for(tmp_path):
    away = {f"device-{number}": "offline" for number in range(SHOWN_BYTES // 20)}
    async with serving(tmp_path, people=False, events=[opened(1, "a", not_invited=away)]) as page:
        [entry] = (await got(page, "/api/audit"))["entries"]
        assert entry["event"] is None
        assert entry["bytes"] > SHOWN_BYTES
        assert (await got(page, "/api/audit/0"))["event"]["not_invited"] == away


async def test_a_search_looks_through_so_many_entries_and_says_where_to_go_on(tmp_path):
    beats = [e.PresenceChanged(device="b", state=e.LinkState.LATE, cause="x")] * (SEARCHED + 10)
    async with serving(tmp_path, people=False, events=[]) as page:
        with Journal.open(page.journal) as journal:
            journal.append([born("a"), *beats], 1.0)
        first = await got(page, "/api/audit?device=a")
        assert (first["entries"], first["next"]) == ([], 11)
        second = await got(page, f"/api/audit?device=a&before={first['next']}")
        assert [one["index"] for one in second["entries"]] == [0]
        assert second["next"] is None


# --- for a spreadsheet ---------------------------------------------------------------------------


async def test_the_table_for_a_spreadsheet_has_a_line_for_each_device(tmp_path):
    async with serving(tmp_path, people=False) as page:
        answer = await page.get("/api/devices.csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="devices.csv"'
        lines = list(csv.DictReader(io.StringIO(answer.text)))
        assert [line["device"] for line in lines] == [HOSTILE, "a", "b"]
        assert lines[1]["participation"] == "1.0"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text):
    row = dict.fromkeys(COLUMNS, None) | {"device": text, "drift": -0.5}
    line = next(csv.DictReader(io.StringIO(fleet_csv([row]))))
    assert not line["device"].lstrip().startswith(("=", "+", "-", "@"))
    assert line["drift"] == "-0.5"  # a number is one


# --- actions -------------------------------------------------------------------------------------


async def acted(tmp_path, document, desk=None):
    async with serving(tmp_path, desk=desk) as page:
        await signed_in(page, token=ANNA_TOKEN)
        answer = await page.post("/api/actions", json=document)
        return answer, page.desk.asked


@pytest.mark.parametrize("kind", list(OperatorAction))
async def test_every_action_can_be_asked_for(tmp_path, kind):
    device = "" if kind in FLEET_ACTIONS else "a"
    more = {"width": 0.5} if kind == "cap-width" else {}
    answer, [command] = await acted(tmp_path, action(kind, device=device, **more))
    assert answer.status_code == 200
    assert (command.action, command.device) == (kind, device)
    assert len(command.command_id) == 16


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (action(reason=""), "say why"),
        (action(reason="   "), "say why"),
        (action(reason="x" * 501), "say why"),
        (action("pause-rounds"), "concerns the whole fleet"),
        (action(device=""), "concerns a device"),
        (action(device="a/b"), "use 1 to 64"),
        (action(device="#"), "use 1 to 64"),
        (action("explode"), "not what was asked for"),
        (action(width=0.5), "belongs to cap-width"),
        (action("cap-width"), "belongs to cap-width"),
        (action("cap-width", width=7.0), "between 0 and 1"),
        (action(surprise=1), "not what was asked for"),
    ],
)
async def test_an_action_that_makes_no_sense_is_never_sent(tmp_path, document, said):
    answer, asked = await acted(tmp_path, document)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert asked == []


@pytest.mark.parametrize(
    ("desk", "status", "said"),
    [
        (FakeDesk(answer=None), 504, "whether it was done is not known"),
        (FakeDesk(answer=LinkError("the broker is away")), 503, "the broker is away"),
        (FakeDesk(obstacle="it can only be read"), 503, "it can only be read"),
        (FakeDesk(server_online=False), 503, "the server is away: nothing was asked"),
    ],
)
async def test_what_the_server_did_not_do_is_said(tmp_path, desk, status, said):
    answer, asked = await acted(tmp_path, action(), desk)
    assert answer.status_code == status
    assert len(asked) == (desk.server_online is True and not desk.obstacle)
    assert said in answer.json()["error"]


async def test_a_refusal_of_the_server_is_passed_on(tmp_path):
    refused = CommandResult(command_id="", done=False, detail="no device 'a' in this fleet")
    answer, _ = await acted(tmp_path, action(), FakeDesk(answer=refused))
    assert answer.status_code == 409
    assert answer.json() == {"done": False, "detail": "no device 'a' in this fleet"}


async def test_the_page_is_told_which_actions_there_are_and_why_there_may_be_none(tmp_path):
    async with serving(tmp_path, people=False, desk=FakeDesk(obstacle="no broker")) as page:
        found = await got(page, "/api/actions")
        assert [one["action"] for one in found["actions"]] == list(OperatorAction)
        assert (found["widths"], found["read_only"]) == ([], "no broker")
        assert (await got(page, "/api/me"))["read_only"] == "no broker"


# --- live ----------------------------------------------------------------------------------------


class Reader:
    """One reader of the stream, as the server sees it."""

    def __init__(self, page, headers=()):
        self.page = page
        self.said = []
        self.status = None
        self.gone, self.news = asyncio.Event(), asyncio.Event()
        self.open_for_more = asyncio.Event()
        self.open_for_more.set()
        known = {"host": "127.0.0.1:8480", **dict(headers)}
        self.scope = {
            "type": "http",
            "method": "GET",
            "path": "/events",
            "query_string": b"",
            "headers": [(key.encode(), value.encode()) for key, value in known.items()],
            "client": ("127.0.0.1", 5),
        }
        self.task = asyncio.ensure_future(page.app(self.scope, self.receive, self.send))

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.open_for_more.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.said.append(message["body"])
            self.news.set()

    async def heard(self, count):
        async with asyncio.timeout(5):
            while len(self.said) < count:
                self.news.clear()
                await self.news.wait()
        return self.said[-1].decode()


async def test_a_stream_begins_with_everything_and_goes_on_with_what_changed(tmp_path):
    async with serving(tmp_path, people=False) as page:
        reader = Reader(page)
        assert "event: snapshot" in await reader.heard(1)
        with Journal.open(page.journal) as journal:
            journal.append([born("c")], 9.0)
            await page.watch.refresh()
        said = await reader.heard(2)
        assert '"device":"c"' in said
        assert '"device":"a"' not in said
        reader.gone.set()
        await reader.task
        assert page.watch.readers == 0


async def test_a_silent_stream_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr("monitor.web.live.BEAT_S", 0.001)
    async with serving(tmp_path, people=False) as page:
        reader = Reader(page)
        assert await reader.heard(3) == ": beat\n\n"
        reader.gone.set()
        await reader.task


async def test_a_reader_that_takes_nothing_is_dropped_and_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr("monitor.web.live.SLOW_S", 0.01)
    async with serving(tmp_path, people=False) as page:
        slow, quick = Reader(page), Reader(page)
        await slow.heard(1)
        await quick.heard(1)
        slow.open_for_more.clear()
        with Journal.open(page.journal) as journal:
            journal.append([born("c")], 9.0)
            await page.watch.refresh()
        assert '"device":"c"' in await quick.heard(2)
        async with asyncio.timeout(5):
            await slow.task
        assert page.watch.readers == 1
        quick.gone.set()
        await quick.task


async def test_a_stream_ends_when_the_reader_may_look_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("monitor.web.live.BEAT_S", 0.001)
    async with serving(tmp_path) as page:
        await signed_in(page, token=ANNA_TOKEN)
        cookie = "; ".join(f"{key}={value}" for key, value in page.client.cookies.items())
        reader = Reader(page, {"cookie": cookie})
        await reader.heard(3)
        page.people.remove("anna")
        async with asyncio.timeout(5):
            await reader.task
        assert not any(b"event" in said for said in reader.said[1:])


async def test_only_so_many_follow_at_a_time(tmp_path):
    async with serving(tmp_path, people=False) as page:
        page.watch.readers = READERS
        answer = await page.get("/events")
        assert answer.status_code == 503
        assert f"{READERS} pages follow" in answer.json()["error"]
        page.watch.readers = 0


async def test_asking_for_the_head_of_the_stream_does_not_follow_it(tmp_path):
    async with serving(tmp_path, people=False) as page:
        answer = await page.request("HEAD", "/events")
        assert answer.status_code == 200
        assert page.watch.readers == 0


def test_the_small_fleet_is_what_the_tests_say():
    assert len(EVENTS) == 6
