"""``POST /api/actions``: what an operator asks the server to do. The journal keeps who and why."""

import secrets

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker.errors import LinkError
from broker.messages import FLEET_ACTIONS, Command, OperatorAction
from broker.topics import check_name
from monitor.web.gate import CALLER
from monitor.web.reading_body import read_body
from monitor.web.replies import refusal, reply
from monitor.web.watch import FleetWatch

REASON_LIMIT = 500
FOR_ALL_OR_ONE = frozenset([OperatorAction.NOTE])
"""Actions that may concern one device or the whole fleet."""


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for.

    Attributes:
        action: what; device: with whom, "" for the whole fleet.
        reason: in the operator's words, of a note what it says.
        width: of a cap, the widest that the device may train, 0 = any; of nothing else.
    """

    action: OperatorAction
    reason: str
    device: str = ""
    width: float | None = None

    def fault(self) -> str:
        """Return why it cannot be asked for, or ""."""
        if not 1 <= len(self.reason.strip()) <= REASON_LIMIT:
            return f"say why, in 1 to {REASON_LIMIT} characters"
        if self.device:
            try:
                check_name(self.device, "device")
            except ValueError as error:
                return str(error)
        if self.action in FLEET_ACTIONS and self.device:
            return f"{self.action} concerns the whole fleet: leave the device out"
        if self.action not in FLEET_ACTIONS | FOR_ALL_OR_ONE and not self.device:
            return f"{self.action} concerns a device: name it"
        if (self.action is OperatorAction.CAP_WIDTH) != (self.width is not None):
            return f"a width belongs to {OperatorAction.CAP_WIDTH}, and to nothing else"
        return "" if 0 <= (self.width or 0.0) <= 1 else "a width lies between 0 and 1"


class Actions:
    """Passes on what operators ask for.

    Args:
        watch: of the fleet, with the desk where the server is asked.
    """

    def __init__(self, watch: FleetWatch) -> None:
        self._watch = watch
        self._desk = watch.desk

    def routes(self) -> list[Route]:
        """Return what is answered."""
        return [
            Route("/api/actions", self.act, methods=["POST"]),
            Route("/api/actions", self.offered, methods=["GET"]),
        ]

    async def offered(self, _request: Request) -> Response:
        """Return what the server can be asked for, and the widths that a cap may have."""
        async with self._watch.reading() as (view, _):
            widths = view.settings.get("widths", [])
        return reply(
            {
                "actions": [
                    {
                        "action": action,
                        "fleet": action in FLEET_ACTIONS | FOR_ALL_OR_ONE,
                        "device": action not in FLEET_ACTIONS,
                    }
                    for action in OperatorAction
                ],
                "widths": widths,
                "read_only": self._desk.obstacle,
            }
        )

    async def act(self, request: Request) -> Response:
        """Ask the server, wait for its answer and pass it on."""
        asked = await read_body(request, Action)
        if fault := asked.fault():
            return refusal(400, fault)
        if self._desk.obstacle:
            return refusal(503, self._desk.obstacle)
        if self._desk.server_online is False:  # it would be done whenever the server comes back
            return refusal(503, "the server is away: nothing was asked; try again when it is back")
        try:
            result = await self._desk.ask(command_of(asked, request.scope[CALLER].person.name))
        except LinkError as error:
            return refusal(503, str(error))
        if result is None:
            return refusal(
                504, "the server did not answer: whether it was done is not known, see the audit"
            )
        return reply({"done": result.done, "detail": result.detail}, 200 if result.done else 409)


def command_of(asked: Action, person: str) -> Command:
    """Return the command to the server, on behalf of whoever is signed in."""
    return Command(
        command_id=secrets.token_hex(8),
        action=asked.action,
        device=asked.device,
        reason=asked.reason.strip(),
        width=asked.width or 0.0,
        on_behalf_of=person,
    )
