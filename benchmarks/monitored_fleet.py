"""What a fleet says that is watched: telemetry and rounds of made-up devices, always the same."""

import random
from collections.abc import Iterator

from broker.messages import (
    DropReason,
    Participation,
    Stage,
    Telemetry,
    TrainingSettings,
)
from journal import events as e

WIDTHS = (0.25, 0.5, 0.75, 1.0)
SIZE = 200_000  # bytes of the full width
LATE_ONE_IN = 25
TRAINING = TrainingSettings(
    steps=16, batch_size=32, learning_rate=0.01, momentum=0.9, weight_decay=1e-4, widths=WIDTHS
)


def device_names(count: int) -> list[str]:
    """Return the names of the devices."""
    return [f"pump-{number:05}" for number in range(count)]


def telemetry(number: int, turn: int) -> Telemetry:
    """Return what a device says in one turn: as large as what an agent sends."""
    chance = random.Random(number * 1_000_003 + turn)
    confidence = tuple(chance.randrange(30) for _ in range(10))
    return Telemetry(
        running="ab" * 32,
        inferences=sum(confidence),
        latency_p50_s=0.0021,
        latency_p95_s=0.0034,
        classes=tuple(chance.randrange(60) for _ in range(5)),
        confidence=confidence,
        memory_bytes=92_000_000 + chance.randrange(1_000_000),
        session=1,
        seq=turn + 1,
        sent_at=float(turn),
    )


def beginning(names: list[str]) -> Iterator[e.AnyEvent]:
    """Yield what happens before the first round."""
    labels = {name: {"site": f"hall-{at % 8}"} for at, name in enumerate(names)}
    yield e.CampaignStarted(
        fleet="plant",
        model="cnn1d",
        options={},
        spec_hash="",
        widths=WIDTHS,
        ladder=WIDTHS,
        seed=0,
        software="benchmark",
        settings={"labels": labels},
    )
    for at, name in enumerate(names):
        yield e.DeviceBorn(device=name, session=1, agent="1.0", can_train=True, running="")
        yield e.PresenceChanged(device=name, state=e.LinkState.ONLINE, cause="")
        yield e.WidthChosen(
            device=name,
            width=WIDTHS[at % 4],
            participation=Participation.TAKES_PART,
            reason="predicted 20 s of 90 s",
            predicted_s=20.0,
        )


def round_events(number: int, names: list[str]) -> Iterator[e.AnyEvent]:
    """Yield one round: every device trains, and one in `LATE_ONE_IN` is late."""
    yield e.RoundOpened(
        round=number,
        base="cd" * 32,
        tasks=tuple(
            e.RoundTask(device=name, width=WIDTHS[at % 4], predicted_s=20.0, seed=at)
            for at, name in enumerate(names)
        ),
        not_invited={},
        budget_s=90.0,
        quorum=1,
        training=TRAINING,
    )
    for name in names:
        yield e.TaskProgressed(round=number, device=name, stage=Stage.ACCEPTED)
        yield e.TaskProgressed(
            round=number, device=name, stage=Stage.STARTED, downloaded_bytes=SIZE, download_s=0.5
        )
    taken = []
    for at, name in enumerate(names):
        if (at + number) % LATE_ONE_IN == 0:
            yield e.DeviceDropped(round=number, device=name, reason=DropReason.LATE, detail="90 s")
            continue
        taken.append(name)
        yield _update(number, name, at)
    yield e.RoundClosed(round=number, aggregated=tuple(taken), reason="all have answered")
    yield _score(number, taken)


def _update(number: int, name: str, at: int) -> e.UpdateAccepted:
    return e.UpdateAccepted(
        round=number,
        device=name,
        width=WIDTHS[at % 4],
        blob="ef" * 32,
        digest="ef" * 32,
        size=SIZE,
        samples=400,
        steps=16,
        loss=0.5,
        download_s=0.5,
        train_s=18.0,
        round_s=20.0 + at % 7,
    )


def _score(number: int, taken: list[str]) -> e.RoundScored:
    return e.RoundScored(
        round=number,
        digest="cd" * 32,
        curve=tuple(
            e.CurvePoint(width=w, score=0.8, low=0.78, high=0.82, offered=True, fitted=0.8)
            for w in WIDTHS
        ),
        contributions=tuple(
            e.Contribution(device=name, score=0.01, update="ef" * 32) for name in taken
        ),
        method="permutation",
        value_before=0.1,
        value_after=0.2,
        coalitions=10,
        seconds=1.0,
        better=True,
    )
