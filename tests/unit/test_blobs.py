"""Cutting, encrypting, naming and putting together blobs."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.blobs import (
    BLOB_LIMIT,
    SECRET_SIZE,
    TAG_SIZE,
    Download,
    blob_key,
    check_reference,
    decrypt,
    digest_of,
    encrypt,
    reference,
    seal,
    split,
    unseal,
)
from broker.codec import BLOCK_LIMIT
from broker.errors import BlobError

SECRET = bytes(range(SECRET_SIZE))
KEY = b"k" * 32
contents = st.binary(max_size=400)
block_sizes = st.integers(TAG_SIZE + 1, 80)


def plain_reference(data, block_size=10):
    return reference(data, block_size, digest_of(data), False)


@given(contents, st.integers(1, 50))
def test_blocks_joined_are_the_data_and_all_but_the_last_are_full(data, block_size):
    blocks = split(data, block_size)
    assert b"".join(blocks) == data
    assert all(len(block) == block_size for block in blocks[:-1])
    assert all(0 < len(block) <= block_size for block in blocks)
    assert len(blocks) == plain_reference(data, block_size).blocks


@pytest.mark.parametrize("block_size", [0, -1, BLOCK_LIMIT + 1])
def test_a_block_size_that_no_broker_would_carry_is_refused(block_size):
    with pytest.raises(ValueError, match="block size"):
        split(b"data", block_size)


@given(contents, block_sizes)
def test_decrypting_gives_the_plaintext_back(data, block_size):
    assert decrypt(encrypt(data, KEY, block_size), KEY, block_size) == data


@given(contents, block_sizes)
def test_every_encrypted_block_but_the_last_has_exactly_the_block_size(data, block_size):
    cipher = encrypt(data, KEY, block_size)
    chunks = max(1, -(-len(data) // (block_size - TAG_SIZE)))
    assert len(cipher) == len(data) + TAG_SIZE * chunks
    assert len(split(cipher, block_size)) == chunks


def test_a_restarted_server_makes_the_same_ciphertext():
    digest = digest_of(b"weights" * 100)
    made = [
        seal(b"weights" * 100, blob_key(SECRET, "plant", "round-7", 0.5, digest, 64), 64)
        for _ in range(2)
    ]
    assert made[0] == made[1]


@given(contents, block_sizes, st.data())
def test_one_altered_bit_anywhere_does_not_open(data, block_size, draw):
    cipher = bytearray(encrypt(data, KEY, block_size))
    bit = draw.draw(st.integers(0, len(cipher) * 8 - 1))
    cipher[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BlobError, match="does not open"):
        decrypt(bytes(cipher), KEY, block_size)


@given(contents, block_sizes, st.data())
def test_a_truncated_blob_does_not_open_even_at_a_block_boundary(data, block_size, draw):
    cipher = encrypt(data, KEY, block_size)
    kept = draw.draw(
        st.integers(0, len(cipher) - 1) | st.sampled_from(range(0, len(cipher), block_size))
    )
    with pytest.raises(BlobError):
        decrypt(cipher[:kept], KEY, block_size)


def test_blocks_in_another_order_do_not_open():
    first, second, last = split(encrypt(b"x" * 40, KEY, 32), 32)
    with pytest.raises(BlobError, match="block 0"):
        decrypt(second + first + last, KEY, 32)


def test_a_block_added_at_the_end_does_not_open():
    cipher = encrypt(b"x" * 32, KEY, 32)
    with pytest.raises(BlobError):
        decrypt(cipher + cipher[:32], KEY, 32)


def test_a_device_that_listens_to_a_wider_blob_cannot_open_it():
    weights = b"wide weights" * 20
    digest = digest_of(weights)
    wide, narrow = (
        blob_key(SECRET, "plant", "round-7", width, digest, 64) for width in (1.0, 0.25)
    )
    cipher, described = seal(weights, wide, 64)
    assert unseal(described, cipher, wide) == weights
    with pytest.raises(BlobError, match="wrong key"):
        unseal(described, cipher, narrow)


@pytest.mark.parametrize("key", [b"", b"short", b"k" * 33])
def test_a_key_of_another_length_is_a_blob_error(key):
    with pytest.raises(BlobError, match="blob key"):
        decrypt(encrypt(b"x", KEY, 32), key, 32)


ARGUMENTS = (SECRET, "plant", "round-7", 0.5, "ab" * 32, 262144)


@pytest.mark.parametrize(
    "changed",
    [
        (b"\1" * 32, *ARGUMENTS[1:]),
        (SECRET, "plan", "tround-7", 0.5, "ab" * 32, 262144),
        (SECRET, "plant", "release-7", 0.5, "ab" * 32, 262144),
        (SECRET, "plant", "round-7", 0.25, "ab" * 32, 262144),
        (SECRET, "plant", "round-7", 0.5, "cd" * 32, 262144),
        (SECRET, "plant", "round-7", 0.5, "ab" * 32, 65536),
    ],
)
def test_every_argument_of_a_key_changes_it(changed):
    assert blob_key(*changed) != blob_key(*ARGUMENTS)
    assert len(blob_key(*changed)) == 32


def test_the_derivation_of_keys_never_changes():
    # A restarted server of a later version must still open what devices hold.
    assert (
        blob_key(*ARGUMENTS).hex()
        == "e5f0ca4bb05c68fe934d69c3e0db50880087ecf43dcf71b582d8cf2f1143c884"
    )
    assert (
        encrypt(b"slimfleet" * 5, KEY, 32).hex()
        == "d9f8dc9a33ca3b2b92d85d4de5f0a539e49fd81dc51ca83bb198949ffe98ac2fa426060c22e8e894"
        "59b7379379457e38c61a42adccf0c4d52d9da18a81af950734d639d20405605e918c4b7bbaea761b"
        "c5b5b66d654c38a441a46d0e7f"
    )


def test_a_short_fleet_secret_is_refused():
    with pytest.raises(ValueError, match="fleet secret of 3 bytes"):
        blob_key(b"abc", *ARGUMENTS[1:])


def test_an_unencrypted_blob_is_unsealed_as_it_is():
    assert unseal(plain_reference(b"update"), b"update") == b"update"


def test_other_bytes_than_named_are_not_unsealed():
    with pytest.raises(BlobError, match="another digest"):
        unseal(plain_reference(b"update"), b"updaze")
    swapped = msgspec.structs.replace(plain_reference(b"update"), plaintext="00" * 32)
    with pytest.raises(BlobError, match="content is not"):
        unseal(swapped, b"update")


@pytest.mark.parametrize(
    "change",
    [
        {"blob": "../../etc/passwd"},
        {"blob": "AB" * 32},
        {"plaintext": ""},
        {"block_size": 0},
        {"block_size": -1},
        {"block_size": BLOCK_LIMIT + 1},
        {"block_size": TAG_SIZE, "encrypted": True},
        {"size": -1},
        {"size": BLOB_LIMIT + 1},
        {"size": 2**62},
    ],
)
def test_a_reference_that_describes_no_blob_is_refused_before_anything_is_fetched(change):
    forged = msgspec.structs.replace(plain_reference(b"update"), **change)
    with pytest.raises(BlobError):
        check_reference(forged)
    with pytest.raises(BlobError):
        Download(forged)


@given(contents, st.integers(1, 50), st.randoms(use_true_random=False))
def test_blocks_in_any_order_and_twice_give_the_blob(data, block_size, rng):
    download = Download(plain_reference(data, block_size))
    arrivals = list(enumerate(split(data, block_size))) * 2
    rng.shuffle(arrivals)
    fresh = [download.receive(index, block) for index, block in arrivals]
    assert sum(fresh) == download.reference.blocks
    assert download.complete
    assert download.missing() == ()
    assert download.data() == data


@given(contents, st.integers(1, 50), st.data())
def test_only_blocks_that_are_not_here_are_asked_for(data, block_size, draw):
    blocks = split(data, block_size)
    have = draw.draw(st.sets(st.sampled_from(range(len(blocks))))) if blocks else set()
    download = Download(plain_reference(data, block_size), {i: blocks[i] for i in have})
    asked = []
    while not download.complete:
        window = download.window(3)
        assert 0 < len(window) <= 3
        for index in window:
            download.receive(index, blocks[index])
        asked += window
    assert asked == [index for index in range(len(blocks)) if index not in have]
    assert download.data() == data


@pytest.mark.parametrize(
    ("index", "payload"),
    [(-1, b"0123456789"), (3, b"01234"), (0, b""), (0, b"012345678"), (2, b"0123456789")],
)
def test_a_block_that_cannot_fit_is_refused_and_leaves_the_rest_alone(index, payload):
    download = Download(plain_reference(b"0123456789" * 2 + b"01234"))
    with pytest.raises(BlobError, match="do not fit"):
        download.receive(index, payload)
    assert download.missing() == (0, 1, 2)


def test_kept_blocks_that_cannot_fit_are_left_out():
    download = Download(plain_reference(b"0123456789" * 2), {0: b"torn", 1: b"0123456789", 7: b""})
    assert download.missing() == (0,)


def test_an_incomplete_blob_has_no_data():
    with pytest.raises(BlobError, match="2 of 2 blocks missing"):
        Download(plain_reference(b"0123456789" * 2)).data()


def test_blocks_of_the_right_size_with_wrong_bytes_are_found_out_and_fetched_again():
    data = b"0123456789" * 2
    download = Download(plain_reference(data))
    download.receive(0, b"garbage---")
    download.receive(1, data[10:])
    with pytest.raises(BlobError, match="another digest"):
        download.data()
    download.start_over()
    assert download.window(16) == (0, 1)
    download.receive(0, data[:10])
    download.receive(1, data[10:])
    assert download.data() == data
