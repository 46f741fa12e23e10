"""The page as a child of the server: what happens to the page never touches the fleet."""

import asyncio
import contextlib
import importlib.util
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from broker.child import bound_to_parent
from slimfleet.exit_codes import ExitCode

log = logging.getLogger(__name__)

LEAVE_S = 10.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
HOPELESS = frozenset([ExitCode.USAGE, ExitCode.BAD_CONFIGURATION])
"""It would end so again."""


def monitor_command(config: str, log_format: str, *, verbose: bool) -> list[str]:
    """Return the command that serves the page of a server's configuration file.

    Raises:
        ModuleNotFoundError: what serves it is not installed; better now than in the child.
    """
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)
    options = ["--config", config, "--log-format", log_format, *["--verbose"] * verbose]
    return [sys.executable, "-m", "slimfleet", "monitor", *options]


@asynccontextmanager
async def child_kept(
    command: Sequence[str], pause_s: float = FIRST_PAUSE_S
) -> AsyncIterator[asyncio.Future[None]]:
    """Keep a child process running while the block runs; hand out what ends when it gives up.

    Where it ends by itself it is started again, after a pause that doubles each time up to a
    minute; not where its configuration is wrong.
    """
    keeping = asyncio.ensure_future(_keep(command, pause_s))
    try:
        yield keeping
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


async def _keep(command: Sequence[str], pause_s: float) -> None:
    while True:
        try:
            process = await asyncio.create_subprocess_exec(
                *bound_to_parent(list(command)),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us: we end it in order
            )
        except OSError as error:
            log.error("the page cannot be started: %s", error)
            return
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        if status in HOPELESS:
            log.error("the page is not served: see the line above; the fleet is served without it")
            return
        log.error("the page ended with status %d; it is started again in %g s", status, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(LEAVE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
