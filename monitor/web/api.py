"""The fleet as JSON: everything that the page shows can be asked for by itself."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from journal.reader import JournalReader
from monitor import device_data, fleet_data, round_data
from monitor.exposition import CONTENT_TYPE, exposition
from monitor.web.audit_entries import PAGE, PAGE_LIMIT, audit_entry, audit_page
from monitor.web.fleet_csv import fleet_csv
from monitor.web.replies import refusal, reply
from monitor.web.turns import Turns
from monitor.web.watch import FleetWatch

Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")

Explain = Callable[[str], Mapping[str, Any] | None]
"""Device -> its explanation as ``text`` and numbers, None where nobody knows it. It may block."""


class Api:
    """Answers of the fleet view.

    Args:
        watch: of the fleet.
        reader: of the journal.
        explain: why a device got its width.
    """

    def __init__(self, watch: FleetWatch, reader: JournalReader, explain: Explain) -> None:
        self._watch = watch
        self._reader = reader
        self._explain = explain
        self._turns = Turns()

    def routes(self) -> list[Route]:
        """Return what is answered; all of it is for people who may view."""
        return [
            Route("/api/overview", self.overview),
            Route("/api/devices", self.devices),
            Route("/api/devices.csv", self.devices_csv),
            Route("/api/devices/{name}", self.device),
            Route("/api/devices/{name}/explain", self.explain),
            Route("/api/rounds", self.rounds),
            Route("/api/rounds/{number:int}", self.round),
            Route("/api/rewards", self.rewards),
            Route("/api/versions", self.versions),
            Route("/api/audit", self.audit),
            Route("/api/audit/{index:int}", self.audit_entry),
            Route("/metrics", self.metrics),
        ]

    async def overview(self, _request: Request) -> Response:
        """Return the fleet at a glance."""
        async with self._watch.reading() as (view, seen):
            return reply(fleet_data.overview(view, seen))

    async def devices(self, _request: Request) -> Response:
        """Return the fleet table."""
        async with self._watch.reading() as (view, seen):
            return reply(device_data.device_rows(view, seen))

    async def devices_csv(self, _request: Request) -> Response:
        """Return the fleet table for a spreadsheet."""
        async with self._watch.reading() as (view, seen):
            text = fleet_csv(device_data.device_rows(view, seen))
        return Response(
            text,
            headers={
                "Cache-Control": "no-store",
                "Content-Disposition": 'attachment; filename="devices.csv"',
            },
            media_type="text/csv",
        )

    async def device(self, request: Request) -> Response:
        """Return everything about one device."""
        name = request.path_params["name"]
        async with self._watch.reading() as (view, seen):
            found = device_data.device_detail(view, name, seen)
        return _unknown(f"device {name!r}") if found is None else reply(found)

    async def explain(self, request: Request) -> Response:
        """Say why a device got its width, and what would change it."""
        name = request.path_params["name"]
        found = await self._long(self._explain, name)
        return _unknown(f"device {name!r}") if found is None else reply(found)

    async def rounds(self, _request: Request) -> Response:
        """Return the rounds that are kept, the newest first."""
        async with self._watch.reading() as (view, _):
            return reply(round_data.round_rows(view))

    async def round(self, request: Request) -> Response:
        """Return one round, device by device."""
        number = request.path_params["number"]
        async with self._watch.reading() as (view, _):
            found = view.rounds.get(number)
            return reply(round_data.round_detail(found)) if found else _unknown(f"round {number}")

    async def rewards(self, _request: Request) -> Response:
        """Return what the devices earned."""
        async with self._watch.reading() as (view, _):
            return reply(fleet_data.reward_rows(view))

    async def versions(self, _request: Request) -> Response:
        """Return what the devices say they run, now and over time."""
        async with self._watch.reading() as (view, _):
            return reply(
                {
                    "now": fleet_data.version_shares(view),
                    "history": fleet_data.version_history(view),
                }
            )

    async def audit(self, request: Request) -> Response:
        """Return the journal's entries, the newest first."""
        asked = request.query_params
        try:
            before = int(asked["before"]) if "before" in asked else None
            limit = min(PAGE_LIMIT, max(1, int(asked.get("limit", PAGE))))
        except ValueError:
            return refusal(400, "before and limit are whole numbers")
        found = await self._long(
            audit_page,
            self._reader,
            before=before,
            device=asked.get("device", ""),
            kind=asked.get("kind", ""),
            limit=limit,
        )
        return reply(found)

    async def audit_entry(self, request: Request) -> Response:
        """Return one entry of the journal, whole."""
        index = request.path_params["index"]
        found = await self._long(audit_entry, self._reader, index)
        return _unknown(f"entry {index}") if found is None else reply(found)

    async def metrics(self, _request: Request) -> Response:
        """Return what Prometheus collects."""
        async with self._watch.reading() as (view, seen):
            text = exposition(view, seen)
        return Response(text, headers={"Cache-Control": "no-store"}, media_type=CONTENT_TYPE)

    async def _long(
        self, work: Callable[Arguments, Found], *args: Arguments.args, **options: Arguments.kwargs
    ) -> Found:
        async with self._turns.turn():
            return await asyncio.to_thread(work, *args, **options)


def _unknown(what: str) -> Response:
    return refusal(404, f"there is no {what}")
