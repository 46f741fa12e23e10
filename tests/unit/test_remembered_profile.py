"""What was measured before: when it counts, how it is kept, and what is done with bad files."""

import asyncio
import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.profile_cache import KEPT, ProfileCache
from edge_agent.remembering_trainer import RememberingTrainer
from journal.reading import digest_of
from profiler.profile import Benchmark, MachineFacts, WidthCost
from profiler.remembered import LOAD_CHANGED, Question, Remembered, outdated
from tests.fakes.full_disk import full_disk

MIB = 2**20
WIDTHS = (0.25, 0.5, 1.0)
FACTS = MachineFacts(
    cores=4,
    cpu_flags=("asimd",),
    memory_total=2048 * MIB,
    memory_available=1024 * MIB,
    machine="aarch64",
    system="Linux 6.1",
    python="3.11.2",
    runtimes={"torch": "2.13.0"},
)
QUESTION = Question("toy", {"length": 5}, WIDTHS, 32)


def benchmark(step_s=0.1, widths=WIDTHS, **changes):
    costs = tuple(WidthCost(width, step_s * width, int(width * 400 * MIB)) for width in widths)
    return dataclasses.replace(Benchmark("toy", "5" * 64, 32, 99, costs), **changes)


class Machine:
    """A trainer whose steps take as long as it is told."""

    def __init__(self, **changes):
        self.answer, self.asked = changes, []

    async def profile(self, model, options, widths, batch_size):
        self.asked.append(tuple(widths))
        return benchmark(widths=tuple(sorted(widths)), **self.answer)


def ask(machine, folder, facts=FACTS, **changes):
    """Profile as a device does after a start."""
    trainer = RememberingTrainer(machine, ProfileCache(folder), facts, **changes)
    return asyncio.run(trainer.profile("toy", {"length": 5}, WIDTHS, 32))


# --- the question -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"options": {"length": 6}},
        {"widths": (0.25, 0.5)},
        {"batch_size": 16},
        {"emulated": "old-pc"},
        {"spec_hash": "6" * 64},
    ],
)
def test_another_question_has_another_key(change):
    assert dataclasses.replace(QUESTION, **change).key(FACTS) != QUESTION.key(FACTS)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"runtimes": {"torch": "2.14.0"}}, False),
        ({"cpu_flags": ("asimd", "asimddp")}, False),
        ({"memory_total": 1024 * MIB}, False),
        ({"cores": 2}, False),
        ({"memory_available": 1}, True),
        ({"clock_mhz": 1200.0}, True),
        ({"system": "Linux 6.2"}, True),
    ],
)
def test_the_key_follows_hardware_and_runtimes_and_nothing_that_changes_all_the_time(change, same):
    assert (QUESTION.key(dataclasses.replace(FACTS, **change)) == QUESTION.key(FACTS)) == same


def test_the_order_of_widths_and_options_does_not_matter():
    one = Question("toy", {"a": 1, "b": 2}, (1.0, 0.5))
    other = Question("toy", {"b": 2, "a": 1}, (0.5, 1.0, 0.5))
    assert one.key(FACTS) == other.key(FACTS)


# --- whether it holds ---------------------------------------------------------------------------


@given(st.floats(0.05, 20.0))
def test_a_step_that_takes_another_time_says_that_the_load_has_changed(factor):
    again = benchmark(0.1 * factor, (0.25,))
    changed = not 1 / LOAD_CHANGED <= factor <= LOAD_CHANGED
    if not math.isclose(factor, LOAD_CHANGED) and not math.isclose(factor, 1 / LOAD_CHANGED):
        assert bool(outdated(benchmark(), again)) == changed


@pytest.mark.parametrize(
    ("again", "said"),
    [
        (benchmark(widths=(0.25,), spec_hash="6" * 64), "width spec is 66666666 now"),
        (benchmark(widths=(0.25,), samples=100), "100 samples now, 99 then"),
        (benchmark(widths=(), failures=("out of memory",)), "out of memory"),
        (benchmark(widths=(0.125,)), "was not timed then"),
        (benchmark(step_s=0.2, widths=(0.25,)), "width 0.25 takes 2.00 times what it took"),
    ],
)
def test_why_a_benchmark_does_not_hold_any_more_is_said(again, said):
    assert said in outdated(benchmark(), again)


@pytest.mark.parametrize(
    "cost",
    [
        WidthCost(0.25, 0.0, 1),
        WidthCost(0.25, -1.0, 1),
        WidthCost(0.25, math.inf, 1),
        WidthCost(0.25, math.nan, 1),
        WidthCost(0.25, 1e9, 1),
        WidthCost(0.25, 0.1, -1),
        WidthCost(0.25, 0.1, 2**60),
        WidthCost(7.0, 0.1, 1),
        WidthCost(-0.25, 0.1, 1),
    ],
)
def test_absurd_numbers_on_the_disk_are_not_believed(cost):
    assert not Remembered(benchmark(costs=(cost,)), 0).usable(0)


