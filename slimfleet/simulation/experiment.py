"""An experiment: one file that names data, partitions, devices, riders, seeds and a campaign.

Each combination of a partition, a number of devices and a seed is a cell: one campaign.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coordinator.settings import Settings, SettingsError
from coordinator.settings_checks import check_pool
from edge_agent.agent import OwnModel
from slimfleet.config import ConfigError, read_config
from slimfleet.simulation.devices import SimulatedDevice
from slimfleet.simulation.errors import SimulationError
from slimfleet.simulation.partitions import MINIMUM, PartitionError, check_scheme, partition
from slimfleet.simulation.riders import RIDERS
from slimfleet.simulation.tiers import Tier, tier_of
from slimmable.readers import read_samples
from slimmable.samples import Array, Samples, hold_out

FLEET = "simulation"
CPU = "cpu"


class DataSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the samples come from.

    Attributes:
        path: relative to the experiment's file; reader, options: how to read it.
        recordings: so many of them, drawn with the seed of a cell; 0 = all.
        validation_share: share of the recordings that the server measures with.
        test_path: data that nobody trains on or measures with before the end; "" = a share of the
            recordings. test_options: how to read it, with the same reader.
        test_share: that share.
        minimum: recordings that every device gets at least.
        pool_share: share of the recordings that is nobody's: the server distils with them, or all
            devices score them, and their labels are thrown away.
    """

    path: str
    reader: str = "npz"
    options: dict[str, Any] = {}
    recordings: int = 0
    validation_share: float = 0.1
    test_path: str = ""
    test_options: dict[str, Any] = {}
    test_share: float = 0.1
    minimum: int = MINIMUM
    pool_share: float = 0.0


class NetworkSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network of some devices' own; see `slimmable.model.load_model`."""

    model: str
    options: dict[str, Any] = {}


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``experiment.toml``.

    Attributes:
        partitions: how the data is dealt, see `slimfleet.simulation.partitions`.
        devices: how many there are; seeds: of partition, weights, batches and riders.
        widest: widest training widths, dealt to the devices in turn.
        tiers: machines of the devices, dealt in turn; none = machines that are never in the way.
        networks: that devices train where campaign.exchange is not "weights", dealt in turn; none =
            all train the campaign's.
        riders: kinds of riders, see `slimfleet.simulation.riders`; the last devices are these.
        campaign: the settings of a server's campaign, without fleet and seed.
        torch_device: that trains and measures, see `slimmable.torch_device`.
    """

    data: DataSection
    campaign: dict[str, Any]
    partitions: tuple[str, ...] = ("homogeneous",)
    devices: tuple[int, ...] = (10,)
    seeds: tuple[int, ...] = (0,)
    widest: tuple[float, ...] = (1.0,)
    tiers: tuple[Tier, ...] = ()
    networks: tuple[NetworkSection, ...] = ()
    riders: tuple[str, ...] = ()
    torch_device: str = CPU


@dataclass(frozen=True)
class Cell:
    """One campaign of an experiment."""

    partition: str
    devices: int
    seed: int

    @property
    def name(self) -> str:
        """A name for files."""
        scheme = re.sub(r"[^a-z0-9.]+", "-", self.partition).strip("-")
        return f"{scheme}_{self.devices}-devices_seed-{self.seed}"


@dataclass(frozen=True)
class CellData:
    """Who has which samples in a cell."""

    devices: tuple[SimulatedDevice, ...]
    validation: Samples
    test: Samples
    pool: Array | None = None


def read_experiment(path: Path) -> Experiment:
    """Read an experiment's file and check all that can be checked without its data.

    Raises:
        ConfigError: the message says where and what to write instead.
    """
    experiment = read_config(path, Experiment)
    try:
        _check(experiment)
        settings_of(experiment, cells(experiment)[0])
    except (SettingsError, PartitionError, SimulationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return experiment


def _check(experiment: Experiment) -> None:
    for name in ("partitions", "devices", "seeds", "widest"):
        values = getattr(experiment, name)
        if not values:
            raise SettingsError(f"{name} is empty: name at least one")
        if len(set(values)) < len(values) and name != "widest":
            raise SettingsError(f"{name} names one of its entries twice")
    for scheme in experiment.partitions:
        check_scheme(scheme)
    if min(experiment.seeds) < 0:
        raise SettingsError(f"seeds: {min(experiment.seeds)} must not be below 0")
    if min(experiment.devices) <= len(experiment.riders):
        raise SettingsError(
            f"devices: {min(experiment.devices)} with {len(experiment.riders)} riders: somebody"
            " must be honest; add devices or leave out riders"
        )
    for tier in experiment.tiers:
        tier.check()
    for rider in experiment.riders:
        if rider not in RIDERS:
            raise SettingsError(f"riders: no rider {rider!r}; use some of {', '.join(RIDERS)}")
    for reserved in ("fleet", "seed"):
        if reserved in experiment.campaign:
            raise SettingsError(f"campaign.{reserved}: the simulation sets it; leave it out")
    data = experiment.data
    if data.recordings < 0 or data.minimum < 1:
        raise SettingsError("data.recordings must not be below 0, and data.minimum be above it")


def cells(experiment: Experiment) -> tuple[Cell, ...]:
    """Return the grid, seeds turning fastest."""
    return tuple(
        Cell(scheme, devices, seed)
        for scheme in experiment.partitions
        for devices in experiment.devices
        for seed in experiment.seeds
    )


def settings_of(experiment: Experiment, cell: Cell) -> Settings:
    """Return the settings of a cell's campaign.

    Raises:
        SettingsError: they contradict themselves or each other.
    """
    given = {**experiment.campaign, "fleet": FLEET, "seed": cell.seed}
    try:
        settings = msgspec.convert(given, Settings).check()
    except msgspec.ValidationError as error:
        raise SettingsError(f"campaign: {error}") from error
    check_pool(settings, pool=bool(experiment.data.pool_share))
    for width in experiment.widest:
        if not settings.widths[0] <= width <= 1:
            raise SettingsError(
                f"widest: {width:g} must be from {settings.widths[0]:g} to 1, the training grid"
            )
    if settings.exchange != "weights" and experiment.riders:
        raise SettingsError("riders forge weights, and with campaign.exchange none travel")
    if settings.exchange == "weights" and experiment.networks:
        raise SettingsError(
            "networks: devices have networks of their own only where knowledge is exchanged; set"
            ' campaign.exchange to "prototypes", "class-scores" or "public-scores"'
        )
    if settings.rounds.quorum > cell.devices:
        raise SettingsError(
            f"campaign.rounds.quorum = {settings.rounds.quorum} with {cell.devices} devices: no"
            " round could count"
        )
    return settings


def fingerprint(experiment: Experiment, cell: Cell) -> str:
    """Return what a cell's result depends on, as a digest.

    The other cells are not part of it, nor is what computes it: that changes the rounding.
    """
    alone = msgspec.structs.replace(
        experiment, partitions=(cell.partition,), devices=(cell.devices,), seeds=(cell.seed,)
    )
    given = msgspec.to_builtins(alone)
    del given["torch_device"]
    if not experiment.tiers:  # results from before there were tiers stay what they are
        del given["tiers"]
    if not experiment.data.pool_share:  # results from before there was one stay valid
        del given["data"]["pool_share"]
    if not experiment.networks:
        del given["networks"]
    text = json.dumps(given, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_data(experiment: Experiment, base: Path) -> tuple[Samples, Samples]:
    """Return the samples to deal, and those of the test.

    Raises:
        SamplesError: they cannot be read, or are too few.
    """
    data = experiment.data
    samples = read_samples(base / data.path, data.reader, data.options)
    if data.test_path:
        return samples, read_samples(base / data.test_path, data.reader, data.test_options)
    return hold_out(samples, data.test_share)


def deal(experiment: Experiment, cell: Cell, samples: Samples, test: Samples) -> CellData:
    """Give everybody in a cell their samples; whole recordings, never parts.

    Raises:
        PartitionError: some device would get too little.
        SamplesError: there are too few recordings.
    """
    data, rng = experiment.data, np.random.default_rng((cell.seed, cell.devices))
    if data.recordings:
        known = np.unique(samples.recording)
        if data.recordings > len(known):
            raise PartitionError(
                f"data.recordings = {data.recordings}, and there are {len(known)}: ask for fewer"
            )
        samples = samples.in_recordings(rng.permutation(known)[: data.recordings])
    training, validation = hold_out(samples, data.validation_share)
    pool = None
    if data.pool_share:
        training, kept = hold_out(training, data.pool_share)
        pool = kept.x
    recordings, first = np.unique(training.recording, return_index=True)
    labels = training.y[first]
    parts = partition(labels, cell.partition, cell.devices, rng, minimum=data.minimum)
    honest = cell.devices - len(experiment.riders)
    return CellData(
        tuple(
            SimulatedDevice(
                name=f"device-{number + 1:0{len(str(cell.devices))}d}",
                samples=_of(training, recordings, part),
                widest=experiment.widest[number % len(experiment.widest)],
                rider="" if number < honest else experiment.riders[number - honest],
                tier=tier_of(experiment.tiers, number),
                own_model=_network_of(experiment.networks, number),
            )
            for number, part in enumerate(parts)
        ),
        validation,
        test,
        pool,
    )


def _network_of(networks: Sequence[NetworkSection], number: int) -> OwnModel | None:
    if not networks:
        return None
    chosen = networks[number % len(networks)]
    return OwnModel(chosen.model, chosen.options)


def _of(samples: Samples, recordings: Array, part: Array) -> Samples:
    return samples.in_recordings(recordings[part])
