"""Writes the configuration files that the demonstration's server and agents are started with."""

import json
from pathlib import Path
from typing import Any

import msgspec

from slimfleet.demo.scenario import DemoDevice, Scenario

PASSWORD_FILE = "broker-password"  # noqa: S105 - a file name


def server_toml(scenario: Scenario, broker_url: str, password: str) -> Path:
    """Write ``server.toml`` and return its path."""
    folder = scenario.folder / "server"
    document = {
        "validation": "validation.npz",
        "folder": "data",
        "broker": _broker(folder, broker_url, password),
        "campaign": msgspec.to_builtins(scenario.settings),
    }
    return _write(folder / "server.toml", document)


def agent_toml(
    scenario: Scenario,
    member: DemoDevice,
    broker_url: str,
    password: str,
    public_key: str,
    noise: float,
) -> Path:
    """Write one device's ``agent.toml`` and return its path."""
    folder = scenario.folder / "devices" / member.device
    document = {
        "device": member.device,
        "fleet": scenario.fleet,
        "folder": "data",
        "trusted_keys": [public_key],
        "broker": _broker(folder, broker_url, password),
        "train": {"data": "own.npz"},
        "infer": {
            "telemetry_s": 3.0,
            "evaluations": {"own": "own.npz", "unseen-person": "unseen-person.npz"},
        },
        "demo": {
            "emulate": member.machine,
            "behaviour": "free-rider" if member.free_rider else "honest",
            "noise": noise if member.free_rider else 0.0,
        },
    }
    return _write(folder / "agent.toml", document)


def operator_password(scenario: Scenario, password: str) -> Path:
    """Write the password that `slimfleet status` needs, and return its path."""
    _broker(scenario.folder, "", password)
    return scenario.folder / PASSWORD_FILE


def _broker(folder: Path, url: str, password: str) -> dict[str, str]:
    if not password:
        return {"url": url}
    path = folder / PASSWORD_FILE
    path.touch(mode=0o600)
    path.write_text(password + "\n")
    return {"url": url, "password_file": path.name}


def _write(path: Path, document: dict[str, Any]) -> Path:
    path.write_text("\n".join(_table(document, "")) + "\n")
    return path


def _table(table: dict[str, Any], name: str) -> list[str]:
    """Return TOML lines; JSON's strings, numbers, booleans and arrays are TOML's too."""
    plain = {k: v for k, v in table.items() if not isinstance(v, dict)}
    lines = [f"[{name}]"] if name else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", *_table(value, f"{name}.{key}" if name else key)]
    return lines
