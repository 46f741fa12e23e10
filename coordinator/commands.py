"""What follows from an operator's command. Pure.

Every command becomes one event, whether it was carried out or not, and the server answers with it.
A repeated one, by its author and id, changes nothing more.
"""

from broker.messages import FLEET_ACTIONS, Command, DropReason, OperatorAction
from coordinator import inputs as i
from coordinator.command_evolution import acted
from coordinator.fleet import Campaign, Device, open_task, settings_of
from coordinator.inputs import brief
from coordinator.rollback import earlier_release, later_release, redeployed
from coordinator.training_cap import width_for
from journal import events as e

COMMAND_ID_LIMIT = 64
NAME_LIMIT = 64
NOTE_LIMIT = 500


def commanded(state: Campaign, given: i.CommandReceived, now: float) -> list[e.AnyEvent]:
    """Return what a command changes, or the one event that says why it was not carried out."""
    command = given.command
    if (given.operator, command.command_id) in state.commands:
        return []
    if fault := _fault(command):
        return [e.MessageRefused(sender=given.operator, channel="command", reason=brief(fault))]
    obstacle = brief(_obstacle(state, command, now))
    capped = command.action is OperatorAction.CAP_WIDTH and not obstacle
    event = e.OperatorActed(
        operator=given.operator,
        command_id=command.command_id,
        action=command.action,
        device=command.device,
        reason=command.reason,
        done=not obstacle,
        detail=obstacle,
        width=command.width if capped else 0.0,
        on_behalf_of=command.on_behalf_of,
    )
    return [event] if obstacle else [event, *_consequences(state, given, event, now)]


def _fault(command: Command) -> str:
    """Return why a command is not even answered, or ""."""
    if len(command.command_id) > COMMAND_ID_LIMIT:
        return f"command_id of {len(command.command_id)} characters: use {COMMAND_ID_LIMIT}"
    name = command.on_behalf_of
    if len(name) > NAME_LIMIT or not name.isprintable():
        return f"on_behalf_of: a name has at most {NAME_LIMIT} characters that can be printed"
    return ""


def _obstacle(state: Campaign, command: Command, now: float) -> str:
    """Return why a command cannot be carried out, or ""."""
    action, name = command.action, command.device
    if action is OperatorAction.NOTE:
        if not command.reason.strip() or len(command.reason) > NOTE_LIMIT:
            return f"a note has 1 to {NOTE_LIMIT} characters, this one {len(command.reason)}"
        if not name:
            return ""
    elif action in FLEET_ACTIONS:
        return f"{action} concerns the whole fleet, not {name!r}" if name else ""
    device = state.devices.get(name)
    if device is None:
        return f"no device {name!r} in this fleet"
    if action in (OperatorAction.NOTE, OperatorAction.RESUME, OperatorAction.RETIRE):
        return ""
    if device.retired:
        return f"{name} is {device.retired}; resume it first"
    return _obstacle_of(state, device, command, now)


def _obstacle_of(state: Campaign, device: Device, command: Command, now: float) -> str:
    """Return what speaks against a command for a device that is known and not retired, or ""."""
    match command.action:
        case OperatorAction.CAP_WIDTH:
            grid = settings_of(state).widths
            if command.width in (0.0, *grid):
                return ""
            offered = ", ".join(f"{width:g}" for width in sorted(grid))
            return f"{command.width:g} is no training width: use one of {offered}, or none"
        case OperatorAction.ROLL_BACK:
            return earlier_release(state, device, now)[1]
        case OperatorAction.ROLL_FORWARD:
            return later_release(state, device, now)[1]
    return ""


def _consequences(
    state: Campaign, given: i.CommandReceived, event: e.OperatorActed, now: float
) -> list[e.AnyEvent]:
    """Return what follows at once from a command that is carried out."""
    device = state.devices.get(event.device)
    if device is None:
        return []
    match event.action:
        case OperatorAction.SUSPEND:
            return _dropped(state, device, "")
        case OperatorAction.RETIRE:
            return _dropped(state, device, brief(f"retired {event.by_whom}"))
        case OperatorAction.CAP_WIDTH if device.profile:
            # As if it had just come: what it held below the other cap says nothing here.
            after = acted(state, event)
            choice = width_for(after, device.device, device.profile, given.payload_bytes)
            return [choice.event(device.device, commanded=True)]
        case OperatorAction.ROLL_BACK:
            digest = earlier_release(state, device, now)[0]
            return [redeployed(state, device, digest, f"rolled back {event.by_whom}", now)]
        case OperatorAction.ROLL_FORWARD:
            digest = later_release(state, device, now)[0]
            return [redeployed(state, device, digest, f"rolled forward {event.by_whom}", now)]
    return []


def _dropped(state: Campaign, device: Device, detail: str) -> list[e.AnyEvent]:
    """Drop what a device that was taken out still has to send."""
    owed, current, name = state.owed.get(device.device), state.round, device.device
    numbers = [owed.number] if owed else [current.number] if current else []
    return [
        e.DeviceDropped(round=number, device=name, reason=DropReason.SUSPENDED, detail=detail)
        for number in numbers
        for task in [open_task(state, name, number)]
        if task and not task.answered
    ]
