"""Who is signed in. Pure: the clock and the random numbers are arguments.

A session is a random id in a cookie and what is kept of it here; nothing in the cookie can be made
up. What is kept is lost when the process ends: everybody signs in again.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from monitor.web.person import Person, Role

LIMIT = 1000


@dataclass(frozen=True)
class Limits:
    """How long a session lasts, in seconds.

    Attributes:
        idle_s: after the last request. A page that is left open keeps a viewer signed in, so that a
            screen on the wall goes on; an operator it does not.
        whole_s: in any case.
    """

    idle_s: float = 30 * 60.0
    whole_s: float = 12 * 3600.0


@dataclass
class Session:
    """One browser that somebody signed in with.

    Attributes:
        person: as it was then; a change of it ends the session.
        csrf: what a request that changes something has to show.
        begun_at, used_at: seconds, of one clock.
    """

    person: Person
    csrf: str
    begun_at: float
    used_at: float


class Sessions:
    """All sessions of this process.

    Args:
        random_text: returns a new unguessable text each time.
        limits: how long they last.
    """

    def __init__(self, random_text: Callable[[], str], limits: Limits) -> None:
        self._random = random_text
        self._limits = limits
        self._open: dict[str, Session] = {}

    def begin(self, person: Person, now: float) -> tuple[str, Session]:
        """Return a new session and its id, which is kept nowhere."""
        self._tidy(now)
        name = self._random()
        session = Session(person, self._random(), now, now)
        self._open[_key(name)] = session
        return name, session

    def find(
        self, name: str, people: Mapping[str, Person], now: float, *, watching: bool = False
    ) -> Session | None:
        """Return a session that is still good, and note that it was used.

        Args:
            name: id from the cookie.
            people: who may use the page now.
            now: seconds.
            watching: the page was merely left open.
        """
        session = self._open.get(_key(name))
        if session is None:
            return None
        gone = people.get(session.person.name) != session.person
        if gone or self._over(session, now):
            self.end(name)
            return None
        if not watching or session.person.role is Role.VIEWER:
            session.used_at = max(session.used_at, now)
        return session

    def end(self, name: str) -> None:
        """Forget a session."""
        self._open.pop(_key(name), None)

    def _over(self, session: Session, now: float) -> bool:
        return (
            now - session.used_at >= self._limits.idle_s
            or now - session.begun_at >= self._limits.whole_s
        )

    def _tidy(self, now: float) -> None:
        for key in [key for key, one in self._open.items() if self._over(one, now)]:
            del self._open[key]
        while len(self._open) >= LIMIT:
            del self._open[min(self._open, key=lambda key: self._open[key].used_at)]


def _key(name: str) -> str:
    """Return what a session is found by: whoever reads our memory cannot use it as a cookie."""
    return hashlib.sha256(name.encode()).hexdigest()
