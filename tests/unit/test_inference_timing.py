"""Which ONNX files are measured, and what a file that ends its process costs."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from edge_agent.inference_timing import TrialFile, measure_files, trial_files
from edge_agent.probe import ProbeResult
from edge_agent.profile_cache import ProfileCache
from edge_agent.slots import ModelSlots
from profiler.facts import gather_facts
from profiler.profile import InferenceFindings
from slimfleet import inference_profile
from slimfleet.inference_profile import InferenceProfiler, measured_folder
from slimfleet.trial_export import TrialExport, TrialOrder, export_trials
from tests.fakes.toy_onnx import always, manifest_of

GOOD = ProbeResult(True, 0.002, "", latency_p95_s=0.003, load_s=0.1)
KILLED = ProbeResult(False, 0.0, "was killed", "killed")
ILLEGAL = ProbeResult(False, 0.0, "died (SIGILL)", "illegal-instruction")
WIDTHS = (0.25, 0.5, 1.0)
FILES = [
    TrialFile(width, form, Path(f"{width:g}-{form}"), Path("manifest"), 100)
    for width in reversed(WIDTHS)
    for form in ("float32", "int8")
]


def measure(answers, **changes):
    """Measure the files; answers by the name of the file, else good."""

    async def attempt(onnx, manifest):
        return answers.get(onnx.name, GOOD)

    return asyncio.run(measure_files(FILES, attempt=attempt, **changes))


def exported(folder, label, width, encoding="onnx-f32"):
    """Write a file and its manifest as an exporter does."""
    onnx, _ = always(label)
    manifest = manifest_of(onnx, width=width, encoding=encoding)
    name = f"toy-w{width:.2f}" + ("-int8" if "int8" in encoding else "")
    (folder / f"{name}.onnx").write_bytes(onnx)
    document = msgspec.json.encode(manifest)
    (folder / f"{name}.manifest.json").write_bytes(document)
    return folder / f"{name}.onnx"


def left_over(orders):
    """Return the folders of trial exports that still stand."""
    return [order.folder for order in orders if Path(order.folder).exists()]


def test_files_are_measured_from_the_narrowest_up():
    found = measure({})
    assert [(one.width, one.form) for one in found.costs] == [
        (width, form) for width in WIDTHS for form in ("float32", "int8")
    ]
    assert found.costs[0].latency_p95_s == 0.003
    assert (found.costs[0].load_s, found.costs[0].size) == (0.1, 100)
    assert found.failures == ()


def test_a_file_that_needs_too_much_memory_spares_the_wider_ones_of_its_form():
    found = measure({"0.5-float32": KILLED})
    assert [(one.width, one.form) for one in found.costs] == [
        (0.25, "float32"),
        (0.25, "int8"),
        (0.5, "int8"),
        (1.0, "int8"),
    ]
    assert found.failures == (
        "width 0.5 float32: was killed",
        "width 1 float32: not tried, as 0.5 needed too much memory",
    )


def test_a_form_that_is_no_good_here_leaves_the_other_one():
    found = measure({"0.25-int8": ILLEGAL})
    assert len(found.costs) == 5
    assert found.failures == ("width 0.25 int8: died (SIGILL)",)


def test_after_two_deaths_nothing_more_is_tried():
    found = measure({"0.25-float32": ILLEGAL, "0.25-int8": ILLEGAL})
    assert found.costs == ()
    assert len(found.failures) == 6
    assert "not tried, as 2 files ended their process" in found.failures[-1]


def test_with_no_time_left_the_rest_is_named():
    async def slow(onnx, manifest):
        await asyncio.sleep(0.02)
        return GOOD

    found = asyncio.run(measure_files(FILES, attempt=slow, budget_s=0.01))
    assert len(found.costs) == 1
    assert len(found.failures) == 5
    assert "not tried, as the 0.01 s for measuring were over" in found.failures[0]


async def test_real_files_are_loaded_and_timed_in_child_processes(tmp_path):
    exported(tmp_path, 1, 0.5)
    exported(tmp_path, 2, 1.0, "onnx-int8-static").write_bytes(b"garbage")
    (tmp_path / "torn.manifest.json").write_text("{")
    found = await measured_folder(tmp_path)
    [cost] = found.costs
    assert (cost.width, cost.form) == (0.5, "float32")
    assert cost.load_s > 0
    assert 0 < cost.latency_s <= cost.latency_p95_s
    assert [line.split(":")[0] for line in found.failures] == ["torn", "width 1 int8"]


def test_files_that_start_faster_are_not_a_further_width(tmp_path):
    exported(tmp_path, 1, 0.5)
    for suffix in (".onnx", ".manifest.json"):
        (tmp_path / f"toy-w0.50.preoptimised{suffix}").write_bytes(b"")
    assert len(trial_files(tmp_path)[0]) == 1


def test_an_empty_folder_has_nothing_to_measure(tmp_path):
    assert trial_files(tmp_path / "none") == ([], [])


# --- where the files come from ------------------------------------------------------------------


async def test_a_device_that_only_infers_measures_what_it_was_sent(tmp_path):
    onnx, manifest = always(1)
    slots = ModelSlots(tmp_path)
    profiler = InferenceProfiler(gather_facts(), installed=slots.current, export=False)
    assert await profiler.measure("toy", {}, WIDTHS) == InferenceFindings()
    slots.activate(slots.install(manifest, onnx, 1).digest, 1)
    found = await profiler.measure("toy", {}, WIDTHS)
    assert [cost.width for cost in found.costs] == [manifest.width]
    assert found.failures == ()


async def test_an_installed_model_that_is_gone_is_a_line_and_no_error(tmp_path):
    onnx, manifest = always(1)
    slots = ModelSlots(tmp_path)
    installed = slots.install(manifest, onnx, 1)
    slots.activate(installed.digest, 1)
    current = slots.current()
    installed.manifest_path.unlink()
    profiler = InferenceProfiler(gather_facts(), installed=lambda: current, export=False)
    found = await profiler.measure("toy", {}, WIDTHS)
    assert found.costs == ()
    assert "the installed model" in found.failures[0]


async def test_findings_are_remembered_where_the_version_of_the_network_is_known(
    tmp_path, monkeypatch
):
    orders = []

    async def export(order, timeout_s):
        orders.append(order)
        exported(Path(order.folder), 1, 0.5)
        return TrialExport("5" * 64)

    monkeypatch.setattr(inference_profile, "export_trials", export)
    monkeypatch.setattr(inference_profile, "export_obstacle", lambda: "")
    profiler = InferenceProfiler(gather_facts(), cache=ProfileCache(tmp_path))
    first = await profiler.measure("toy", {}, WIDTHS, "5" * 64)
    assert len(first.costs) == 1
    assert await profiler.measure("toy", {}, WIDTHS, "5" * 64) == first
    assert len(orders) == 1
    await profiler.measure("toy", {}, WIDTHS, "6" * 64)
    await profiler.measure("toy", {}, WIDTHS)
    assert len(orders) == 3
    await profiler.measure("toy", {}, WIDTHS, "5" * 64, fresh=True)
    assert len(orders) == 4
    assert not left_over(orders)


@pytest.mark.torch
async def test_a_trial_export_gives_both_forms_of_each_width(tmp_path):
    options = {"sensors": 3, "length": 32, "classes": ["still", "moving"]}
    out = tmp_path / "out"
    out.mkdir()
    order = TrialOrder("cnn1d", options, (0.5, 1.0), str(out), str(tmp_path / "templates"))
    done = await export_trials(order, 100.0)
    assert done.failures == []
    assert len(done.spec_hash) == 64
    found = await measured_folder(out)
    assert [(one.width, one.form) for one in found.costs] == [
        (width, form) for width in (0.5, 1.0) for form in ("float32", "int8")
    ]
    sizes = {(one.width, one.form): one.size for one in found.costs}
    assert sizes[0.5, "float32"] < sizes[1.0, "float32"]


@pytest.mark.torch
async def test_an_export_that_fails_says_why_and_nothing_else_happens(tmp_path):
    done = await export_trials(TrialOrder("nonesuch", {}, (1.0,), str(tmp_path)), 100.0)
    assert "no model 'nonesuch'" in done.failures[0]
    late = await export_trials(TrialOrder("cnn1d", {}, (1.0,), str(tmp_path)), 0.001)
    assert late.failures == ["exporting was not done within 0.001 s"]
