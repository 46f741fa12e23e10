"""What an operator's command changes of a campaign's state. Pure; see `coordinator.evolution`."""

from typing import Any

from broker.messages import FLEET_ACTIONS, OperatorAction
from coordinator.changes import replace, with_device
from coordinator.fleet import Campaign, Device
from journal import events as e


def acted(state: Campaign, event: e.OperatorActed) -> Campaign:
    """Return the state after a command was carried out, or refused."""
    state = replace(
        state,
        commands={**state.commands, (event.operator, event.command_id): event},
        last_commands={**state.last_commands, event.operator: event},
    )
    if not event.done:
        return state
    if event.action in FLEET_ACTIONS:
        paused = event.action is OperatorAction.PAUSE_ROUNDS
        return replace(state, paused=f"paused {event.by_whom}" if paused else "")
    known = state.devices.get(event.device)
    return with_device(state, event.device, **_changes(known, event)) if known else state


def _changes(device: Device, event: e.OperatorActed) -> dict[str, Any]:
    """Return what changes of the device that a command is about."""
    match event.action:
        case OperatorAction.SUSPEND:
            return {"suspended": f"suspended {event.by_whom}"}
        case OperatorAction.RESUME:
            return {"suspended": "", "retired": ""}
        case OperatorAction.RETIRE:
            return {"retired": f"retired {event.by_whom}", "requested": False}
        case OperatorAction.CAP_WIDTH:
            said = f"held at {event.width:g} at most {event.by_whom}" if event.width else ""
            return {"cap": event.width, "cap_reason": said}
        case OperatorAction.RE_PROFILE:
            return {"request": f"{event.operator}/{event.command_id}", "requested": True}
        case OperatorAction.ROLL_BACK if device.deployed and device.deployed.digest:
            return {"rolled_from": (*device.rolled_from, device.deployed.digest)}
        case OperatorAction.ROLL_FORWARD:
            return {"rolled_from": ()}
    return {}
