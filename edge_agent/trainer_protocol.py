"""What the agent and its training process say to each other: length-prefixed msgpack on a pipe.

Each frame is a 4-byte big-endian length and that many bytes of one tagged struct. The agent sends
one command at a time and reads events until the reply, a `Pong`, `Profiled`, `Trained` or
`Failed`. `Cancel` may be sent while a command runs. The pipe's end is the order to exit.
"""

import struct
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from broker.messages import TrainingSettings, WidthEvaluation
from slimmable.update_codec import UpdateEncoding

T = TypeVar("T")
LENGTH = struct.Struct(">I")
FRAME_LIMIT = 2**31
WEIGHTS = "state-dict"  # what a task brings where the fleet trains one network


class FrameError(ValueError):
    """Bytes on the pipe are no frame of this protocol. Restart the training process."""


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all frames; the tag is the class name."""


class DataSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where the process finds the device's data.

    Attributes:
        path: file or folder.
        reader: name of its reader, see `slimmable.readers`.
        options: keyword arguments of the reader.
    """

    path: str
    reader: str
    options: dict[str, Any] = {}


class Ping(_Tagged, frozen=True, kw_only=True):
    """Ask for a sign of life."""


class ProfileCommand(_Tagged, frozen=True, kw_only=True):
    """Time training steps of each width.

    Attributes:
        model: model id, with the keyword arguments ``options`` of its function.
        data: the samples to train on.
        widths: offered widths.
        batch_size: samples a step.
        memory_budget: bytes; 0 = no limit.
        factor: emulated seconds per CPU second; None on a real machine.
        time_budget_s: seconds that all widths together may take; 0 = no limit.
    """

    model: str
    options: dict[str, Any]
    data: DataSource
    widths: tuple[float, ...]
    batch_size: int
    memory_budget: int = 0
    factor: float | None = None
    time_budget_s: float = 0.0


class TrainCommand(_Tagged, frozen=True, kw_only=True):
    """Train one width.

    Attributes:
        model: model id, with the keyword arguments ``options`` of its function.
        spec_hash: which the model on this device must have; "" = it is the device's own choice.
        data: the samples to train on.
        width: training width.
        state: safetensors of the weights, cut at ``width``; or of what the devices know.
        training: hyper-parameters.
        seed: for batch order and width draws.
        behaviour: "honest", or "free-rider" for demonstrations and tests.
        noise: standard deviation of what a free-rider adds to the weights it sends back.
        factor: emulated seconds per CPU second; None on a real machine.
        evaluate: hold back some recordings from training, and measure ``state`` on them.
        upload, upload_keep: how the update travels, see `slimmable.update_codec`.
        left: safetensors of what earlier updates of this slice left out; b"" = nothing.
        correction: safetensors of what is added to each parameter's gradient; b"" = nothing.
        start_seed: of the values that private parts start with.
        never_send: patterns of tensors that the device keeps to itself whatever the task says.
        kept: folder of what the device keeps; "" where it keeps nothing.
        payload: what ``state`` is, see `broker.messages.Task`; with anything but "state-dict" the
            model is the device's own network.
        knowledge_weight: how strongly it is drawn to what the others know.
        public: of "public-scores", file with the inputs that all devices score; digest_steps: how
            many steps it is trained towards what they know of these, before its own data.
    """

    model: str
    options: dict[str, Any]
    spec_hash: str
    data: DataSource
    width: float
    state: bytes
    training: TrainingSettings
    seed: int
    behaviour: str = "honest"
    noise: float = 0.0
    factor: float | None = None
    evaluate: bool = False
    upload: str = "float32"
    upload_keep: float = 0.0
    left: bytes = b""
    correction: bytes = b""
    start_seed: int = 0
    never_send: tuple[str, ...] = ()
    kept: str = ""
    payload: str = "state-dict"
    knowledge_weight: float = 0.0
    public: str = ""
    digest_steps: int = 0


class Cancel(_Tagged, frozen=True, kw_only=True):
    """Stop the running command after the current step; it answers `Failed` ("cancelled")."""


class Quit(_Tagged, frozen=True, kw_only=True):
    """Exit."""


