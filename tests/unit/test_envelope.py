"""What a device accepts as signed, and the error of everything else."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.envelope import (
    SIGNATURE_LIMIT,
    Kind,
    VerifiedOrder,
    Verifier,
    add_signature,
    generate_signing_key,
    key_id,
    parse_private_key,
    parse_public_key,
    private_key_text,
    public_key_of,
    public_key_text,
    sign,
    signed_bytes,
)
from broker.errors import (
    DigestError,
    ExpiredError,
    ReleaseError,
    RollbackError,
    SignatureError,
    WrongDeviceError,
)
from broker.messages import (
    BlobReference,
    Deployment,
    DeploymentOrder,
    ModelManifest,
    ReferenceHistogram,
    Release,
    Signature,
    SignedEnvelope,
)

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
FILE = b"an ONNX file"
DIGEST = "f28bd9e85806b2fb5418da9647b6bb2250307534134059fc5d4f42baa85b4aa6"
NOW = 1_000.0

RELEASE = Release(
    fleet="plant",
    version=3,
    manifest=ModelManifest(
        model="cnn1d",
        width=0.5,
        spec_hash="ab" * 32,
        round=10,
        digest=DIGEST,
        size=len(FILE),
        opset=20,
        ir_version=10,
        input_name="x",
        input_shape=(6, 100),
        output_name="y",
        task="classification",
        classes=("a", "b"),
        score=0.7,
        score_data="validation",
        reference=ReferenceHistogram(classes=(1, 2), confidence=(0,) * 10),
        parity=1e-6,
    ),
    created_at=900.0,
    expires_at=2_000.0,
)
DEPLOYMENT = Deployment(
    fleet="plant", device="dev-1", counter=5, digest=DIGEST, reason="first", expires_at=2_000.0
)


def changed(document, **fields):
    return msgspec.structs.replace(document, **fields)


def signed_release(**fields):
    return sign(changed(RELEASE, **fields), Kind.RELEASE, KEY)


def signed_deployment(**fields):
    return sign(changed(DEPLOYMENT, **fields), Kind.DEPLOYMENT, KEY)


@pytest.fixture
def verifier():
    return Verifier.trusting([public_key_of(KEY)], "plant", "dev-1")


def test_a_trusted_release_and_deployment_are_accepted(verifier):
    assert verifier.release(signed_release(), NOW) == RELEASE
    assert verifier.deployment(signed_deployment(), NOW, last_counter=4) == DEPLOYMENT
    verifier.file(RELEASE, FILE)


def test_a_forged_release_is_refused(verifier):
    with pytest.raises(SignatureError, match="not signed by a trusted key"):
        verifier.release(sign(RELEASE, Kind.RELEASE, OTHER_KEY), NOW)


def test_a_forger_who_claims_the_trusted_key_id_is_refused(verifier):
    envelope = sign(RELEASE, Kind.RELEASE, OTHER_KEY)
    claimed = changed(envelope.signatures[0], key_id=key_id(public_key_of(KEY)))
    with pytest.raises(SignatureError):
        verifier.release(changed(envelope, signatures=(claimed,)), NOW)


@given(st.data())
def test_a_document_with_one_altered_bit_is_refused(data):
    verifier = Verifier.trusting([public_key_of(KEY)], "plant", "dev-1")
    envelope = signed_deployment()
    payload = bytearray(envelope.payload)
    bit = data.draw(st.integers(0, len(payload) * 8 - 1))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verifier.deployment(changed(envelope, payload=bytes(payload)), NOW, 0)


@given(st.binary(max_size=80), st.binary(max_size=80), st.text(max_size=20))
def test_garbage_in_an_envelope_is_a_signature_error_and_nothing_else(payload, mark, kind):
    verifier = Verifier.trusting([public_key_of(KEY)], "plant", "dev-1")
    marks = (Signature(key_id=key_id(public_key_of(KEY)), signature=mark),)
    for name in (kind, Kind.RELEASE):
        with pytest.raises(SignatureError):
            verifier.release(SignedEnvelope(kind=name, payload=payload, signatures=marks), NOW)


def test_a_signature_of_one_kind_is_none_of_another(verifier):
    as_release = sign(DEPLOYMENT, Kind.RELEASE, KEY)
    with pytest.raises(SignatureError, match="stands where a deployment belongs"):
        verifier.deployment(as_release, NOW, 0)
    with pytest.raises(SignatureError, match="not signed"):
        verifier.deployment(changed(as_release, kind="deployment"), NOW, 0)


def test_a_signed_document_that_is_not_readable_is_refused(verifier):
    with pytest.raises(SignatureError, match="cannot be read"):
        verifier.release(sign(DEPLOYMENT, Kind.RELEASE, KEY), NOW)


def test_an_envelope_without_signatures_is_refused(verifier):
    with pytest.raises(SignatureError):
        verifier.release(changed(signed_release(), signatures=()), NOW)


def test_one_trusted_signature_among_others_is_enough(verifier):
    envelope = add_signature(sign(RELEASE, Kind.RELEASE, OTHER_KEY), KEY)
    assert [s.key_id for s in envelope.signatures] == [
        key_id(public_key_of(OTHER_KEY)),
        key_id(public_key_of(KEY)),
    ]
    assert verifier.release(envelope, NOW) == RELEASE


def test_a_flood_of_signatures_is_not_checked_to_the_end(verifier):
    good = signed_release()
    bad = (changed(good.signatures[0], signature=b"\0" * 64),) * SIGNATURE_LIMIT
    with pytest.raises(SignatureError):
        verifier.release(changed(good, signatures=bad + good.signatures), NOW)


@pytest.mark.parametrize("expires_at", [NOW, NOW - 1, 0.0, -math.inf, math.nan, math.inf])
def test_an_expired_release_and_deployment_are_refused(verifier, expires_at):
    with pytest.raises(ExpiredError, match="expired"):
        verifier.release(signed_release(expires_at=expires_at), NOW)
    with pytest.raises(ExpiredError, match="expired"):
        verifier.deployment(signed_deployment(expires_at=expires_at), NOW, 0)


def test_a_device_without_a_clock_accepts_nothing(verifier):
    with pytest.raises(ExpiredError):
        verifier.release(signed_release(), math.nan)


def test_documents_for_another_device_or_fleet_are_refused(verifier):
    for wrong in (signed_deployment(device="dev-2"), signed_deployment(fleet="farm")):
        with pytest.raises(WrongDeviceError, match="plant/dev-1"):
            verifier.deployment(wrong, NOW, 0)
    with pytest.raises(WrongDeviceError, match="farm"):
        verifier.release(signed_release(fleet="farm"), NOW)


def test_a_device_cannot_install_an_older_deployment(verifier):
    with pytest.raises(RollbackError, match="higher counter"):
        verifier.deployment(signed_deployment(), NOW, last_counter=6)


def test_a_rollback_is_a_higher_counter_that_names_an_older_file(verifier):
    back = signed_deployment(counter=7, digest="00" * 32)
    assert verifier.deployment(back, NOW, last_counter=6, last_digest=DIGEST).digest == "00" * 32


def test_the_same_deployment_delivered_again_is_no_error(verifier):
    assert verifier.deployment(signed_deployment(), NOW, 5) == DEPLOYMENT
    assert verifier.deployment(signed_deployment(), NOW, 5, DIGEST) == DEPLOYMENT


def test_another_file_under_the_same_counter_is_refused(verifier):
    with pytest.raises(RollbackError):
        verifier.deployment(signed_deployment(digest="00" * 32), NOW, 5, DIGEST)


@pytest.mark.parametrize("data", [b"", FILE + b"\0", FILE[:-1] + b"F"])
def test_a_file_that_is_not_what_was_signed_is_refused(verifier, data):
    with pytest.raises(DigestError, match="signed are"):
        verifier.file(RELEASE, data)


def order_of(**fields):
    blob = BlobReference(blob="cd" * 32, size=28, block_size=64, plaintext=DIGEST, encrypted=True)
    parts = {"deployment": signed_deployment(), "release": signed_release(), "blob": blob}
    return DeploymentOrder(**{**parts, **fields})


def test_an_order_is_accepted_as_a_whole(verifier):
    assert verifier.order(order_of(), NOW, 4) == VerifiedOrder(DEPLOYMENT, RELEASE)


def test_an_order_that_takes_the_model_away_needs_no_release(verifier):
    away = order_of(deployment=signed_deployment(digest=""), release=None, blob=None)
    assert verifier.order(away, NOW, 4).release is None


def test_an_order_whose_parts_name_different_files_is_refused(verifier):
    with pytest.raises(DigestError):
        verifier.order(order_of(deployment=signed_deployment(digest="00" * 32)), NOW, 4)
    blob = changed(order_of().blob, plaintext="00" * 32)
    with pytest.raises(DigestError):
        verifier.order(order_of(blob=blob), NOW, 4)
    with pytest.raises(SignatureError, match="without its signed release"):
        verifier.order(order_of(release=None), NOW, 4)


def test_every_refusal_has_a_code_of_its_own():
    errors = (SignatureError, DigestError, RollbackError, ExpiredError, WrongDeviceError)
    assert len({error.code for error in errors} | {ReleaseError.code}) == 6


def test_a_verifier_without_keys_or_with_a_wrong_id_is_refused():
    with pytest.raises(ValueError, match="no trusted key"):
        Verifier({}, "plant", "dev-1")
    with pytest.raises(ValueError, match="does not have that id"):
        Verifier({"0" * 16: public_key_of(KEY)}, "plant", "dev-1")


def test_what_is_signed_never_changes():
    # Devices in the field verify with the code that they have.
    assert signed_bytes("release", b"\x80") == b"slimfleet/signed/v1\nrelease\n\x80"
    signature = sign(DEPLOYMENT, Kind.DEPLOYMENT, KEY).signatures[0]
    assert signature.key_id == "56475aa75463474c"
    assert signature.signature.hex() == (
        "d28c3fff57c64c94126fff1939142280c4637b6afbbd1b453cd1923c9ca2aa97"
        "f92d92ad6757c343377f0d7bac0659e1bbd1543a8e5e7bc4a7567715e550080c"
    )


@given(st.binary(min_size=32, max_size=32))
def test_keys_survive_the_way_through_a_text_file(key):
    assert parse_public_key(public_key_text(key) + "\n") == key
    assert parse_private_key("  " + private_key_text(key)) == key


def test_a_generated_key_is_written_in_one_line_and_is_new():
    first, second = generate_signing_key(), generate_signing_key()
    assert first != second
    assert public_key_text(public_key_of(first)).startswith("slimfleet-ed25519 ")
    assert "\n" not in public_key_text(public_key_of(first))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "slimfleet-ed25519",
        "ssh-ed25519 AAAA",
        "slimfleet-ed25519 AAAA",
        "slimfleet-ed25519 !!",
        "slimfleet-ed25519 AAAA AAAA",
        private_key_text(KEY),
    ],
)
def test_a_line_that_is_no_public_key_is_refused_without_repeating_it(text):
    with pytest.raises(ValueError, match="not a key") as refused:
        parse_public_key(text)
    assert private_key_text(KEY).split()[1] not in str(refused.value)


@given(st.text(max_size=80))
def test_any_other_text_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_public_key("slimfleet-ed25519 " + text)


def test_a_key_of_another_length_is_not_written():
    with pytest.raises(ValueError, match="must have 32"):
        public_key_text(b"short")
