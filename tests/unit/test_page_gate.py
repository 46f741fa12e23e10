"""What a request must show before the page's server answers it."""

import pytest

from monitor.web.gate_rules import (
    BODY_LIMIT,
    Caller,
    Need,
    Place,
    denied,
    foreign,
    host_name,
    misdirected,
    need_of,
)
from monitor.web.person import Role
from tests.fakes.page import (
    ANNA_TOKEN,
    BEN_TOKEN,
    EVERYWHERE,
    PASSWORD,
    action,
    person,
    serving,
    signed_in,
)

HOME = Place()
LAN = Place(frozenset(["fleet.plant.example"]), loopback=False, tls=True)
READS = [
    "/api/me",
    "/api/overview",
    "/api/devices",
    "/api/devices.csv",
    "/api/devices/a",
    "/api/devices/a/explain",
    "/api/rounds",
    "/api/rounds/1",
    "/api/rewards",
    "/api/versions",
    "/api/audit",
    "/api/audit/0",
    "/api/actions",
    "/events",
]


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [*READS, "/metrics", "/api/whatever", "/login/", "//", "/Assets/a"]
)
def test_whatever_is_not_named_as_open_needs_somebody(path):
    assert need_of("GET", path) is Need.VIEWER
    assert need_of("POST", path) is Need.OPERATOR
    assert need_of("OPTIONS", path) is Need.OPERATOR


@pytest.mark.parametrize("path", ["/", "/healthz", "/login", "/assets/app.js"])
def test_the_page_itself_holds_nothing_of_the_fleet_and_is_open(path):
    assert need_of("GET", path) is Need.NOBODY


def test_files_of_the_page_are_only_read():
    assert need_of("PUT", "/assets/app.js") is Need.OPERATOR


@pytest.mark.parametrize(
    ("host", "place", "ours"),
    [
        ("127.0.0.1:8480", HOME, True),
        ("localhost", HOME, True),
        ("LOCALHOST:1", HOME, True),
        ("[::1]:8480", HOME, True),
        ("evil.example:8480", HOME, False),
        ("192.168.1.7", HOME, False),
        ("localhost.evil.example", HOME, False),
        ("localhost@evil.example", HOME, False),
        ("", HOME, False),
        ("fleet.plant.example", LAN, True),
        ("192.168.1.7:8480", LAN, True),  # an address cannot be rebound
        ("[fd00::7]:8480", LAN, True),
        ("evil.example", LAN, False),
        ("192.168.1.7.evil.example", LAN, False),
        ("[::1", LAN, False),
    ],
)
def test_only_our_own_names_are_answered(host, place, ours):
    assert (misdirected(host, place) is None) is ours


def test_a_host_header_is_read_without_its_port():
    assert host_name("[FD00::7]:80") == "fd00::7"
    assert host_name("a:b:c") == "a"


@pytest.mark.parametrize(
    ("headers", "place", "ours"),
    [
        ({"host": "127.0.0.1:8480", "origin": "http://127.0.0.1:8480"}, HOME, True),
        ({"host": "127.0.0.1:8480"}, HOME, True),
        ({"host": "127.0.0.1:8480", "sec-fetch-site": "same-origin"}, HOME, True),
        ({"host": "127.0.0.1:8480", "sec-fetch-site": "same-site"}, HOME, False),
        ({"host": "127.0.0.1:8480", "sec-fetch-site": "cross-site"}, HOME, False),
        ({"host": "127.0.0.1:8480", "origin": "http://127.0.0.1:9999"}, HOME, False),
        ({"host": "127.0.0.1:8480", "origin": "null"}, HOME, False),
        ({"host": "127.0.0.1:8480", "origin": ""}, HOME, False),
        ({"host": "f", "origin": "http://f"}, LAN, False),
        ({"host": "f", "origin": "https://f"}, LAN, True),
        ({"host": "f", "origin": "https://f.evil"}, LAN, False),
    ],
)
def test_a_request_that_changes_something_comes_from_our_own_page(headers, place, ours):
    assert (foreign("POST", headers, place) is None) is ours
    assert foreign("GET", headers, place) is None


NOBODY = Caller()


def asked(method, path, caller=NOBODY, *, open_to_view=False, **headers):
    found = denied(method, path, headers, caller, open_to_view=open_to_view)
    return found.status if found else 200


SAME = {"sec-fetch-site": "same-origin"}
OPERATOR = Caller(person("anna", Role.OPERATOR), "c1", by_cookie=True)
VIEWER = Caller(person("ben", Role.VIEWER), "c2", by_cookie=True)


def test_viewers_look_and_operators_act():
    shown = {"x-csrf-token": "c1"} | SAME
    assert asked("GET", "/api/overview", VIEWER) == 200
    assert asked("POST", "/api/actions", VIEWER, **{"x-csrf-token": "c2"}, **SAME) == 403
    assert asked("POST", "/logout", VIEWER, **{"x-csrf-token": "c2"}, **SAME) == 200
    assert asked("POST", "/api/actions", OPERATOR, **shown) == 200


