"""Reads what a request brings along: one JSON document of a known form."""

import asyncio
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from monitor.web.gate import BodyTooLargeError

T = TypeVar("T", bound=msgspec.Struct)
PATIENCE_S = 10.0


class BadRequestError(Exception):
    """A request's body cannot be used.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def read_body(request: Request, form: type[T]) -> T:
    """Return the body of a request.

    Raises:
        BadRequestError: it is no JSON of that form, too large, or does not come.
    """
    # A form of another site cannot say so without being asked first whether it may.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise BadRequestError(415, "send JSON: Content-Type: application/json")
    try:
        async with asyncio.timeout(PATIENCE_S):
            return msgspec.json.decode(await request.body(), type=form)
    except TimeoutError:
        raise BadRequestError(408, "the request did not come to its end in time") from None
    except BodyTooLargeError:
        raise BadRequestError(413, "the request is too large") from None
    except ClientDisconnect:
        raise BadRequestError(400, "the request broke off") from None
    except msgspec.DecodeError as error:
        raise BadRequestError(400, f"not what was asked for: {error}") from None
