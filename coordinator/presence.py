"""Presence as a lease: who is there, by the server's own receive times. Pure; the clock is given.

A birth that the broker delivers with the retain flag may be days old, so it never renews a lease.
A last will is only a hint: it starts a short grace, and any sign of life ends that. An older
session's will is ignored, because wills may arrive after the next birth.
"""

from dataclasses import dataclass, replace

from coordinator.settings import Presence
from journal.events import LinkState

PRESENT = (LinkState.ONLINE, LinkState.LATE)


@dataclass(frozen=True)
class Lease:
    """What is known about one device's link.

    Attributes:
        session: newest session heard of.
        heard_at: server time of the last sign of life in this run of the server, or None.
        doubted_at: server time of a will of this session that nothing followed.
        doubt: what the will or goodbye said.
        renewed: what the lease runs from.
        state: as last told.
    """

    session: int
    heard_at: float | None = None
    doubted_at: float | None = None
    doubt: str = ""
    renewed: str = "heard"
    state: LinkState = LinkState.NEVER_SEEN


@dataclass(frozen=True)
class Outdated:
    """An older session of a device that still speaks.

    Attributes:
        since: server time at which it was first heard beside the newer one.
        told: whether the operator knows.
    """

    session: int
    since: float
    told: bool = False


@dataclass(frozen=True)
class Transition:
    """A lease changed its state."""

    device: str
    state: LinkState
    cause: str


class Leases:
    """All leases of a fleet."""

    def __init__(self, settings: Presence, known: dict[str, Lease], now: float) -> None:
        """Take over the leases known from the journal.

        Devices that were there get one full lease from ``now``: the server has just started and
        cannot hold its own absence against them.
        """
        self._settings = settings
        self._leases = {
            device: replace(
                lease,
                heard_at=now if lease.state in PRESENT else None,
                renewed="the server started and gives one lease",
            )
            for device, lease in known.items()
        }
        self._outdated: dict[str, Outdated] = {}

    def session(self, device: str) -> int:
        """Return the newest session of a device, 0 if it was never seen."""
        lease = self._leases.get(device)
        return lease.session if lease else 0

    def heard(self, device: str, session: int, now: float) -> bool:
        """Note a live sign of life; returns False for a message of an outdated session."""
        lease = self._leases.get(device)
        if lease is None:
            self._leases[device] = Lease(session, now)
            return True
        if session < lease.session:
            return False
        self._leases[device] = Lease(session, now, state=lease.state)
        return True

    def outdated(self, device: str, session: int, now: float) -> str:
        """Note a live message of an older session; return what to tell the operator, or "".

        What was on its way when an agent started anew comes at once. Who still speaks after a whole
        lease is a second agent with the same id, or one whose folder was put back. It is told once.
        """
        newest = self.session(device)
        if session >= newest:
            return ""
        known = self._outdated.get(device)
        if known is None or known.session != session:
            known = self._outdated[device] = Outdated(session, now)
        lease_s = self._settings.offline_after * self._settings.heartbeat_s
        if known.told or now - known.since < lease_s:
            return ""
        self._outdated[device] = replace(known, told=True)
        return (
            f"session {session} goes on beside session {newest}: two agents use this id, or the"
            " agent's folder was lost or put back; its messages are not used"
        )

    def remembered(self, device: str, session: int) -> None:
        """Note a retained message: the device exists, but nothing says that it is there now."""
        lease = self._leases.get(device, Lease(session))
        self._leases[device] = replace(lease, session=max(session, lease.session))

    def doubted(self, device: str, session: int, cause: str, now: float) -> None:
        """Note a last will or a goodbye of ``session``."""
        lease = self._leases.get(device, Lease(session))
        goodbye = cause == "shutdown"
        if session < lease.session or (lease.doubted_at is not None and not goodbye):
            return
        # A goodbye is the device's own word: no grace.
        since = now - self._settings.grace_s if goodbye else now
        self._leases[device] = replace(lease, session=session, doubted_at=since, doubt=cause)

    def transitions(self, now: float, only: str = "") -> list[Transition]:
        """Return what changed by ``now`` and remember that it was told.

        Args:
            now: server time.
            only: this device's lease; without it, everybody's.
        """
        changed = []
        leases = {only: self._leases[only]} if only else self._leases
        for device, lease in leases.items():
            state, cause = self._judge(lease, now)
            if state is not lease.state:
                changed.append(Transition(device, state, cause))
        for one in changed:
            self._leases[one.device] = replace(self._leases[one.device], state=one.state)
        return sorted(changed, key=lambda one: one.device)

    def _judge(self, lease: Lease, now: float) -> tuple[LinkState, str]:
        settings = self._settings
        if lease.doubted_at is not None and now - lease.doubted_at >= settings.grace_s:
            return LinkState.OFFLINE, lease.doubt or "will"
        if lease.heard_at is None:
            if lease.state is LinkState.NEVER_SEEN:
                return LinkState.OFFLINE, "known only from a retained message"
            return lease.state, ""
        silent = (now - lease.heard_at) / settings.heartbeat_s
        if silent >= settings.offline_after:
            return LinkState.OFFLINE, f"silent for {now - lease.heard_at:.0f} s"
        if silent >= settings.late_after:
            return LinkState.LATE, f"silent for {now - lease.heard_at:.0f} s"
        return LinkState.ONLINE, lease.renewed
