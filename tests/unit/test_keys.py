"""The server's secrets: made once, kept, never replaced."""

import stat

import pytest

from broker.envelope import parse_public_key
from slimfleet.config import ConfigError
from slimfleet.keys import FLEET_SECRET_FILE, SIGNING_KEY_FILE, load_identity, public_key


def fixed(count):
    return bytes(range(count))


def test_keys_are_made_at_the_first_start_and_kept(tmp_path):
    folder = tmp_path / "server"
    first = load_identity(folder, fixed)
    assert first.fleet_secret == fixed(32)
    assert load_identity(folder, lambda _: pytest.fail("made twice")) == first


def test_only_the_owner_may_read_them(tmp_path):
    load_identity(tmp_path, fixed)
    for name in (SIGNING_KEY_FILE, FLEET_SECRET_FILE):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_two_servers_have_two_signing_keys(tmp_path):
    first, second = load_identity(tmp_path / "a", fixed), load_identity(tmp_path / "b", fixed)
    assert first.signing_key != second.signing_key


def test_the_public_key_is_the_line_that_devices_trust(tmp_path):
    identity = load_identity(tmp_path, fixed)
    line = public_key(identity)
    assert line.startswith("slimfleet-ed25519 ")
    assert len(parse_public_key(line)) == 32
    assert identity.signing_key.hex() not in line


@pytest.mark.parametrize("name", [SIGNING_KEY_FILE, FLEET_SECRET_FILE])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe", b"00", b"0" * 66])
def test_a_damaged_key_file_is_reported_and_left_alone(tmp_path, name, content):
    load_identity(tmp_path, fixed)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="restore them from a backup"):
        load_identity(tmp_path, fixed)
    assert (tmp_path / name).read_bytes() == content


def test_a_signing_key_that_was_lost_is_not_silently_replaced(tmp_path):
    load_identity(tmp_path, fixed)
    (tmp_path / SIGNING_KEY_FILE).unlink()
    with pytest.raises(ConfigError, match="restore it from a backup"):
        load_identity(tmp_path, fixed)
    assert not (tmp_path / SIGNING_KEY_FILE).exists()


def test_a_first_start_that_was_cut_off_is_finished(tmp_path):
    first = load_identity(tmp_path, fixed)
    (tmp_path / FLEET_SECRET_FILE).unlink()
    assert load_identity(tmp_path, fixed) == first


def test_secrets_do_not_show_when_an_identity_is_printed(tmp_path):
    identity = load_identity(tmp_path, fixed)
    assert repr(fixed(32)) not in repr(identity)
    assert repr(identity.signing_key) not in repr(identity)
