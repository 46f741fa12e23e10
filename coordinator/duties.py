"""What the coordinator must be doing, derived from its state alone. Pure.

That is slow work for its worker, and blobs that must be in its folder or on the broker. What it
must say is in `coordinator.publications`.
"""

from dataclasses import dataclass, field

from broker.messages import BlobReference
from coordinator.capacity import deployed_width
from coordinator.fleet import Campaign, Phase, TaskState, answered_deployment, remaining
from slimmable.window import PREFIX, Window


@dataclass(frozen=True)
class Share:
    """A blob that several devices may open.

    Attributes:
        reference: of the ciphertext.
        key: opens it; derived from the fleet secret, never stored.
    """

    reference: BlobReference
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class SharedWeights:
    """The weights of one width must be on the broker, for the tasks of a round.

    Attributes:
        base: digest of the full weights; window: which of their entries the width holds.
    """

    round: int
    width: float
    base: str
    window: Window = PREFIX


@dataclass(frozen=True)
class SharedRelease:
    """An ONNX file must be on the broker."""

    digest: str


@dataclass(frozen=True)
class SharedCorrection:
    """What one device corrects its gradients by must be on the broker.

    Attributes:
        round: the open one; device: that it is for; width, window: of its slice.
        fleet, own: digests of what it is worked out from.
    """

    round: int
    device: str
    width: float
    fleet: str
    own: str
    window: Window = PREFIX


@dataclass(frozen=True)
class SharedPublic:
    """The inputs that all devices score must be on the broker."""

    digest: str


Shared = SharedWeights | SharedRelease | SharedCorrection | SharedPublic


@dataclass(frozen=True)
class Initialise:
    """Job: make the initial weights."""


@dataclass(frozen=True)
class Score:
    """Job: aggregate and measure the closed round."""

    round: int


@dataclass(frozen=True)
class Assess:
    """Job: measure what each device trained alone in the closed assessment round."""

    round: int


@dataclass(frozen=True)
class Export:
    """Job: export these widths of the current weights."""

    widths: tuple[float, ...]


Job = Initialise | Score | Assess | Export


def job(state: Campaign) -> Job | None:
    """Return the slow work that is due, if any."""
    match state.phase:
        case Phase.INITIALISING:
            return Initialise()
        case Phase.SCORING:
            assert state.round is not None
            number = state.round.number
            return Assess(number) if state.round.opened.assessment else Score(number)
        case Phase.EXPORTING:
            assert state.settings is not None
            if not state.measured_round:
                return Export(())  # nobody is given a model that was never trained
            due = {deployed_width(state, one, state.settings)[0] for one in remaining(state)}
            return Export(tuple(sorted(due - {0.0})))
    return None


def needed_blobs(state: Campaign) -> set[str]:
    """Return the digests in the blob folder that may still be read; all others can go.

    That is the weights in use, public inputs, what optimiser and control variates remember, weights
    to compare with, the updates that are not measured yet, the weights that late ones are or were
    trained on, and the ONNX files that some device shall run or may be sent back to.
    """
    needed = {
        state.weights,
        state.public,
        state.optimiser,
        state.variates,
        *state.own_variates.values(),
        state.best,
        state.measured,
        state.released_weights,
        *state.releases,
        *state.earlier,
    }
    current, late = state.round, state.late
    if current:
        needed.add(current.opened.base)
        if not current.scored:
            needed |= {task.update.digest for task in current.tasks.values() if task.update}
            late = (*late, *current.late)
    needed |= {owed.opened.base for owed in state.owed.values()}
    for one in late:
        needed |= {one.opened.base, one.update.digest}
    return needed - {""}


def correction_due(state: Campaign, task: TaskState) -> SharedCorrection | None:
    """Return what a device corrects its gradients by in the open round.

    None where nothing is corrected, and for a device whose own gradients are not known yet.
    """
    current, device = state.round, task.task.device
    own = state.own_variates.get(device)
    if current is None or current.opened.assessment or own is None:
        return None
    return SharedCorrection(
        current.number, device, task.task.width, state.variates, own, current.opened.window
    )


def shared(state: Campaign) -> set[Shared]:
    """Return the blobs that must be on the broker now."""
    wanted: set[Shared] = set()
    current = state.round
    if state.public and not state.stopped:  # between rounds too: whoever has them asks no more
        wanted.add(SharedPublic(state.public))
    if current and current.closed is None:
        wanted |= {
            SharedWeights(current.number, width, current.opened.base, current.opened.window)
            for width, devices in current.waiting.items()
            if devices
        }
        if state.own_variates:
            open_tasks = [task for task in current.tasks.values() if not task.answered]
            wanted |= {found for task in open_tasks if (found := correction_due(state, task))}
    wanted |= {
        SharedWeights(owed.number, owed.task.task.width, owed.opened.base, owed.opened.window)
        for owed in state.owed.values()
    }
    for device in state.devices.values() if state.releases else ():
        deployed = device.deployed
        if device.retired:
            continue
        if deployed and deployed.digest and not answered_deployment(device):
            wanted.add(SharedRelease(deployed.digest))
    return wanted
