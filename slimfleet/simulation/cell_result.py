"""What a cell of an experiment came to, as plain values: devices, rounds and widths."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from coordinator.fleet import Campaign
from coordinator.settings import Settings
from journal.events import Reward
from slimfleet.simulation.campaign import Outcome
from slimfleet.simulation.devices import SimulatedDevice
from slimfleet.simulation.experiment import Cell, CellData, Experiment, fingerprint
from slimfleet.simulation.round_facts import (
    RoundResult,
    TaskResult,
    round_results,
    task_results,
)
from slimmable.cost import payload_bytes
from slimmable.model import load_model
from slimmable.private_parts import shared_spec
from slimmable.state import ModelState, encode_state


class DeviceResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one device gave and got.

    Attributes:
        samples: that it has; widest: width that it can train; rider: kind, or ""; tier: of its
            machine, or "".
        contribution: with its 95 % interval (low, high); share: 1 is the average.
        width: that it earned, 0 = no release.
        score: of that width, as the server measured it; test_score: on the test data.
        alone: score of its own model, where the campaign measured it.
        rounds: in which its update counted.
        local: where devices keep networks of their own, what this one's scored there; network: its
            name, "" = the campaign's.
        reason: one sentence.
    """

    device: str
    samples: int
    widest: float
    rider: str
    contribution: float
    low: float
    high: float
    share: float
    width: float
    score: float
    test_score: float | None
    alone: float | None
    rounds: int
    reason: str
    tier: str = ""
    local: float | None = None
    network: str = ""


class WidthResult(msgspec.Struct, frozen=True, kw_only=True):
    """One width at the end: on the server's data with its 95 % interval, and on the test data."""

    width: float
    score: float
    low: float
    high: float
    offered: bool
    test_score: float


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell came to.

    Attributes:
        fingerprint: of the experiment that it belongs to.
        score_name: what the scores are, for example "accuracy".
        stopped, rule, note: why training ended, and how rewards were allocated.
        wall_s: seconds that the campaign took.
        tasks: of all rounds; results from before they were noted have none.
    """

    fingerprint: str
    partition: str
    seed: int
    score_name: str
    untrained: float
    stopped: str
    rule: str
    note: str
    devices: tuple[DeviceResult, ...]
    rounds: tuple[RoundResult, ...]
    widths: tuple[WidthResult, ...]
    wall_s: float
    tasks: tuple[TaskResult, ...] = ()


def result_of(
    experiment: Experiment,
    cell: Cell,
    settings: Settings,
    dealt: CellData,
    outcome: Outcome,
    wall_s: float,
) -> CellResult:
    """Return what a campaign came to; it takes the test data to measure every width.

    Where devices keep networks of their own there is no network to test: in the place of test
    scores stand the scores that the devices reported, and ``score_name`` says so.
    """
    state = outcome.state
    scored, allocation = state.scored, state.allocation
    assert scored is not None
    assert allocation is not None
    tasks = task_results(outcome.records, _plain_bytes(settings, outcome))
    if settings.keeps_own:
        name = f"local {name_of_score(settings)}"
        on_test: Mapping[float, float] = {point.width: point.score for point in scored.curve}
    else:
        widths = [point.width for point in scored.curve]
        name, on_test = scores_on_test(settings, outcome.final, widths, dealt)
    rewards = {reward.device: reward for reward in allocation.rewards}
    return CellResult(
        fingerprint=fingerprint(experiment, cell),
        partition=cell.partition,
        seed=cell.seed,
        score_name=name,
        untrained=state.untrained,
        stopped=state.stopped,
        rule=allocation.rule,
        note=allocation.note,
        devices=tuple(
            _kept(state, device)
            if settings.keeps_own or device.name not in rewards  # it never trained
            else _rewarded(state, device, rewards[device.name], on_test)
            for device in dealt.devices
        ),
        rounds=round_results(outcome.records, tasks),
        widths=tuple(
            WidthResult(
                width=point.width,
                score=point.score,
                low=point.low,
                high=point.high,
                offered=point.offered,
                test_score=on_test[point.width],
            )
            for point in scored.curve
        ),
        wall_s=wall_s,
        tasks=tasks,
    )


def _plain_bytes(settings: Settings, outcome: Outcome) -> Callable[[float], int]:
    """Return how large what travels is in full precision, at a width."""
    if settings.exchange != "weights":
        size = len(encode_state(outcome.final))
        return lambda _width: size
    spec = load_model(settings.model, settings.options).spec
    return partial(payload_bytes, shared_spec(spec, settings.training.private))


def _rewarded(
    state: Campaign, device: SimulatedDevice, reward: Reward, on_test: Mapping[float, float]
) -> DeviceResult:
    return DeviceResult(
        device=device.name,
        samples=len(device.samples),
        widest=device.widest,
        rider=device.rider,
        contribution=reward.contribution,
        low=reward.low,
        high=reward.high,
        share=reward.share,
        width=reward.width,
        score=reward.score,
        test_score=on_test.get(reward.width),
        alone=reward.alone,
        rounds=state.devices[device.name].rounds_taken,
        reason=reward.reason,
        tier=device.tier.name if device.tier else "",
    )


def _kept(state: Campaign, device: SimulatedDevice) -> DeviceResult:
    given = state.contribution(device.name) or 0.0
    return DeviceResult(
        device=device.name,
        samples=len(device.samples),
        widest=device.widest,
        rider=device.rider,
        contribution=given,
        low=given,
        high=given,
        share=0.0,
        width=0.0,
        score=0.0,
        test_score=None,
        alone=None,
        rounds=state.devices[device.name].rounds_taken,
        local=state.local_score(device.name),
        network=device.own_model.model if device.own_model else "",
        reason=state.withheld or state.devices[device.name].reason,
        tier=device.tier.name if device.tier else "",
    )


def name_of_score(settings: Settings) -> str:
    """Return what a score of the campaign's model is, in a word."""
    from slimfleet.training_run import score_name

    return score_name(load_model(settings.model, settings.options))


def scores_on_test(
    settings: Settings, state: ModelState, widths: Sequence[float], dealt: CellData
) -> tuple[str, Mapping[float, float]]:
    """Return what the scores are called, and each width's on the test data.

    Statistics are calibrated on the server's data, as those of a release are.
    """
    from slimfleet.training_run import score_name
    from slimmable.evaluation import calibrated_slices, outputs

    model = load_model(settings.model, settings.options)
    slices = calibrated_slices(model, state, widths, dealt.validation.x)
    return score_name(model), {
        width: float(
            model.task.score(outputs(model, width, slices[width], dealt.test.x), dealt.test.y)
        )
        for width in widths
    }