def test_a_cookie_alone_changes_nothing():
    assert asked("POST", "/api/actions", OPERATOR, **SAME) == 403
    assert asked("POST", "/api/actions", OPERATOR, **{"x-csrf-token": "c2"}, **SAME) == 403
    assert asked("POST", "/api/actions", OPERATOR, **{"x-csrf-token": "c1"}) == 403
    empty = Caller(OPERATOR.person, "", by_cookie=True)
    assert asked("POST", "/api/actions", empty, **{"x-csrf-token": ""}, **SAME) == 403


def test_nobody_acts_without_signing_in_however_open_the_page_is_to_look_at():
    assert asked("GET", "/api/overview", open_to_view=True) == 200
    assert asked("POST", "/api/actions", open_to_view=True) == 401
    assert asked("POST", "/logout", open_to_view=True) == 401
    assert asked("GET", "/api/overview") == 401


# --- served --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", READS)
async def test_elsewhere_nothing_is_shown_to_whoever_is_not_signed_in(tmp_path, path):
    async with serving(tmp_path, EVERYWHERE) as page:
        answer = await page.get(path)
        assert answer.status_code == 401
        assert answer.json() == {"error": "sign in first"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_nothing_can_be_changed_by_whoever_is_not_signed_in(tmp_path, method):
    async with serving(tmp_path) as page:
        for path in ("/api/actions", "/api/overview", "/logout", "/anything"):
            assert (await page.request(method, path)).status_code == 401
        assert page.desk.asked == []


async def test_on_this_machine_everybody_may_look_until_somebody_is_known(tmp_path):
    async with serving(tmp_path, people=False) as page:
        assert (await page.get("/api/overview")).status_code == 200
        me = (await page.get("/api/me")).json()
        assert (me["user"], me["role"], me["csrf"]) == ("", "viewer", "")
        assert (await page.post("/api/actions", json=action())).status_code == 401
        page.people.add(person("ben", Role.VIEWER))
        assert (await page.get("/api/overview")).status_code == 401


async def test_every_answer_carries_the_protective_headers(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        await signed_in(page, token=BEN_TOKEN)
        asked_for = ["/", "/assets/app.js", "/favicon.ico", "/nope", "/healthz", *READS[:-1]]
        answers = [await page.get(path) for path in asked_for]
        answers.append(await page.post("/api/actions", json=action()))
        answers.append(await page.post("/login", content=b"x" * (BODY_LIMIT + 1)))
        answers.append(await page.get("/", headers={"Host": "evil.example"}))
        answers.append(await page.get("/broken"))
        assert {answer.status_code for answer in answers} >= {200, 403, 404, 413, 421, 500}
        for answer in answers:
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["strict-transport-security"]
            assert "server" not in answer.headers


async def test_names_that_lead_here_but_are_not_ours_are_not_answered(tmp_path):
    async with serving(tmp_path, people=False) as page:
        for path in ("/", "/api/overview", "/healthz"):
            answer = await page.get(path, headers={"Host": "evil.example"})
            assert answer.status_code == 421


async def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        answer = await page.post("/login", json={"token": ANNA_TOKEN})
        cookie = answer.headers["set-cookie"].lower()
        assert cookie.startswith("__host-slimfleet-")
        for part in ("httponly", "samesite=strict", "secure", "path=/"):
            assert part in cookie
        assert answer.json()["csrf"] not in cookie
    async with serving(tmp_path / "home") as page:
        answer = await page.post("/login", json={"token": ANNA_TOKEN})
        assert "secure" not in answer.headers["set-cookie"].lower()  # it has no TLS


async def test_an_operator_acts_and_the_server_is_told_for_whom(tmp_path):
    async with serving(tmp_path) as page:
        await signed_in(page, token=ANNA_TOKEN)
        answer = await page.post("/api/actions", json=action("suspend", device="a"))
        assert (answer.status_code, answer.json()) == (200, {"done": True, "detail": ""})
        [command] = page.desk.asked
        assert (command.action, command.device, command.reason) == ("suspend", "a", "bearing")
        assert (command.on_behalf_of, command.width) == ("anna", 0.0)


async def test_a_viewer_cannot_act(tmp_path):
    async with serving(tmp_path) as page:
        await signed_in(page, token=BEN_TOKEN)
        answer = await page.post("/api/actions", json=action())
        assert answer.status_code == 403
        assert "ben may look, not act" in answer.json()["error"]
        assert page.desk.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "made-up"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_foreign_page_cannot_act_with_the_cookie_of_an_operator(tmp_path, headers):
    async with serving(tmp_path) as page:
        await signed_in(page, token=ANNA_TOKEN)
        answer = await page.post("/api/actions", json=action(), headers=headers)
        assert answer.status_code == 403
        assert page.desk.asked == []


async def test_a_form_cannot_sign_anybody_in(tmp_path):
    async with serving(tmp_path) as page:
        text = f'{{"token": "{ANNA_TOKEN}"}}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = await page.post("/login", content=text, headers={"Content-Type": kind})
            assert answer.status_code == 415
            assert "set-cookie" not in answer.headers


async def test_a_program_acts_with_a_token_and_no_cookie(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        anna = {"Authorization": f"Bearer {ANNA_TOKEN}"}
        assert (await page.get("/api/devices", headers=anna)).status_code == 200
        assert (await page.post("/api/actions", json=action(), headers=anna)).status_code == 200
        evil = anna | {"Origin": "https://evil.example"}
        assert (await page.post("/api/actions", json=action(), headers=evil)).status_code == 403
        for token in ("", "slimfleet_made-up", ANNA_TOKEN + "x", "x" * 5000):
            bad = {"Authorization": f"Bearer {token}"}
            assert (await page.get("/api/devices", headers=bad)).status_code == 401


async def test_a_user_signs_in_with_a_password_and_out_again(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        await signed_in(page, user="carl", password=PASSWORD)
        assert (await page.get("/api/me")).json()["user"] == "carl"
        cookie = dict(page.client.cookies)
        assert (await page.post("/logout")).status_code == 200
        assert (await page.get("/api/me")).status_code == 401
        page.client.cookies.update(cookie)  # a copy of it is worth nothing
        assert (await page.get("/api/me")).status_code == 401


async def test_signing_in_anew_ends_the_session_before(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        await signed_in(page, token=ANNA_TOKEN)
        old = dict(page.client.cookies)
        await signed_in(page, token=BEN_TOKEN)
        page.client.cookies.clear()
        page.client.cookies.update(old)
        assert (await page.get("/api/me")).status_code == 401


async def test_a_revoked_token_ends_its_sessions_at_once(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        await signed_in(page, token=ANNA_TOKEN)
        page.people.remove("anna")
        assert (await page.get("/api/overview")).status_code == 401
        assert (await page.post("/api/actions", json=action())).status_code == 401


async def test_sessions_end_by_the_clock(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        await signed_in(page, token=ANNA_TOKEN)
        page.now += 29 * 60
        assert (await page.get("/api/me")).status_code == 200
        page.now += 31 * 60
        assert (await page.get("/api/me")).status_code == 401


async def test_whoever_guesses_has_to_wait_and_the_right_password_does_not_help_meanwhile(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        guess = {"token": "slimfleet_wrong"}
        statuses = [(await page.post("/login", json=guess)).status_code for _ in range(6)]
        assert statuses == [401] * 4 + [429] * 2
        answer = await page.post("/login", json={"token": ANNA_TOKEN})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        page.now += int(answer.headers["retry-after"])
        await signed_in(page, token=ANNA_TOKEN)


@pytest.mark.parametrize(
    "given",
    [
        {"user": "carl", "password": "wrong password!"},
        {"user": "nobody", "password": PASSWORD},
        {"user": "anna", "password": ""},  # a token is no password
        {"user": "carl", "password": "x" * 5000},
        {"token": PASSWORD},
        {},
    ],
)
async def test_what_is_wrong_is_answered_in_the_same_words(tmp_path, given):
    async with serving(tmp_path, EVERYWHERE) as page:
        answer = await page.post("/login", json=given)
        assert answer.status_code == 401
        assert answer.json()["error"] == "this user and password, or this token, is not known"
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b'{"tokens": "x"}', 400),
        (b'{"token": 5}', 400),
        (b"[" * 10000, 400),
        (b"x" * (BODY_LIMIT + 1), 413),
    ],
)
async def test_a_body_that_is_none_is_refused_in_one_sentence(tmp_path, content, status):
    async with serving(tmp_path, EVERYWHERE) as page:
        headers = {"Content-Type": "application/json"}
        answer = await page.post("/login", content=content, headers=headers)
        assert answer.status_code == status
        assert "\n" not in answer.json()["error"]


async def test_a_body_of_unsaid_length_is_cut_off_too(tmp_path):
    async def endless():
        for _ in range(100):
            yield b" " * 1024

    async with serving(tmp_path, EVERYWHERE) as page:
        headers = {"Content-Type": "application/json"}
        answer = await page.post("/login", content=endless(), headers=headers)
        assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../people.json",
        "/assets/%2e%2e/%2e%2e/people.json",
        "/assets//etc/passwd",
        "/assets/..%2f..%2fpeople.json",
        "/assets/secret.key",
        "/assets/",
        "/assets/../api/overview",
    ],
)
async def test_only_the_pages_own_files_are_served(tmp_path, path):
    async with serving(tmp_path, EVERYWHERE) as page:
        answer = await page.get(path)
        assert answer.status_code in (401, 404)
        assert "error" in answer.json()


async def test_files_are_served_with_their_type_and_not_twice(tmp_path):
    async with serving(tmp_path, EVERYWHERE) as page:
        index = await page.get("/")
        assert index.headers["content-type"] == "text/html; charset=utf-8"
        script = await page.get("/assets/app.js")
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert script.headers["cache-control"] == "no-cache"
        again = {"If-None-Match": script.headers["etag"]}
        assert (await page.get("/assets/app.js", headers=again)).status_code == 304
