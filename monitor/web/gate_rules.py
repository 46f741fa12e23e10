"""What a request must show before anything is done for it. Pure.

Whatever is not named here needs somebody who is signed in: a route that was forgotten is closed.

Sources: OWASP's cheat sheets on session management and on cross-site request forgery; Fetch
Metadata, W3C.
"""

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from monitor.web.person import Person, Role

BODY_LIMIT = 16 * 1024
CSRF_HEADER = "x-csrf-token"
LOOPBACK_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])
READING = frozenset(["GET", "HEAD"])
OPEN_PATHS = frozenset(["/", "/healthz", "/login", "/favicon.ico"])
ASSETS = "/assets/"
ACTIONS = "/api/actions"


class Need(Enum):
    """Whom a request is answered for."""

    NOBODY = "nobody in particular"
    VIEWER = "whoever may view"
    OPERATOR = "an operator"


@dataclass(frozen=True)
class Place:
    """Where the page is served.

    Attributes:
        hosts: names that it answers to, lower case; addresses it always answers to, unless it is
            bound to loopback.
        loopback: whether only this machine can reach it.
        tls: whether browsers reach it with TLS.
    """

    hosts: frozenset[str] = LOOPBACK_NAMES
    loopback: bool = True
    tls: bool = False


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        person: None = nobody that is known.
        csrf: of its session; "" where a token came with the request itself, which no foreign page
            can make a browser send.
        by_cookie: whether the browser said so by itself.
    """

    person: Person | None = None
    csrf: str = ""
    by_cookie: bool = False


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered.

    Attributes:
        status: of HTTP.
        text: one sentence.
    """

    status: int
    text: str


def need_of(method: str, path: str) -> Need:
    """Return whom a request is answered for."""
    if path in OPEN_PATHS or (method in READING and path.startswith(ASSETS)):
        return Need.NOBODY
    if method in READING or path == "/logout":
        return Need.VIEWER
    return Need.OPERATOR


def misdirected(host: str, place: Place) -> Refusal | None:
    """Refuse names that are not ours: a foreign name that leads here is how pages are rebound."""
    name = host_name(host)
    if name in place.hosts or (not place.loopback and _is_address(name)):
        return None
    return Refusal(421, "this name is not one of this server's: see --public-url")


def foreign(method: str, headers: Mapping[str, str], place: Place) -> Refusal | None:
    """Refuse what a page of somebody else makes a browser send."""
    if method in READING:
        return None
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin")
    if site not in ("same-origin", "none") or (
        origin is not None and not _ours(origin, headers, place)
    ):
        return Refusal(403, "this request comes from another site's page")
    return None


def denied(
    method: str,
    path: str,
    headers: Mapping[str, str],
    caller: Caller,
    *,
    open_to_view: bool,
) -> Refusal | None:
    """Refuse whoever is not signed in, may not do this, or did not mean to.

    Args:
        method: of HTTP.
        path: that is asked for.
        headers: names in lower case.
        caller: who asks.
        open_to_view: whether looking needs nobody to be signed in.
    """
    need = need_of(method, path)
    if need is Need.NOBODY:
        return None
    if caller.person is None:
        if need is Need.VIEWER and open_to_view and method in READING:
            return None
        return Refusal(401, "sign in first")
    if method not in READING and caller.by_cookie:
        shown = headers.get(CSRF_HEADER, "").encode()
        if not caller.csrf or not hmac.compare_digest(shown, caller.csrf.encode()):
            return Refusal(403, f"the header {CSRF_HEADER} is missing or old: load the page anew")
        if "origin" not in headers and "sec-fetch-site" not in headers:
            return Refusal(403, "the browser does not say which page this comes from")
    if need is Need.OPERATOR and caller.person.role is not Role.OPERATOR:
        return Refusal(403, f"{caller.person.name} may look, not act: it needs an operator")
    return None


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets, lower case; "" for none."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if "@" not in host else ""
    except ValueError:
        return ""


def _ours(origin: str, headers: Mapping[str, str], place: Place) -> bool:
    scheme, _, rest = origin.partition("://")
    schemes = ("https",) if place.tls else ("http",)
    return scheme in schemes and rest.lower() == headers.get("host", "").lower() and bool(rest)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
