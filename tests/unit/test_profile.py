"""The device profile: facts, assembly, table, and its form on the wire."""

import dataclasses
import string

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import messages
from edge_agent.profile_message import from_message, to_message
from profiler import condition
from profiler.cgroups import cgroup_cores, cgroup_memory
from profiler.condition import read_condition
from profiler.facts import (
    container_of,
    gather_facts,
    installed_versions,
    read_cpu_flags,
    training_budget,
    usable_cores,
)
from profiler.profile import (
    Benchmark,
    Condition,
    DeviceProfile,
    InferenceCost,
    InferenceFindings,
    MachineFacts,
    WidthCost,
    describe,
)
from profiler.table import profile_table

MIB = 2**20
FACTS = MachineFacts(
    cores=4,
    cpu_flags=("asimd", "atomics"),
    memory_total=2048 * MIB,
    memory_available=1000 * MIB,
    machine="aarch64",
    system="Linux 6.6",
    python="3.11.9",
    runtimes={"torch": "2.13.0"},
    clock_mhz=1800.0,
    swap_total=100 * MIB,
    container="docker",
)
HOT = Condition(82.4, "throttled", "mains", 500 * MIB)
BENCHMARK = Benchmark(
    model="cnn1d",
    spec_hash="ab" * 32,
    batch_size=32,
    samples=561,
    costs=(WidthCost(0.25, 0.010, 240 * MIB), WidthCost(0.5, 0.040, 250 * MIB)),
    failures=("out of memory at width 1: needs 600 of 512 MiB",),
)

costs = st.builds(
    WidthCost,
    width=st.floats(0.01, 1.0),
    step_s=st.floats(0.0, 1e3),
    peak_bytes=st.integers(0, 2**40),
    timed_steps=st.integers(1, 9),
    interpolated=st.booleans(),
)
inferences = st.builds(
    InferenceCost,
    width=st.floats(0.01, 1.0),
    form=st.sampled_from(["float32", "int8"]),
    latency_s=st.floats(0.0, 1e3),
    latency_p95_s=st.floats(0.0, 1e3),
    load_s=st.floats(0.0, 1e3),
    size=st.integers(0, 2**40),
)
text = st.text(string.printable, max_size=20)
profiles = st.builds(
    DeviceProfile,
    model=text,
    spec_hash=text,
    batch_size=st.integers(0, 512),
    costs=st.lists(costs, max_size=4).map(tuple),
    failures=st.lists(text, max_size=2).map(tuple),
    can_train=st.booleans(),
    reason=text,
    memory_budget=st.integers(0, 2**40),
    link_bytes_per_s=st.floats(0, 1e9),
    samples=st.integers(0, 10**6),
    cores=st.integers(0, 128),
    cpu_flags=st.lists(text, max_size=3).map(tuple),
    runtimes=st.dictionaries(text, text, max_size=3),
    clock_mhz=st.floats(0, 1e4),
    swap_total=st.integers(0, 2**40),
    container=text,
    temperature_c=st.none() | st.floats(-60, 150),
    throttled=text,
    power=text,
    disk_free=st.integers(0, 2**40),
    emulated=text,
    round_trip_s=st.floats(0, 1e3),
    clock_offset_s=st.none() | st.floats(-1e9, 1e9),
    inference=st.lists(inferences, max_size=3).map(tuple),
    inference_failures=st.lists(text, max_size=2).map(tuple),
)


@given(profiles)
def test_a_profile_survives_the_wire(profile):
    packed = msgspec.msgpack.encode(to_message(profile, session=2, seq=7))
    assert from_message(msgspec.msgpack.decode(packed, type=messages.Profile)) == profile


def test_the_message_has_a_field_for_every_field_of_the_profile():
    carried = set(messages.Profile.__struct_fields__) - set(messages.Message.__struct_fields__)
    # Whose request it follows is said of the message, not of the machine.
    assert carried - {"answers"} == {field.name for field in dataclasses.fields(DeviceProfile)}
    for told, kept in ((messages.WidthCost, WidthCost), (messages.InferenceCost, InferenceCost)):
        assert set(told.__struct_fields__) == {field.name for field in dataclasses.fields(kept)}


