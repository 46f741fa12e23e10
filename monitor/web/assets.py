"""The files of the page. Only what lies in the folder at the start can be asked for."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from monitor.web.replies import refusal

FOLDER = Path(__file__).parent / "assets"
INDEX, ICON = "index.html", "favicon.svg"
# Not taken from the machine: its table of types may be empty, and browsers are told not to guess.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


class Assets:
    """The files by their names, such as "charts/uplot.js"."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in TYPES
        }

    async def index(self, request: Request) -> Response:
        """``GET /``."""
        return self._answer(INDEX, request)

    async def asset(self, request: Request) -> Response:
        """``GET /assets/{name}``."""
        return self._answer(request.path_params["name"], request)

    async def icon(self, request: Request) -> Response:
        """``GET /favicon.ico``, which browsers ask for by themselves."""
        return self._answer(ICON, request) if ICON in self._files else Response(status_code=204)

    def _answer(self, name: str, request: Request) -> Response:
        path = self._files.get(name)
        if path is None:
            return refusal(404, "no such file")
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        # Kept by the browser, but asked for each time: after an update nobody sees an old page.
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers={**headers, "Content-Type": TYPES[path.suffix]})
