"""A child process that changes model slots or an outbox, step by step, until it is killed.

It says ``done N`` as soon as step N was acknowledged; its parent knows what must be on the disk
after each step. Arguments: `slots` or `outbox`, the folder, how many times to take all steps.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from broker.decoding import decode_struct
from broker.messages import BlobReference, ModelManifest, Update
from edge_agent.outbox import Outbox
from edge_agent.slots import ModelSlots

Step = Callable[[], object]


def slot_steps(slots: ModelSlots, models: Path) -> Iterator[Step]:
    """Deploy b, try c and go back, refuse a, take everything away; then deploy a for the next."""
    counter = slots.last_counter()

    def install(name: str, ahead: int) -> None:
        onnx = (models / f"{name}.onnx").read_bytes()
        manifest = decode_struct((models / f"{name}.manifest").read_bytes(), ModelManifest)
        slots.install(manifest, onnx, counter + ahead)

    def digest(name: str) -> str:
        return hashlib.sha256((models / f"{name}.onnx").read_bytes()).hexdigest()

    yield lambda: install("b", 1)
    yield lambda: slots.activate(digest("b"), counter + 1)
    yield slots.confirm
    yield lambda: install("c", 2)
    yield lambda: slots.activate(digest("c"), counter + 2)
    yield lambda: slots.revert("too slow")
    yield lambda: slots.give_up(digest("a"), counter + 3, "refused")
    yield lambda: slots.remove(counter + 4)
    yield lambda: install("a", 5)
    yield lambda: slots.activate(digest("a"), counter + 5)
    yield slots.confirm


def update_of(round_number: int, data: bytes) -> Update:
    digest = hashlib.sha256(data).hexdigest()
    return Update(
        device="press-1",
        round=round_number,
        width=0.5,
        model="toy",
        spec_hash="0" * 64,
        blob=BlobReference(blob=digest, size=len(data), block_size=1024, plaintext=digest),
    )


# Round and content of what is put; None settles the oldest.
OUTBOX_STEPS: tuple[tuple[int, bytes] | None, ...] = (
    (1, b"one" * 900),
    (2, b"two" * 900),
    (2, b"two again" * 900),
    None,
    (3, b"three" * 900),
    (4, b"four" * 900),
    (5, b"five" * 900),
    None,
)
KEPT = 2  # so that few steps pass every place


def outbox_steps(outbox: Outbox) -> Iterator[Step]:
    """Put more updates than are kept, one of them twice, and settle some."""
    for step in OUTBOX_STEPS:
        if step is None:
            oldest = outbox.pending()[0]
            yield partial(outbox.settle, oldest.round, oldest.blob.blob)
        else:
            yield partial(outbox.put, update_of(*step), step[1])


def main(task: str, folder: Path, times: int) -> None:
    number = 0
    for _ in range(times):
        if task == "slots":
            steps = slot_steps(ModelSlots(folder / "agent"), folder)
        else:
            steps = outbox_steps(Outbox(folder / "outbox", kept=KEPT))
        for step in steps:
            step()
            number += 1
            sys.stdout.write(f"done {number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