def test_a_device_that_timed_a_width_can_train():
    profile = describe(FACTS, BENCHMARK, memory_budget=512 * MIB, emulated="raspberry-pi-4")
    assert profile.can_train
    assert profile.reason == ""
    assert profile.cost(0.5) == BENCHMARK.costs[1]
    assert profile.cost(1.0) is None


def test_a_device_where_no_width_fits_says_why_it_cannot_train():
    nothing = dataclasses.replace(BENCHMARK, costs=())
    profile = describe(FACTS, nothing, memory_budget=200 * MIB)
    assert not profile.can_train
    assert profile.reason == "out of memory at width 1: needs 600 of 512 MiB"


def test_a_device_without_a_benchmark_gives_the_reason_it_was_told():
    profile = describe(FACTS, None, memory_budget=0, reason="torch is not installed")
    assert (profile.can_train, profile.reason) == (False, "torch is not installed")


def test_the_table_shows_each_width_with_a_bar_and_says_what_is_emulated():
    profile = describe(FACTS, BENCHMARK, memory_budget=512 * MIB, emulated="raspberry-pi-4")
    table = profile_table(profile)
    bars = [line.count("█") for line in table.splitlines() if "█" in line]
    assert bars == [8, 30]
    assert "raspberry-pi-4" in table
    assert "EMULATED" in table
    assert "! out of memory at width 1" in table
    assert "EMULATED" not in profile_table(describe(FACTS, BENCHMARK, memory_budget=1))


def test_a_profile_carries_the_facts_and_the_condition_as_they_are():
    profile = describe(FACTS, BENCHMARK, memory_budget=1, condition=HOT)
    for carried in (FACTS, HOT):
        for name, value in dataclasses.asdict(carried).items():
            if name != "memory_available":  # the budget stands for it
                assert getattr(profile, name) == value


def test_the_table_tells_in_what_state_the_machine_is():
    table = profile_table(describe(FACTS, BENCHMARK, memory_budget=1, condition=HOT))
    assert "4 cores of up to 1800 MHz, 2048 MiB memory, 100 MiB swap" in table
    assert "82 °C, throttled, on mains, 500 MiB free on disk" in table
    assert "container       docker" in table
    silent = dataclasses.replace(FACTS, clock_mhz=0.0, swap_total=0, container="")
    table = profile_table(describe(silent, BENCHMARK, memory_budget=1))
    assert "4 cores, 2048 MiB memory\n" in table
    assert "condition" not in table


def test_the_table_marks_what_was_interpolated():
    costs = (WidthCost(0.5, 0.1, 50 * MIB), WidthCost(0.75, 0.15, 70 * MIB, 0, interpolated=True))
    table = profile_table(
        describe(FACTS, dataclasses.replace(BENCHMARK, costs=costs), memory_budget=1)
    )
    assert "~150.0 ms" in table
    assert "~70 MiB" in table
    assert "~ interpolated: the time for measuring was over" in table
    assert "interpolated" not in profile_table(describe(FACTS, BENCHMARK, memory_budget=1))


def test_the_table_shows_inference_link_and_clock():
    found = InferenceFindings(
        (
            InferenceCost(0.5, "float32", 0.002, 0.003, 0.05, 10 * 1024),
            InferenceCost(0.5, "int8", 0.001, 0.0015, 0.06, 3 * 1024),
        ),
        ("width 1 int8: was killed",),
    )
    profile = dataclasses.replace(
        describe(FACTS, BENCHMARK, memory_budget=1, inference=found, link_bytes_per_s=1e6),
        round_trip_s=0.0123,
        clock_offset_s=-2.5,
    )
    table = profile_table(profile)
    rows = {line.split()[1]: line for line in table.splitlines() if "KiB" in line}
    assert "2.00 ms" in rows["float32"]
    assert rows["float32"].count("█") == 2 * rows["int8"].count("█")
    assert "! width 1 int8: was killed" in table
    assert "1.0 MB/s, round trip 12.3 ms" in table
    assert "-2.500 s against the server's" in table


