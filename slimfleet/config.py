"""The configuration files of a server and of an agent: TOML, read once, strict.

Every path in a file is relative to that file. Secrets never stand in a configuration: it names the
files that hold them.
"""

import difflib
import math
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from broker.address import BrokerAddress, Credentials
from broker.errors import BrokerConfigError
from broker.topics import check_name
from coordinator.settings import AuditSettings, Settings, SettingsError
from coordinator.settings_checks import check_pool
from slimfleet.monitor_config import MonitorSection

T = TypeVar("T", bound=msgspec.Struct)


class ConfigError(Exception):
    """A configuration file cannot be used. The message says where and what to write instead."""


class BrokerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the broker.

    Attributes:
        url: mqtt://host:1883, or mqtts://host:8883 with TLS.
        username: user name; agents and servers default to their own id.
        password_file: file whose first line is the password.
        ca_file, cert_file, key_file: for TLS.
        protocol: "3.1.1" is understood everywhere; "5" adds reason codes and message expiry.
    """

    url: str
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    protocol: Literal["3.1.1", "5"] = "3.1.1"

    def address(self) -> BrokerAddress:
        """Return where the broker is."""
        return BrokerAddress.parse(self.url)

    def credentials(self, folder: Path, default_user: str) -> Credentials:
        """Return who we are; paths are relative to ``folder``.

        Raises:
            ConfigError: the password file cannot be read.
        """
        password = None
        if self.password_file:
            path = folder / self.password_file
            try:
                password = path.read_text().splitlines()[0]
            except (OSError, IndexError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"broker.password_file: cannot read {path}: {error}; write the password into it"
                ) from error
            if not password:
                raise ConfigError(f"broker.password_file: the first line of {path} is empty")
        return Credentials(
            username=self.username or default_user,
            password=password,
            ca_file=folder / self.ca_file if self.ca_file else None,
            cert_file=folder / self.cert_file if self.cert_file else None,
            key_file=folder / self.key_file if self.key_file else None,
        )


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``server.toml``.

    Attributes:
        folder: journal, blobs, keys and templates.
        validation: samples that the server judges with; no device trains on them. Left out where
            devices measure (campaign.contributions.evaluator = "devices").
        reader, reader_options: how to read them, see `slimmable.readers`.
        pool: samples that the aggregate is distilled with, or that all devices score; labels are
            not looked at.
        pool_reader, pool_options: how to read them.
        measuring_threads: cores that measure models at a time.
        name: the server's user name at the broker.
        campaign: see `coordinator.settings.Settings`.
        monitor: the page.
        audit: when the server signs checkpoints of its journal.
    """

    broker: BrokerSection
    campaign: Settings
    validation: str = ""
    reader: str = "npz"
    reader_options: dict[str, Any] = {}
    pool: str = ""
    pool_reader: str = "npz"
    pool_options: dict[str, Any] = {}
    measuring_threads: int = 1
    folder: str = "server-data"
    name: str = "server"
    monitor: MonitorSection = MonitorSection()
    audit: AuditSettings = AuditSettings()


class TrainSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training on this device.

    Attributes:
        data: the device's own samples; they never leave it.
        reader, reader_options: how to read them.
        memory_mb: most memory that training may use; 0 = a share of what is free.
        profile_s: seconds that timing the widths may take, 0 = no limit; some are interpolated.
        model, options: network of this device's own, trained where the fleet exchanges knowledge
            instead of weights; "" = the fleet's.
        never_send: patterns of the network's tensors, such as "fc.*", that never leave this device
            whatever the server says.
    """

    data: str
    reader: str = "npz"
    reader_options: dict[str, Any] = {}
    memory_mb: int = 0
    profile_s: float = 60.0
    model: str = ""
    options: dict[str, Any] = {}
    never_send: tuple[str, ...] = ()


class InferSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the running model is tried on.

    Attributes:
        evaluations: name -> file of labelled samples on this device.
        reader, reader_options: how to read them.
        threads: of ONNX Runtime.
        telemetry_s: how often inference is summarised.
        profile: what a profile measures of inference: the model that was "sent", or "all" widths,
            exported here for it.
    """

    evaluations: dict[str, str] = {}
    reader: str = "npz"
    reader_options: dict[str, Any] = {}
    threads: int = 1
    telemetry_s: float = 60.0
    profile: Literal["sent", "all"] = "sent"


class DemoSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Only for demonstrations and tests.

    Attributes:
        emulate: name of a machine to stand for, see `profiler.emulation`.
        behaviour: "honest", or "free-rider": uploads its task unchanged, plus ``noise``.
    """

    emulate: str = ""
    behaviour: Literal["honest", "free-rider"] = "honest"
    noise: float = 0.0


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``agent.toml``.

    Attributes:
        device: id of this device; part of its topics, and its user name at the broker.
        fleet: name of the fleet.
        trusted_keys: public keys of the server, each a line "slimfleet-ed25519 ...".
        folder: outbox, models and session of the agent.
        train: absent on a device that only infers.
    """

    device: str
    fleet: str
    broker: BrokerSection
    trusted_keys: tuple[str, ...]
    folder: str = "agent-data"
    train: TrainSection | None = None
    infer: InferSection = InferSection()
    demo: DemoSection = DemoSection()


