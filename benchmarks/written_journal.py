"""A journal of a fleet that never ran: as many devices and rounds as a measurement needs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from broker.messages import (
    DropReason,
    InstallState,
    Participation,
    Profile,
    Report,
    Telemetry,
    TrainingSettings,
    WidthCost,
)
from coordinator.settings import Rounds, Settings
from journal import events as e
from journal.store import Journal

BEGAN = 1_750_000_000.0
ROUND_S = 60.0
WIDTHS = (0.25, 0.5, 1.0)
SITES = ("north hall", "south hall", "paint shop", "")
TRAINING = TrainingSettings(
    steps=8, batch_size=16, learning_rate=0.1, momentum=0.9, weight_decay=0.0, widths=WIDTHS
)
DIGEST = "5c" * 32


def names(devices: int) -> list[str]:
    """Return the names of so many devices."""
    return [f"machine-{number:04}" for number in range(devices)]


def write_journal(
    folder: Path, devices: Sequence[str], rounds: int = 20, *, text: str = "", began: float = BEGAN
) -> float:
    """Write what a fleet would have.

    Args:
        folder: of the journal.
        devices: their names; every tenth misses its rounds, every twentieth is gone.
        rounds: that were closed.
        text: stands wherever a device or an operator may write something.
        began: server time of the first event.

    Returns:
        Server time of the last event.
    """
    at = began
    with Journal.open(folder) as journal:
        journal.append(list(_beginning(devices, text)), at)
        for number in range(1, rounds + 1):
            at += ROUND_S
            journal.append(list(_round(number, devices, text)), at)
        journal.append(list(_end(devices, rounds, text)), at)
        for device in devices:
            journal.add_telemetry(
                device,
                at,
                Telemetry(
                    running=DIGEST,
                    inferences=500,
                    latency_p50_s=0.004,
                    latency_p95_s=0.009,
                    confidence=(0, 0, 0, 0, 0, 10, 20, 50, 120, 300),
                    memory_bytes=80_000_000,
                ),
            )
    return at


def _beginning(devices: Sequence[str], text: str) -> Iterator[e.AnyEvent]:
    labels = {
        device: {"site": text or SITES[place % len(SITES)]} for place, device in enumerate(devices)
    }
    settings = Settings(
        fleet="plant", model="cnn1d", widths=WIDTHS, labels=labels, rounds=Rounds(budget=100)
    )
    yield e.CampaignStarted(
        fleet="plant",
        model="cnn1d",
        options={},
        spec_hash="",
        widths=WIDTHS,
        ladder=WIDTHS,
        seed=0,
        software="benchmark",
        settings=msgspec.to_builtins(settings),
    )
    for place, device in enumerate(devices):
        yield e.DeviceBorn(
            device=device, session=1, agent=text or "slimfleet", can_train=True, running=""
        )
        yield e.PresenceChanged(device=device, state=e.LinkState.ONLINE, cause="heard")
        costs = tuple(
            WidthCost(width=width, step_s=0.01 * (1 + place % 7) * width, peak_bytes=10_000_000)
            for width in WIDTHS
        )
        yield e.DeviceProfiled(
            device=device, profile=Profile(can_train=True, costs=costs, samples=100, cores=4)
        )
        yield e.WidthChosen(
            device=device,
            width=WIDTHS[place % len(WIDTHS)],
            participation=Participation.TAKES_PART,
            reason=text or "the widest that fits the deadline",
        )


def _round(number: int, devices: Sequence[str], text: str) -> Iterator[e.AnyEvent]:
    tasks = tuple(
        e.RoundTask(device=device, width=WIDTHS[place % len(WIDTHS)], predicted_s=8.0, seed=0)
        for place, device in enumerate(devices)
    )
    yield e.RoundOpened(
        round=number,
        base="",
        tasks=tasks,
        not_invited={},
        budget_s=ROUND_S,
        quorum=1,
        training=TRAINING,
    )
    missing = [device for place, device in enumerate(devices) if place % 10 == 9]
    present = [device for place, device in enumerate(devices) if place % 10 != 9]
    for place, device in enumerate(present):
        yield e.UpdateAccepted(
            round=number,
            device=device,
            width=WIDTHS[place % len(WIDTHS)],
            blob="b",
            digest="d",
            size=90_000,
            samples=100,
            steps=8,
            loss=0.5,
            download_s=0.2,
            train_s=5.0,
            round_s=6.0 + (place + number) % 5,
        )
    for device in missing:
        yield e.DeviceDropped(
            round=number, device=device, reason=DropReason.OFFLINE, detail=text or "too hot"
        )
    yield e.RoundClosed(round=number, aggregated=tuple(present), reason=text or "all have answered")
    yield _scored(number, present)


def _scored(number: int, present: Sequence[str]) -> e.RoundScored:
    best = 0.9 - 0.5 / number
    curve = tuple(
        e.CurvePoint(
            width=width,
            score=best * (0.7 + 0.3 * width),
            low=best * 0.6,
            high=min(1.0, best * 1.1),
            offered=True,
            fitted=best,
        )
        for width in WIDTHS
    )
    return e.RoundScored(
        round=number,
        digest=DIGEST,
        curve=curve,
        contributions=tuple(
            e.Contribution(device=device, score=0.001 * (1 + place % 9), update="u")
            for place, device in enumerate(present)
        ),
        method="leave-one-out",
        value_before=0.4,
        value_after=best,
        coalitions=1,
        seconds=0.1,
        better=True,
    )


def _end(devices: Sequence[str], rounds: int, text: str) -> Iterator[e.AnyEvent]:
    rewards = tuple(
        e.Reward(
            device=device,
            contribution=0.02 * (1 + place % 9),
            share=0.2 * (1 + place % 9),
            value=0.1,
            target=0.8,
            width=WIDTHS[place % len(WIDTHS)],
            score=0.8,
            reason=text or "as much as it brought",
            low=0.01 * (1 + place % 9),
            high=0.03 * (1 + place % 9),
            equals=tuple(devices[max(0, place - 2) : place]),
        )
        for place, device in enumerate(devices)
    )
    yield e.EntitlementsRevised(round=rounds, rule="linear", note="", rewards=rewards, widths={})
    for place, device in enumerate(devices):
        width = WIDTHS[place % len(WIDTHS)]
        yield e.DeploymentIssued(
            device=device,
            counter=1,
            digest=DIGEST,
            width=width,
            reason=text or "as much as it brought",
            expires_at=2 * BEGAN,
        )
        state = InstallState.FAILED if place % 10 == 9 else InstallState.CONFIRMED
        report = Report(
            counter=1, state=state, running=DIGEST, installed=DIGEST, width=width, detail=text
        )
        yield e.InstallReported(device=device, state=state, report=report)
        if place % 20 == 19:
            yield e.PresenceChanged(
                device=device, state=e.LinkState.OFFLINE, cause=text or "no sign of life for 90 s"
            )
