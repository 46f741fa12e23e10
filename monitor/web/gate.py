"""Stands before everything that the page's server answers: who asks, from where, and how much."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monitor.web.gate_rules import (
    BODY_LIMIT,
    READING,
    Caller,
    Place,
    Refusal,
    denied,
    foreign,
    misdirected,
)
from monitor.web.people import People
from monitor.web.person import Role
from monitor.web.replies import refusal
from monitor.web.secret_hash import TOKEN_PREFIX, hash_token
from monitor.web.sessions import Limits, Sessions

CALLER = "slimfleet.caller"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STRICT_TRANSPORT = "max-age=31536000"


@dataclass
class Access:
    """Everything that decides who may do what.

    Attributes:
        people: the file of users and tokens.
        place: where the page is served.
        sessions: who is signed in.
        clock: seconds; never goes back.
        cookie: name of the session's cookie.
    """

    people: People
    place: Place
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.monotonic
    port: int = 0
    sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        self.sessions = Sessions(lambda: secrets.token_urlsafe(32), self.limits)

    @property
    def cookie(self) -> str:
        """Name of the session's cookie; browsers send one to every port of a machine."""
        # https://www.rfc-editor.org/rfc/rfc6265bis: with this prefix only we can have set it.
        return f"{'__Host-' if self.place.tls else ''}slimfleet-{self.port}"

    @property
    def open_to_view(self) -> bool:
        """Whether looking needs nobody to be signed in: on this machine, before the first user."""
        return self.place.loopback and not self.people.path.exists()

    def caller(self, headers: Headers, *, watching: bool = False) -> Caller:
        """Return who asks."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            given = token.strip()
            known = self.people.by_token(hash_token(given)) if is_token(given) else None
            return Caller(known)
        name = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        if not name:
            return Caller()
        session = self.sessions.find(name, self.people.known(), self.clock(), watching=watching)
        return Caller(session.person, session.csrf, by_cookie=True) if session else Caller()

    def may_view(self, headers: Headers) -> bool:
        """Return whether somebody who follows the fleet may go on to do so."""
        caller = self.caller(headers, watching=True)
        return caller.person is not None or self.open_to_view

    @property
    def open_role(self) -> Role | None:
        """What somebody may do who is not signed in."""
        return Role.VIEWER if self.open_to_view else None


def is_token(text: str) -> bool:
    """Return whether a text looks like one of our tokens."""
    return text.startswith(TOKEN_PREFIX) and len(text) < 100


class Gate:
    """Lets in what may come in, and puts the protective headers on every answer.

    Args:
        app: what stands behind the gate; finds who asks in ``scope[CALLER]``.
        access: who may do what.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        sending = self._protected(send)
        headers = Headers(scope=scope)
        caller = self._access.caller(headers)
        if found := self._refuse(scope, headers, caller):
            await refusal(found.status, found.text)(scope, receive, sending)
            return
        scope[CALLER] = caller
        await self._app(scope, _Limited(receive), sending)

    def _refuse(self, scope: Scope, headers: Headers, caller: Caller) -> Refusal | None:
        method, path, place = scope["method"], scope["path"], self._access.place
        return (
            misdirected(headers.get("host", ""), place)
            or foreign(method, headers, place)
            or _oversize(method, headers)
            or denied(method, path, headers, caller, open_to_view=self._access.open_to_view)
        )

    def _protected(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SAFE_HEADERS)
                if self._access.place.tls:
                    headers["Strict-Transport-Security"] = STRICT_TRANSPORT
            await send(message)

        return sending


class BodyTooLargeError(Exception):
    """A request's body is over the limit."""


class _Limited:
    """Reads no more of a request than may come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > BODY_LIMIT:
            raise BodyTooLargeError
        return message


def _oversize(method: str, headers: Headers) -> Refusal | None:
    said = headers.get("content-length", "0")
    if method in READING or (said.isdecimal() and int(said) <= BODY_LIMIT):
        return None
    return Refusal(413, f"a request has at most {BODY_LIMIT} bytes")