def test_an_inference_only_device_has_a_table_too():
    profile = describe(FACTS, None, memory_budget=0, reason="torch is not installed")
    assert "no: torch is not installed" in profile_table(profile)


def test_the_facts_of_this_machine_are_plausible():
    facts = gather_facts()
    assert facts.cores >= 1
    assert 0 < training_budget(facts) < facts.memory_available <= facts.memory_total
    assert facts.runtimes["numpy"] == np.__version__
    assert facts.machine
    assert facts.system


def test_versions_of_packages_that_are_not_installed_are_left_out():
    assert installed_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}


@pytest.mark.parametrize(
    ("cpuinfo", "flags"),
    [
        ("flags\t\t: fpu avx2 sse4_2 fma\n", ("avx2", "fma", "sse4_2")),
        ("processor : 0\nFeatures : fp asimd atomics asimddp\n", ("asimd", "asimddp", "atomics")),
        ("processor : 0\n", ()),
    ],
)
def test_cpu_flags_are_read_on_x86_and_arm(tmp_path, cpuinfo, flags):
    (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="ascii")
    assert read_cpu_flags(tmp_path / "cpuinfo") == flags


def test_there_are_no_cpu_flags_where_there_is_no_cpuinfo(tmp_path):
    assert read_cpu_flags(tmp_path / "cpuinfo") == ()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="ascii")


def test_the_tightest_control_group_around_the_process_limits_memory(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "self" / "cgroup", "0::/plant/agent\n")
    write(groups / "plant" / "agent" / "memory.max", "max\n")
    write(groups / "plant" / "memory.max", "1000\n")
    write(groups / "plant" / "memory.current", "300\n")
    write(groups / "memory.max", "5000\n")
    assert cgroup_memory(proc, groups) == (1000, 300)


def test_control_groups_of_version_1_are_understood(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "self" / "cgroup", "5:cpu:/x\n4:memory:/plant\n0::/\n")
    write(groups / "memory" / "plant" / "memory.limit_in_bytes", "700\n")
    write(groups / "memory" / "plant" / "memory.usage_in_bytes", "100\n")
    assert cgroup_memory(proc, groups) == (700, 100)


def test_without_control_groups_memory_is_not_limited(tmp_path):
    assert cgroup_memory(tmp_path, tmp_path) == (None, 0)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"plant/agent/cpu.max": "150000 100000\n"}, 1.5),
        ({"plant/agent/cpu.max": "max 100000\n", "plant/cpu.max": "200000 100000\n"}, 2.0),
        ({"plant/agent/cpu.max": "max 100000\n"}, None),
        ({"plant/agent/cpu.max": "garbage\n"}, None),
        ({"plant/agent/cpu.max": "0 100000\n"}, None),
        ({}, None),
    ],
)
def test_the_tightest_control_group_limits_the_processors_time(tmp_path, files, cores):
    write(tmp_path / "proc" / "self" / "cgroup", "0::/plant/agent\n")
    for name, content in files.items():
        write(tmp_path / "cgroup" / name, content)
    assert cgroup_cores(tmp_path / "proc", tmp_path / "cgroup") == cores


@pytest.mark.parametrize(("quota", "cores"), [("50000", 0.5), ("-1", None)])
def test_processor_limits_of_version_1_are_understood(tmp_path, quota, cores):
    write(tmp_path / "proc" / "self" / "cgroup", "4:cpu,cpuacct:/plant\n")
    write(tmp_path / "cgroup" / "cpu" / "plant" / "cpu.cfs_quota_us", quota)
    write(tmp_path / "cgroup" / "cpu" / "plant" / "cpu.cfs_period_us", "100000")
    assert cgroup_cores(tmp_path / "proc", tmp_path / "cgroup") == cores


