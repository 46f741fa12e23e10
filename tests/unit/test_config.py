"""Configuration files: strict, and every complaint says where and what to write instead."""

import pytest

from slimfleet.config import (
    AgentConfig,
    BrokerSection,
    ConfigError,
    ServerConfig,
    read_config,
)

SERVER = """
validation = "validation.npz"
[broker]
url = "mqtt://broker.plant"
[campaign]
fleet = "pumps"
model = "cnn1d"
[campaign.options]
sensors = 6
anything = "a model may take"
[campaign.rounds]
deadline_s = 30
"""
AGENT = """
device = "pump-1"
fleet = "pumps"
trusted_keys = ["slimfleet-ed25519 AAAA"]
[broker]
url = "mqtts://broker.plant:8884"
username = "pump"
password_file = "secrets/password"
ca_file = "ca.pem"
[train]
data = "own.npz"
[infer.evaluations]
unseen = "unseen.npz"
"""


@pytest.fixture
def server(tmp_path):
    """Read a server's configuration, changed line by line."""
    return reader(tmp_path / "server.toml", SERVER, ServerConfig)


@pytest.fixture
def agent(tmp_path):
    return reader(tmp_path / "agent.toml", AGENT, AgentConfig)


def reader(path, text, kind):
    def read(*changes, whole=None):
        changed = text if whole is None else whole
        for old, new in changes:
            assert changed.count(old) == 1, old
            changed = changed.replace(old, new)
        path.write_text(changed)
        return read_config(path, kind)

    return read


def complaint(read, *changes, whole=None):
    with pytest.raises(ConfigError) as caught:
        read(*changes, whole=whole)
    text = str(caught.value)
    assert "\n" not in text, "an error is one line"
    return text


def test_a_server_is_read_with_defaults_for_what_is_not_said(server):
    config = server()
    assert config.campaign.rounds.deadline_s == 30.0
    assert config.campaign.rounds.budget == 12
    assert config.campaign.options == {"sensors": 6, "anything": "a model may take"}
    assert (config.folder, config.name, config.reader) == ("server-data", "server", "npz")


DEVICES = ("model =", 'contributions.evaluator = "devices"\nmodel =')
DEVICES_TOO = ('fleet = "pumps"', 'contributions.evaluator = "devices"\nfleet = "pumps"')
WITHOUT_DATA = ('validation = "validation.npz"', "")


def test_a_server_whose_devices_measure_needs_no_validation_data(server):
    config = server(DEVICES, WITHOUT_DATA)
    assert config.validation == ""
    assert config.campaign.contributions.method == "cosine-to-aggregate"


def test_a_method_that_needs_validation_data_is_refused_where_there_is_none(server):
    shapley = ("model =", 'contributions.method = "exact-shapley"\nmodel =')
    text = complaint(server, shapley, DEVICES_TOO, WITHOUT_DATA)
    assert "needs validation data on the server" in text
    assert "use one of" in text
    assert "cosine-to-aggregate" in text


TAUGHT = ("model =", 'aggregation.distillation.rule = "feddf"\nmodel =')
POOL = ("[broker]\n", 'pool = "machines"\npool_reader = "images"\n[broker]\n')


def test_a_pool_and_a_distillation_belong_together(server):
    assert server(TAUGHT).pool == ""  # validation recordings are set aside
    assert (server(TAUGHT, POOL).pool, server(TAUGHT, POOL).pool_reader) == ("machines", "images")
    assert "leave it out" in complaint(server, POOL)
    assert "name a pool" in complaint(server, TAUGHT, DEVICES_TOO, WITHOUT_DATA)
    assert server(TAUGHT, POOL, DEVICES_TOO, WITHOUT_DATA).pool == "machines"


def test_an_agent_is_read(agent):
    config = agent()
    assert config.train.data == "own.npz"
    assert config.infer.evaluations == {"unseen": "unseen.npz"}
    assert config.demo.behaviour == "honest"


def test_an_agent_may_name_a_network_of_its_own_and_parts_that_it_never_sends(agent):
    own = ('data = "own.npz"', 'data = "own.npz"\nmodel = "mlp"\noptions.hidden = [8]')
    config = agent(own, ("[train]", '[train]\nnever_send = ["head.*"]'))
    assert (config.train.model, config.train.options) == ("mlp", {"hidden": [8]})
    assert config.train.never_send == ("head.*",)
    with pytest.raises(ConfigError, match=r"name train\.model"):
        agent(('data = "own.npz"', 'data = "own.npz"\noptions.hidden = [8]'))


