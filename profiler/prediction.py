"""Predict a round's duration and a training's memory from what was measured. Pure.

No benchmark without the model predicts a step within 15 %, so each offered width is timed on the
device itself (`profiler.benchmark`); what is computed here are sums of those measurements. The
remaining error is followed by an average of observed over predicted durations, `follow_ratio`.
"""

from collections.abc import Sequence

from profiler.profile import WidthCost
from slimmable.training_rule import TrainingRule, WidthDraw

MIB = 2**20
# Resident memory above the idle process: c + a * parameters + b * saved activations, fitted to 16
# points (four networks, four widths, batch 32, SGD with momentum), error -8 to +6 %.
PARAMETER_COPIES = 4.8
ACTIVATION_COPIES = 1.24
# The fit has c = 92 MiB, of which 50 are the compiler that `torch.optim` imports and our training
# loop avoids. With it gone, first steps of small networks cost 22-30 MiB here.
FIRST_STEP_BYTES = 32 * MIB
# Resident memory of processes that have done nothing yet: PyTorch, or the agent with ONNX Runtime
# (64-bit Linux, one thread). Where the process itself can be asked, its own figure comes first.
TRAINING_BASELINE = 224 * MIB
INFERENCE_BASELINE = 55 * MIB
# ONNX Runtime above that, fitted to 15 points (three networks, inputs of up to 256 KiB): loading
# holds the file, its decoded and its packed weights at once; running holds the weights and an
# arena that grows in doublings over the live activations.
SESSION_BYTES = 10 * MIB
LOADING_COPIES = 4.5
RUNNING_COPIES = 2.0
ARENA_COPIES = 2.0
# Decoding weights, building the network of each width and encoding the result, counted in steps.
SET_UP_STEPS = 2
# A half: where a machine's load kept changing, errors were smaller than with 0.3 (median 12 to 15 %
# instead of 17, 95th percentile 29 to 35 % instead of 37 to 47), and beside a steady load no larger
# (9 and 23 %). `python -m benchmarks prediction --load`.
RATIO_WEIGHT = 0.5


def training_cost(costs: Sequence[WidthCost], width: float, rule: TrainingRule) -> WidthCost | None:
    """Return what one average step at a training width costs.

    Time is the sum over the widths that a step takes, each as often as the rule takes it; memory
    is that of the widest.

    Args:
        costs: the measured ones.
        width: training width.
        rule: how widths are chosen, with the training grid.

    Returns:
        None where a width that would be drawn was not measured.
    """
    often = WidthDraw(rule, width).frequencies()
    found = [cost for cost in costs if cost.width in often]
    if len(found) < len(often):
        return None
    return WidthCost(
        width=width,
        step_s=sum(often[cost.width] * cost.step_s for cost in found),
        peak_bytes=max(cost.peak_bytes for cost in found),
        timed_steps=sum(cost.timed_steps for cost in found),
    )


def predict_round(
    cost: WidthCost,
    steps: int,
    download_bytes: int,
    upload_bytes: int,
    link_bytes_per_s: float,
) -> float:
    """Return the seconds from a task's receipt to its update's arrival.

    Args:
        cost: of an average step, see `training_cost`.
        steps: gradient steps of the task.
        download_bytes: weights to fetch.
        upload_bytes: weights to send.
        link_bytes_per_s: rate of the transfer path; 0 = unknown, transfers count as nothing.
    """
    transfer = (download_bytes + upload_bytes) / link_bytes_per_s if link_bytes_per_s > 0 else 0.0
    return (steps + SET_UP_STEPS) * cost.step_s + transfer


def steps_within(
    cost: WidthCost,
    seconds: float,
    download_bytes: int,
    upload_bytes: int,
    link_bytes_per_s: float,
) -> int:
    """Return the most steps with which `predict_round` gives at most so many seconds; 0 to 1e9.

    Args:
        cost: of an average step.
        seconds: that the round may take.
        download_bytes: weights to fetch.
        upload_bytes: weights to send.
        link_bytes_per_s: rate of the transfer path; 0 = unknown.
    """
    left = seconds - predict_round(cost, 0, download_bytes, upload_bytes, link_bytes_per_s)
    return whole_steps(left, cost.step_s)


def whole_steps(seconds: float, step_s: float) -> int:
    """Return how many steps fit so many seconds, 0 to 1e9; 0 where a step takes no time."""
    return int(min(seconds / step_s, 1e9)) if seconds > 0 and step_s > 0 else 0


def predict_memory(baseline: int, parameter_bytes: int, activation_bytes: int) -> int:
    """Return the peak resident bytes of training.

    Args:
        baseline: resident bytes of the process before the first step.
        parameter_bytes: of the sub-model.
        activation_bytes: that one step saves for the backward pass.
    """
    return baseline + FIRST_STEP_BYTES + _growing_part(parameter_bytes, activation_bytes)


def predict_inference_memory(parameter_bytes: int, live_bytes: int) -> int:
    """Return the peak resident bytes of a process that loads an ONNX file and runs it.

    Args:
        parameter_bytes: of the sub-model.
        live_bytes: the most that its activations hold at one time.
    """
    loading = LOADING_COPIES * parameter_bytes
    running = RUNNING_COPIES * parameter_bytes + ARENA_COPIES * live_bytes
    return int(INFERENCE_BASELINE + SESSION_BYTES + max(loading, running))


def extrapolate_memory(
    measured_peak: int,
    parameter_bytes: tuple[int, int],
    activation_bytes: tuple[int, int],
) -> int:
    """Return the peak of a wider sub-model from the measured peak of a narrower one.

    Args:
        measured_peak: of the narrower one.
        parameter_bytes: (narrower, wider).
        activation_bytes: (narrower, wider).
    """
    narrow = _growing_part(parameter_bytes[0], activation_bytes[0])
    wide = _growing_part(parameter_bytes[1], activation_bytes[1])
    return measured_peak + max(0, wide - narrow)


def out_of_memory_line(width: float, needs: int, budget: int) -> str:
    """Return the line that says which width does not fit, for people and for the profile."""
    return f"out of memory at width {width:g}: needs {needs / MIB:.0f} of {budget / MIB:.0f} MiB"


def follow_ratio(
    ratio: float, predicted_s: float, observed_s: float, weight: float = RATIO_WEIGHT
) -> float:
    """Return the moving average of observed over predicted durations after one more round.

    Multiply predictions by it. Start with 1.0.
    """
    if predicted_s <= 0 or observed_s <= 0:
        return ratio
    return (1.0 - weight) * ratio + weight * observed_s / predicted_s


def _growing_part(parameter_bytes: int, activation_bytes: int) -> int:
    return int(PARAMETER_COPIES * parameter_bytes + ACTIVATION_COPIES * activation_bytes)