@pytest.mark.parametrize(("allowed", "cores"), [(0.1, 1), (1.0, 1), (1e9, usable_cores())])
def test_a_limit_of_processor_time_leaves_at_least_one_core(allowed, cores):
    assert usable_cores(allowed) == cores


@pytest.mark.parametrize(
    ("file", "content", "environment", "kind"),
    [
        (".dockerenv", "", {}, "docker"),
        ("run/.containerenv", "", {}, "podman"),
        ("run/systemd/container", "lxc\n", {}, "lxc"),
        (".dockerenv", "", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ("etc/hostname", "pc", {}, ""),
    ],
)
def test_the_kind_of_container_is_told(tmp_path, file, content, environment, kind):
    write(tmp_path / file, content)
    assert container_of(tmp_path, environment) == kind


FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"


@pytest.mark.parametrize(
    ("files", "throttled"),
    [
        ({}, ""),
        ({FIRMWARE: "0\n"}, ""),
        ({FIRMWARE: "50005\n"}, "under-voltage; throttled"),
        ({FIRMWARE: "80000\n"}, "temperature limit since the start"),
        ({FIRMWARE: "not a number"}, ""),
        (
            {
                "class/hwmon/hwmon1/name": "rpi_volt\n",
                "class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
                FIRMWARE: "1\n",
            },
            "under-voltage",
        ),
        (
            {
                "class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
                "class/thermal/cooling_device0/cur_state": "2\n",
                "class/thermal/cooling_device1/type": "cpufreq-cpu1\n",
                "class/thermal/cooling_device1/cur_state": "1\n",
            },
            "slowed down to cool",
        ),
        (
            {
                "class/thermal/cooling_device0/type": "pwm-fan\n",
                "class/thermal/cooling_device0/cur_state": "4\n",
                "class/thermal/cooling_device1/type": "Processor\n",
                "class/thermal/cooling_device1/cur_state": "0\n",
            },
            "",
        ),
    ],
)
def test_what_slows_a_processor_down_is_told(tmp_path, files, throttled):
    for name, content in files.items():
        write(tmp_path / name, content)
    assert read_condition(tmp_path, tmp_path).throttled == throttled


class Sensor:
    def __init__(self, current):
        self.current = current


@pytest.mark.parametrize(
    ("readings", "hottest"),
    [([41.5, 63.0], 63.0), ([-273.0, 255.0, 40.0], 40.0), ([float("nan")], None), ([], None)],
)
def test_the_hottest_plausible_sensor_counts(tmp_path, monkeypatch, readings, hottest):
    sensors = {"cpu": [Sensor(value) for value in readings]}
    monkeypatch.setattr(condition.psutil, "sensors_temperatures", lambda: sensors, raising=False)
    assert read_condition(tmp_path).temperature_c == hottest


def fails(*_arguments):
    raise OSError("no answer")


def test_a_machine_that_tells_nothing_is_no_error(tmp_path, monkeypatch):
    for name in ("sensors_temperatures", "sensors_battery"):
        monkeypatch.setattr(condition.psutil, name, fails, raising=False)
    found = read_condition(tmp_path / "not" / "there" / "yet", tmp_path)
    assert (found.temperature_c, found.throttled, found.power) == (None, "", "")
    assert found.disk_free > 0
    for name in ("sensors_temperatures", "sensors_battery"):
        monkeypatch.delattr(condition.psutil, name, raising=False)
    assert read_condition(tmp_path, tmp_path).power == ""


@pytest.mark.parametrize(("plugged", "power"), [(True, "mains"), (False, "battery"), (None, "")])
def test_the_power_source_is_told(tmp_path, monkeypatch, plugged, power):
    battery = type("Battery", (), {"power_plugged": plugged})
    monkeypatch.setattr(condition.psutil, "sensors_battery", lambda: battery, raising=False)
    assert read_condition(tmp_path).power == power