def test_an_agent_that_only_infers_has_no_training_section(agent):
    assert agent(("[train]\n", ""), ('data = "own.npz"\n', "")).train is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("validation =", "validaton =", "unknown key 'validaton': did you mean 'validation'?"),
        ("url =", "uri =", "unknown key broker.'uri': did you mean 'url'?"),
        (
            "deadline_s",
            "deadline_sec",
            "unknown key campaign.rounds.'deadline_sec': did you mean 'deadl",
        ),
        ("[campaign.rounds]", "[campaign.round]", "campaign.'round': did you mean 'rounds'?"),
        ("model =", "zzz = 1\nmodel =", "unknown key campaign.'zzz': known are fleet, model"),
        ("deadline_s = 30", "deadline_s = '30'", "campaign.rounds.deadline_s: Expected `float`"),
        ('fleet = "pumps"', "fleet = 7", "campaign.fleet: Expected `str`, got `int`"),
        ('model = "cnn1d"', "", "campaign: Object missing required field `model`"),
        ('validation = "validation.npz"', "", "validation is missing: name a file of labelled"),
        ("model =", 'contributions.method = "guess"\nmodel =', "'guess' is none of"),
        ("model =", 'contributions.evaluator = "devices"\nmodel =', "validation is not used with"),
        ('fleet = "pumps"', 'fleet = "Pumps 1"', "campaign.fleet 'Pumps 1': use 1 to 64 of a-z"),
        ("deadline_s = 30", "deadline_s = 0", "rounds.deadline_s = 0.0 must be above 0"),
        ("deadline_s = 30", "deadline_s = inf", "rounds.deadline_s = inf must be a finite number"),
        ("deadline_s = 30", "deadline_s = nan", "rounds.deadline_s = nan must be a finite number"),
        ("model =", "secure_aggregation = true\nmodel =", "the two are exclusive"),
        ("model =", "widths = [1.0, 0.5]\nmodel =", "widths: width grid"),
        ('"mqtt://broker.plant"', '"http://broker.plant"', "is not a broker URL; write mqtt://"),
        ('"mqtt://broker.plant"', '"mqtt://a:secret@b"', "user name or password in it"),
        ('"mqtt://broker.plant"', '"mqtt://b"\nca_file = "ca.pem"', "write mqtts:// in broker.url"),
        ('"mqtt://broker.plant"', '"mqtts://b"\nkey_file = "k"', "without broker.cert_file"),
        ('"mqtt://broker.plant"', '"mqtt://b"\nprotocol = "4"', "broker.protocol: Invalid enum"),
        ('[broker]\nurl = "mqtt://broker.plant"', "broker = 3", "broker: Expected `object`"),
        ("[broker]", "[broker", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_server_file_is_named(server, tmp_path, old, new, expected):
    text = complaint(server, (old, new))
    assert expected in text
    assert text.startswith(str(tmp_path / "server.toml"))
    assert "secret" not in text.removeprefix(str(tmp_path)) or "secure_aggregation" in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[train]", "[training]", "unknown key 'training': did you mean 'train'?"),
        ('data = "own.npz"', 'date = "own.npz"', "unknown key train.'date': did you mean 'data'?"),
        ("[infer.evaluations]", "[infer.evaluation]", "infer.'evaluation': did you mean 'evaluat"),
        ('"unseen.npz"', "3", "infer.evaluations[...]: Expected `str`, got `int`"),
        ('device = "pump-1"', 'device = "pump.1"', "device 'pump.1': use 1 to 64 of a-z, 0-9"),
        ('fleet = "pumps"', 'fleet = ""', "fleet ''"),
        ('["slimfleet-ed25519 AAAA"]', "[]", "trusted_keys is empty: copy the line"),
        ('["slimfleet-ed25519 AAAA"]', '"slimfleet"', "trusted_keys: Expected `array`, got `str`"),
        ("[infer.eval", "[demo]\nbehaviour = 'lazy'\n[infer.eval", "demo.behaviour: Invalid enum"),
        ("[infer.eval", "[demo]\nnoise = -1.0\n[infer.eval", "demo.noise = -1.0"),
        ('data = "own.npz"', 'data = "own.npz"\nmemory_mb = -1', "train.memory_mb = -1"),
        ('data = "own.npz"', 'data = "own.npz"\nprofile_s = -1.0', "train.profile_s = -1"),
        ("[infer.eval", "[infer]\nthreads = 0\n[infer.eval", "infer.threads = 0 must be at least"),
        ("[infer.eval", "[infer]\ntelemetry_s = 0\n[infer.eval", "infer.telemetry_s = 0.0 must"),
        ("[infer.eval", "[infer]\ntelemetry_s = nan\n[infer.eval", "infer.telemetry_s = nan must"),
    ],
)
def test_a_mistake_in_an_agent_file_is_named(agent, old, new, expected):
    assert expected in complaint(agent, (old, new))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot read it: No such file"):
        read_config(tmp_path / "nowhere.toml", AgentConfig)


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(ConfigError, match="check the path"):
        read_config(tmp_path, AgentConfig)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "agent.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_config(tmp_path / "agent.toml", AgentConfig)


def test_an_empty_file_is_told_what_it_lacks(agent):
    assert "missing required field" in complaint(agent, whole="")


# --- secrets ------------------------------------------------------------------------------------


def section(**changes):
    return BrokerSection(**({"url": "mqtts://broker.plant"} | changes))


def test_a_password_is_the_first_line_of_its_file(tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "password").write_text("correct horse\nsecond line\n")
    found = section(password_file="secrets/password").credentials(tmp_path, "pump-1")
    assert (found.username, found.password) == ("pump-1", "correct horse")
    assert "correct horse" not in repr(found)


def test_files_are_looked_for_beside_the_configuration(tmp_path):
    found = section(
        username="me", ca_file="ca.pem", cert_file="/etc/cert.pem", key_file="key.pem"
    ).credentials(tmp_path, "pump-1")
    assert found.username == "me"
    assert found.password is None
    assert found.ca_file == tmp_path / "ca.pem"
    assert str(found.cert_file) == "/etc/cert.pem"
    assert found.key_file == tmp_path / "key.pem"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_password_file_that_holds_no_password_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    with pytest.raises(ConfigError, match="password_file: .*password") as caught:
        section(password_file="password").credentials(tmp_path, "pump-1")
    assert str(tmp_path / "password") in str(caught.value)


def test_a_password_cannot_stand_in_the_configuration(agent):
    text = complaint(agent, ('password_file = "secrets/password"', 'password = "hunter2"'))
    assert "unknown key broker.'password': did you mean 'password_file'?" in text
    assert "hunter2" not in text