class Ready(_Tagged, frozen=True, kw_only=True):
    """Event, once: the process has imported what it needs and waits for commands.

    Attributes:
        torch: version.
        resident_bytes: memory held before any work.
    """

    torch: str
    resident_bytes: int


class Step(_Tagged, frozen=True, kw_only=True):
    """Event: ``done`` of ``steps`` steps of a training are done."""

    done: int
    steps: int


class Loaded(_Tagged, frozen=True, kw_only=True):
    """Event: model and data of a benchmark are loaded.

    Attributes:
        spec_hash: width spec of the model.
        samples: on the device.
        resident_bytes: memory held before the first step.
    """

    spec_hash: str
    samples: int
    resident_bytes: int


class WidthStarted(_Tagged, frozen=True, kw_only=True):
    """Event: the benchmark begins with ``width``."""

    width: float


class WidthTimed(_Tagged, frozen=True, kw_only=True):
    """Event: the benchmark has timed ``width``; fields as in `profiler.profile.WidthCost`."""

    width: float
    step_s: float
    peak_bytes: int
    timed_steps: int


class Pong(_Tagged, frozen=True, kw_only=True):
    """Reply to `Ping`."""


class Profiled(_Tagged, frozen=True, kw_only=True):
    """Reply to `ProfileCommand`; model and costs went ahead as `Loaded` and `WidthTimed`.

    Attributes:
        failures: one line per width that did not fit.
    """

    failures: tuple[str, ...]


class Trained(_Tagged, frozen=True, kw_only=True):
    """Reply to `TrainCommand`.

    Attributes:
        state: bytes of the update, see `slimmable.update_codec`; upload: their encoding.
        loss: mean training loss.
        steps: gradient steps done.
        samples: trained on.
        cpu_s: CPU seconds of the training.
        emulated_s: what the training took: CPU seconds times factor where emulated, else wall time.
        peak_bytes: the most memory held meanwhile.
        evaluations: what the command's state scored at each width on what was held back, where the
            command asked for it and there are recordings enough.
        corrected: whether the command's correction was added to every gradient.
        left: safetensors of what the update leaves out, for the next command; b"" = nothing.
    """

    state: bytes
    loss: float
    steps: int
    samples: int
    cpu_s: float
    emulated_s: float
    peak_bytes: int
    evaluations: tuple[WidthEvaluation, ...] = ()
    upload: UpdateEncoding = UpdateEncoding.FLOAT32
    corrected: bool = False
    left: bytes = b""


class Failed(_Tagged, frozen=True, kw_only=True):
    """Reply: the command could not be carried out; the process lives on.

    Attributes:
        code: "bad-command", "bad-data", "bad-model", "wrong-spec", "bad-bytes", "not-finite",
            "out-of-memory", "cancelled" or "error".
        detail: one line for people.
    """

    code: str
    detail: str


Command = Ping | ProfileCommand | TrainCommand | Cancel | Quit
Event = Ready | Step | Loaded | WidthStarted | WidthTimed
Reply = Pong | Profiled | Trained | Failed

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_answers: msgspec.msgpack.Decoder[Event | Reply] = msgspec.msgpack.Decoder(Event | Reply)


def frame(message: Command | Event | Reply) -> bytes:
    """Return the bytes of ``message`` with its length in front."""
    body = _encoder.encode(message)
    if len(body) > FRAME_LIMIT:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {FRAME_LIMIT}")
    return LENGTH.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """Return the length of the body that follows ``header``.

    Raises:
        FrameError: it is over the limit, so the bytes are not of this protocol.
    """
    (length,) = LENGTH.unpack(header)
    if length > FRAME_LIMIT:
        raise FrameError(f"frame of {length} bytes announced, the limit is {FRAME_LIMIT}")
    return int(length)


def read_command(body: bytes) -> Command:
    """Decode a command.

    Raises:
        FrameError: it is none; the message says what is wrong with it.
    """
    return _decode(_commands.decode, body)


def read_answer(body: bytes) -> Event | Reply:
    """Decode an event or reply.

    Raises:
        FrameError: it is none.
    """
    return _decode(_answers.decode, body)


def _decode(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"not a frame of the trainer protocol: {error}") from error
