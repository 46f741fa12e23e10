"""Answers in JSON; what is refused is said in one sentence."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response


def reply(data: object, status: int = 200) -> Response:
    """Return an answer; numbers that are not finite become null."""
    return Response(
        msgspec.json.encode(data),
        status,
        {"Cache-Control": "no-store"},
        media_type="application/json",
    )


def refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return why something was not done."""
    answer = reply({"error": text}, status)
    answer.headers.update(headers or {})
    return answer
