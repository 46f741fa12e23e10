"""How long somebody who failed to sign in has to wait. Pure.

Failures are counted by address and by name. Whoever guesses one user's password from many addresses
is slowed down by the name; the wait for a name stays short, or anybody could lock a user out.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

FREE = 3
"""So many failures cost no wait; each further one doubles it, from a second on."""
LONGEST_ADDRESS_S = 900.0
LONGEST_NAME_S = 60.0
FORGOTTEN_S = 3600.0
KEPT = 10_000
IPV6_NETWORK = 64
"""One customer has this many bits of an address: all of them count as one."""


@dataclass
class _Failures:
    count: int
    last: float
    until: float


class Throttle:
    """Failures to sign in. Times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def wait(self, address: str, name: str, now: float) -> float:
        """Return the seconds until these two may try again, 0 where they may now."""
        found = [self._failures.get(key) for key in _keys(address, name)]
        return max(0.0, *(one.until - now for one in found if one), 0.0)

    def failed(self, address: str, name: str, now: float) -> None:
        """Note a failure."""
        for key in _keys(address, name):
            longest = LONGEST_ADDRESS_S if key[0] == "address" else LONGEST_NAME_S
            before = self._failures.pop(key, None)
            old = before is None or now - before.last >= FORGOTTEN_S
            count = 1 if before is None or old else before.count + 1
            wait = min(longest, 2.0 ** min(count - FREE - 1, 30)) if count > FREE else 0.0
            self._failures[key] = _Failures(count, now, now + wait)
        while len(self._failures) > KEPT:
            self._failures.popitem(last=False)

    def succeeded(self, name: str) -> None:
        """Forget what was done wrong with a name.

        Not with the address: whoever has one user's password would guess the others' in between.
        """
        self._failures.pop(("name", name), None)


def _keys(address: str, name: str) -> list[tuple[str, str]]:
    keys = [("address", network(address))]
    return [*keys, ("name", name)] if name else keys


def network(address: str) -> str:
    """Return what counts as one address: of IPv6 the network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), IPV6_NETWORK), strict=False))
    return str(found)
