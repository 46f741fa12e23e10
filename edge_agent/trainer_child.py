"""One running training process: its pipes, its memory watch, its end."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

import psutil

from edge_agent import trainer_protocol as protocol

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.2
CANCEL_GRACE_S = 3.0
EXIT_GRACE_S = 2.0


class ChildEndedError(Exception):
    """The process ended before it answered."""


class TrainerChild:
    """A spawned training process.

    A task of its own reads the pipe frame by frame, so that a cancelled wait never leaves half a
    frame behind. Closing the pipe, by us or by our death, makes the process exit.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Wrap a process whose standard input and output are pipes."""
        self.process = process
        self.over_budget_bytes = 0
        self._answers: asyncio.Queue[protocol.Event | protocol.Reply | Exception] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(), name=f"trainer-{process.pid}-reader")

    @classmethod
    async def spawn(cls, python: str, environment: Mapping[str, str]) -> "TrainerChild":
        """Start ``python -m edge_agent.trainer``; its log goes where ours goes."""
        process = await asyncio.create_subprocess_exec(
            python,
            "-m",
            "edge_agent.trainer",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(environment),
        )
        return cls(process)

    @property
    def alive(self) -> bool:
        """Whether the process runs and its pipe is open."""
        return self.process.returncode is None and not self._reader.done()

    async def ready(self) -> protocol.Ready:
        """Return the process's first frame.

        Raises:
            ChildEndedError: it ended before.
            FrameError: it said something else.
        """
        first = await self._next()
        if not isinstance(first, protocol.Ready):
            raise protocol.FrameError(f"expected Ready, got {type(first).__name__}")
        return first

    async def send(self, command: protocol.Command) -> None:
        """Write a command.

        Raises:
            ChildEndedError: nobody reads it any more.
        """
        await self.send_frame(protocol.frame(command))

    async def send_frame(self, frame: bytes) -> None:
        """Write the bytes of one frame.

        Raises:
            ChildEndedError: nobody reads it any more.
        """
        stdin = self._stdin()
        try:
            stdin.write(frame)
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            await self.process.wait()
            raise ChildEndedError from None

    async def reply(self, hear: Callable[[protocol.Event], None]) -> protocol.Reply:
        """Return the next reply; ``hear`` gets the events before it.

        Raises:
            ChildEndedError: the process ended first.
            FrameError: it sent what is no frame.
        """
        while True:
            answer = await self._next()
            if isinstance(answer, protocol.Reply):
                return answer
            hear(answer)

    async def cancel_command(self) -> None:
        """Stop the running command and swallow its reply; end the process if it does not obey."""
        try:
            async with asyncio.timeout(CANCEL_GRACE_S):
                await self.send(protocol.Cancel())
                await self.reply(lambda _event: None)
        except (TimeoutError, ChildEndedError, protocol.FrameError, asyncio.CancelledError):
            await self.kill()

    @contextlib.asynccontextmanager
    async def watched(self, memory_budget: int) -> AsyncIterator[None]:
        """Watch the resident memory inside the block; 0 = no limit."""
        if memory_budget <= 0:
            yield
            return
        watch = asyncio.create_task(self._watch_memory(memory_budget))
        try:
            yield
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self._gone()

    async def end(self) -> None:
        """Let the process exit, and end it if it does not."""
        self._stdin().close()
        try:
            async with asyncio.timeout(EXIT_GRACE_S):
                await self.process.wait()
        except TimeoutError:
            logger.warning("training process %d did not exit; killing it", self.process.pid)
        await self.kill()

    async def _gone(self) -> None:
        self._stdin().close()
        await self.process.wait()
        await self._reader

    async def _next(self) -> protocol.Event | protocol.Reply:
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            self._answers.put_nowait(answer)  # whoever asks next hears the same
            raise answer
        return answer

    async def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        try:
            while True:
                header = await stdout.readexactly(protocol.LENGTH.size)
                body = await stdout.readexactly(protocol.frame_length(header))
                self._answers.put_nowait(protocol.read_answer(body))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            await self.process.wait()
            self._answers.put_nowait(ChildEndedError())
        except protocol.FrameError as error:
            self._answers.put_nowait(error)

    async def _watch_memory(self, memory_budget: int) -> None:
        try:
            watched = psutil.Process(self.process.pid)
            while True:
                resident = int(watched.memory_info().rss)
                if resident > memory_budget:
                    self.over_budget_bytes = resident
                    self.process.kill()
                    return
                await asyncio.sleep(WATCH_INTERVAL_S)
        except (psutil.Error, ProcessLookupError):
            return  # it ended by itself; whoever waits for its answer learns that

    def _stdin(self) -> asyncio.StreamWriter:
        stdin = self.process.stdin
        assert stdin is not None
        return stdin
