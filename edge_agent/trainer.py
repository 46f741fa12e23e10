"""The training process of a device: ``python -m edge_agent.trainer``. Imports torch.

A child of the agent, spawned once and used for profiling and for every round, so that torch is
imported once and that running out of memory ends this process and never the agent. It speaks the
frames of `edge_agent.trainer_protocol` on its standard input and output and logs to standard error.
It reads the device's data itself: samples never pass through the agent.
"""

import contextlib
import gc
import logging
import os
import queue
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import torch

from edge_agent import trainer_protocol as protocol
from edge_agent.training_job import Trainer
from profiler.resident_memory import PeakMeter

logger = logging.getLogger("edge_agent.trainer")

# The kernel's out-of-memory killer takes the highest score first: this process, not the agent.
OOM_SCORE = Path("/proc/self/oom_score_adj")


class CommandReader(threading.Thread):
    """Reads commands while the main thread works, to see a cancellation or the agent's end."""

    def __init__(self, source: BinaryIO, cancelled: threading.Event) -> None:
        """Create the thread; it ends the process when ``source`` ends."""
        super().__init__(name="commands", daemon=True)
        self._source = source
        self._cancelled = cancelled
        self.commands: queue.Queue[protocol.Command | protocol.FrameError] = queue.Queue()

    def run(self) -> None:
        """Hand over commands until the pipe ends."""
        while header := self._source.read(protocol.LENGTH.size):
            try:
                length = protocol.frame_length(header)
            except (protocol.FrameError, struct.error) as error:
                # Without a credible length the next frame's start is unknown.
                logger.critical("%s; exiting, the agent starts a new training process", error)
                os._exit(2)
            self._hand_over(self._source.read(length))
        os._exit(0)  # the agent is gone or wants no more; a step may be running, so no clean-up

    def _hand_over(self, body: bytes) -> None:
        try:
            command = protocol.read_command(body)
        except protocol.FrameError as error:
            self.commands.put(error)
            return
        if isinstance(command, protocol.Quit):
            os._exit(0)
        if isinstance(command, protocol.Cancel):
            self._cancelled.set()
            return
        self._cancelled.clear()
        self.commands.put(command)


def main(keep_bytes: int = 0) -> None:
    """Serve commands until standard input ends.

    Args:
        keep_bytes: of samples, see `edge_agent.sample_cache`.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's; it then ends this pipe
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text("500", encoding="ascii")
    source, sink = _take_over_pipes()
    torch.set_num_threads(1)  # a second thread beside other load made training 4-5 times slower
    lock = threading.Lock()

    def send(message: protocol.Event | protocol.Reply) -> None:
        with lock:
            sink.write(protocol.frame(message))
            sink.flush()

    cancelled = threading.Event()
    reader = CommandReader(source, cancelled)
    reader.start()
    trainer = Trainer(send, cancelled, keep_bytes)
    # A full collection walks everything that torch's import made: 60 ms of CPU in the middle of a
    # step, three seconds on an emulated Raspberry Pi 3. Those objects never die: leave them out.
    gc.collect()
    gc.freeze()
    send(protocol.Ready(torch=str(torch.__version__), resident_bytes=PeakMeter().sample()))
    while True:
        command = reader.commands.get()
        if isinstance(command, protocol.FrameError):
            send(protocol.Failed(code="bad-command", detail=str(command)))
        else:
            send(trainer.answer(command))


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes to the agent and put harmless files in their place.

    A print in somebody's model or data reader must not end up between two frames.
    """
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return source, sink


if __name__ == "__main__":
    main()