def read_config(path: Path, config_type: type[T]) -> T:
    """Read a configuration file.

    Raises:
        ConfigError: missing, not TOML, an unknown key (the nearest known one is suggested), a
            wrong type, or settings that contradict each other.
    """
    document = read_document(path)
    _refuse_unknown(path, document, config_type, "")
    try:
        config = msgspec.convert(document, config_type)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_in_words(error)}") from error
    _check(path, config)
    return config


def read_document(path: Path) -> dict[str, Any]:
    """Read a TOML file as it is.

    Raises:
        ConfigError: missing, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _check(path: Path, config: msgspec.Struct) -> None:
    try:
        if isinstance(config, ServerConfig):
            config.campaign.check()
            config.audit.check()
            check_name(config.campaign.fleet, "campaign.fleet")
            _check_broker(config.broker)
            _check_evaluator(config)
            config.monitor.check()
        if isinstance(config, AgentConfig):
            check_name(config.device, "device")
            check_name(config.fleet, "fleet")
            _check_broker(config.broker)
            _check_numbers(config)
            if not config.trusted_keys:
                raise SettingsError(
                    "trusted_keys is empty: copy the line that `slimfleet server --public-key`"
                    " prints"
                )
    except (SettingsError, BrokerConfigError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_evaluator(config: ServerConfig) -> None:
    from coordinator.contribution.methods import METHODS  # no business of a device

    check_pool(config.campaign, pool=bool(config.pool))
    chosen = config.campaign.contributions
    method = METHODS.get(chosen.method)
    if method is None:
        raise SettingsError(
            f"campaign.contributions.method = {chosen.method!r} is none of {', '.join(METHODS)}"
        )
    if chosen.evaluator == "server":
        if not config.validation:
            raise SettingsError(
                "validation is missing: name a file of labelled samples that the server judges"
                ' with, or let the devices measure: campaign.contributions.evaluator = "devices"'
            )
        return
    if config.validation:
        raise SettingsError(
            'validation is not used with campaign.contributions.evaluator = "devices": remove the'
            ' line, or set evaluator = "server"'
        )
    if method.needs_validation:
        without = ", ".join(name for name, one in METHODS.items() if not one.needs_validation)
        raise SettingsError(
            f"campaign.contributions.method = {chosen.method!r} needs validation data on the"
            f' server, which evaluator = "devices" does without: use one of {without}'
        )


def _check_broker(section: BrokerSection) -> None:
    if section.key_file and not section.cert_file:
        raise SettingsError("broker.key_file without broker.cert_file: name both")
    if not section.address().tls:
        for name in ("ca_file", "cert_file"):
            if getattr(section, name):  # nobody shall believe that this line is encrypted
                raise SettingsError(f"broker.{name} is for TLS: write mqtts:// in broker.url")


def _check_numbers(config: AgentConfig) -> None:
    if config.infer.threads < 1:
        raise SettingsError(f"infer.threads = {config.infer.threads} must be at least 1")
    if not 0 < config.infer.telemetry_s < math.inf:
        raise SettingsError(f"infer.telemetry_s = {config.infer.telemetry_s} must be above 0")
    if config.train and config.train.options and not config.train.model:
        raise SettingsError("train.options are of a network of the device's own: name train.model")
    if config.train and config.train.memory_mb < 0:
        raise SettingsError(f"train.memory_mb = {config.train.memory_mb} must not be below 0")
    if config.train and not 0 <= config.train.profile_s < math.inf:
        raise SettingsError(f"train.profile_s = {config.train.profile_s} must not be below 0")
    if not 0 <= config.demo.noise < math.inf:
        raise SettingsError(f"demo.noise = {config.demo.noise} must not be below 0")


def _refuse_unknown(path: Path, table: Any, struct: Any, where: str) -> None:
    """Refuse keys that the struct does not have, at any depth."""
    if not isinstance(table, dict):
        return
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(fields)}"
            raise ConfigError(f"{path}: unknown key {where}{key!r}: {hint}")
        inner = _struct_in(fields[key].type)
        if inner is not None:
            _refuse_unknown(path, value, inner, f"{where}{key}.")


def _struct_in(annotation: Any) -> Any:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return candidate
    return None


def _in_words(error: msgspec.ValidationError) -> str:
    """Turn "Expected `int`, got `str` - at `$.campaign.seed`" round: where first."""
    text = str(error)
    match = re.fullmatch(r"(.*) - at `\$\.(.*)`", text)
    return f"{match[2]}: {match[1]}" if match else text
