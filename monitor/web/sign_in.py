"""``POST /login``, ``POST /logout`` and ``GET /api/me``."""

import asyncio
import math

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitor.web.gate import CALLER, Access, is_token
from monitor.web.gate_rules import Caller
from monitor.web.person import Person
from monitor.web.reading_body import read_body
from monitor.web.replies import refusal, reply
from monitor.web.secret_hash import NOBODY, fits, hash_token
from monitor.web.throttle import Throttle
from monitor.web.turns import Turns
from monitor.web.watch import Desk

LONGEST = 1024


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody signs in with: a token, or a user and a password."""

    token: str = ""
    user: str = ""
    password: str = ""


class SignIn:
    """Begins and ends sessions.

    Args:
        access: who may do what.
        desk: where actions go, to say whether there can be any.
    """

    def __init__(self, access: Access, desk: Desk) -> None:
        self._access = access
        self._desk = desk
        self._throttle = Throttle()
        self._hashing = Turns()  # a password costs time and memory

    def routes(self) -> list[Route]:
        """Return what is answered."""
        return [
            Route("/login", self.login, methods=["POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/api/me", self.me),
        ]

    async def login(self, request: Request) -> Response:
        """Begin a session."""
        given = await read_body(request, Credentials)
        address = request.client.host if request.client else ""
        name = given.user[:LONGEST]
        async with self._hashing.turn():
            now = self._access.clock()
            wait = math.ceil(self._throttle.wait(address, name, now))
            if wait:
                text = f"too many attempts: try again in {wait} s"
                return refusal(429, text, {"Retry-After": str(wait)})
            person = await self._whose(given)
            if person is None:
                self._throttle.failed(address, name, now)
                return refusal(401, "this user and password, or this token, is not known")
            self._throttle.succeeded(name)
        access = self._access
        access.sessions.end(request.cookies.get(access.cookie, ""))
        return self._begun(person)

    async def logout(self, request: Request) -> Response:
        """End the session."""
        access = self._access
        access.sessions.end(request.cookies.get(access.cookie, ""))
        answer = reply({"done": True})
        answer.delete_cookie(
            access.cookie, secure=access.place.tls, httponly=True, samesite="strict"
        )
        return answer

    async def me(self, request: Request) -> Response:
        """Who is signed in, what they may do, and what to show with a request that acts."""
        caller: Caller = request.scope[CALLER]
        return reply(self._who(caller))

    def _begun(self, person: Person) -> Response:
        access = self._access
        name, session = access.sessions.begin(person, access.clock())
        answer = reply(self._who(Caller(person, session.csrf, by_cookie=True)))
        answer.set_cookie(
            access.cookie,
            name,
            max_age=int(access.limits.whole_s),
            secure=access.place.tls,
            httponly=True,
            samesite="strict",
        )
        return answer

    def _who(self, caller: Caller) -> dict[str, object]:
        person = caller.person
        return {
            "user": person.name if person else "",
            "role": person.role if person else self._access.open_role,
            "csrf": caller.csrf,
            "read_only": self._desk.obstacle,
        }

    async def _whose(self, given: Credentials) -> Person | None:
        if given.token:
            token = given.token.strip()
            return self._access.people.by_token(hash_token(token)) if is_token(token) else None
        person = self._access.people.known().get(given.user)
        kept = person.secret if person and person.secret.kind == "password" else NOBODY
        if len(given.password) > LONGEST:
            return None
        good = await asyncio.to_thread(fits, given.password, kept)
        return person if good else None