def test_a_failure_that_may_not_happen_again_is_measured_again():
    failed = benchmark(failures=("out of memory at width 1",))
    assert Remembered(failed, 512 * MIB).usable(512 * MIB)
    assert not Remembered(failed, 512 * MIB).usable(600 * MIB), "more memory may do"
    assert not Remembered(failed, 512 * MIB).usable(0)
    assert not Remembered(benchmark(passing=True), 0).usable(0)
    assert not Remembered(benchmark(widths=()), 0).usable(0)


def test_less_memory_takes_widths_away_without_measuring():
    found = Remembered(benchmark(), 0).within(300 * MIB)
    assert [cost.width for cost in found.costs] == [0.25, 0.5]
    assert found.failures == ("out of memory at width 1: needs 400 of 300 MiB",)
    assert Remembered(benchmark(), 0).within(0) == benchmark()


# --- on the disk --------------------------------------------------------------------------------


def test_after_a_restart_one_width_is_timed_and_the_rest_remembered(tmp_path):
    first, second = Machine(), Machine(step_s=0.11)
    assert ask(second, tmp_path) == benchmark(0.11)
    ask(first, tmp_path, FACTS)
    assert second.asked == [WIDTHS]
    assert first.asked == [(0.25,)]
    assert ask(Machine(), tmp_path) == benchmark(0.11), "what was measured whole counts"


def test_under_another_load_every_width_is_measured_again_and_that_is_kept(tmp_path):
    ask(Machine(), tmp_path)
    busy = Machine(step_s=0.2)
    assert ask(busy, tmp_path) == benchmark(0.2)
    assert busy.asked == [(0.25,), WIDTHS]
    assert ask(Machine(step_s=0.2), tmp_path).costs == benchmark(0.2).costs


def test_other_hardware_or_a_wish_measures_everything(tmp_path):
    ask(Machine(), tmp_path)
    moved, fresh = Machine(), Machine()
    ask(moved, tmp_path, dataclasses.replace(FACTS, cores=2))
    ask(fresh, tmp_path, fresh=True)
    assert moved.asked == fresh.asked == [WIDTHS]


def test_who_is_asked_while_it_runs_measures_everything_and_remembers_that(tmp_path):
    ask(Machine(), tmp_path)
    machine = Machine(step_s=0.11)
    trainer = RememberingTrainer(machine, ProfileCache(tmp_path), FACTS)
    asyncio.run(trainer.profile("toy", {"length": 5}, WIDTHS, 32, fresh=True))
    assert machine.asked == [WIDTHS]
    assert ask(Machine(step_s=0.11), tmp_path) == benchmark(0.11)


def test_a_benchmark_without_any_width_is_not_kept(tmp_path):
    ask(Machine(costs=(), failures=("out of memory at width 0.25",)), tmp_path)
    assert not list(tmp_path.iterdir())


def sealed(document):
    data = json.dumps(document).encode()
    return digest_of(data).encode() + b"\n" + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\xff" * 200,
        sealed([]),
        sealed({"benchmark": {}, "memory_budget": "much"}),
        sealed({"memory_budget": 5}),
    ],
)
def test_a_corrupt_file_is_measured_over_and_replaced(tmp_path, content, caplog):
    ask(Machine(), tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(content)
    machine = Machine()
    assert ask(machine, tmp_path) == benchmark()
    assert machine.asked == [WIDTHS]
    assert "measured anew" in caplog.text
    mended = Machine()
    ask(mended, tmp_path)
    assert mended.asked == [(0.25,)]


def test_one_flipped_bit_is_noticed(tmp_path):
    ask(Machine(), tmp_path)
    [file] = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(bytes(content))
    machine = Machine()
    ask(machine, tmp_path)
    assert machine.asked == [WIDTHS]


def test_a_forged_file_with_absurd_numbers_is_measured_over(tmp_path):
    ask(Machine(), tmp_path)
    [file] = tmp_path.iterdir()
    document = json.loads(file.read_bytes()[65:])
    document["benchmark"]["costs"][0]["step_s"] = -1.0
    file.write_bytes(sealed(document))
    machine = Machine()
    assert ask(machine, tmp_path) == benchmark()
    assert machine.asked == [WIDTHS]


def test_a_full_disk_costs_the_memory_and_nothing_else(tmp_path, caplog):
    with full_disk():
        assert ask(Machine(), tmp_path) == benchmark()
    assert "the next start measures again" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_costs_nothing_else(tmp_path):
    (tmp_path / "profiles").write_text("a file")
    assert ask(Machine(), tmp_path / "profiles") == benchmark()


def test_old_answers_go(tmp_path):
    cache = ProfileCache(tmp_path)
    for number in range(KEPT + 5):
        cache.keep(f"{number:032}", number)
    assert len(list(tmp_path.iterdir())) == KEPT
    assert cache.read(f"{KEPT + 4:032}", int) == KEPT + 4
