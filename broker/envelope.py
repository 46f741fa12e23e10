"""What a device trusts: signed documents, and the one verifier of them.

A signature (Ed25519) covers the bytes::

    "slimfleet/signed/v1" 0x0a  kind  0x0a  payload

so a signature made for one kind of document, or by another program with the same key, fits no
other. ``payload`` are the exact bytes of the envelope: nothing is decoded before it is trusted, and
nothing is encoded again to be checked. The clock is an argument; a device with a doubtful clock
passes the latest time that it knows for sure.
"""

import base64
import binascii
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from broker.decoding import decode_struct
from broker.errors import (
    DecodeError,
    DigestError,
    ExpiredError,
    RollbackError,
    SignatureError,
    WrongDeviceError,
)
from broker.messages import (
    Checkpoint,
    ConsistencyProof,
    Deployment,
    DeploymentOrder,
    Release,
    Signature,
    SignedEnvelope,
)

KEY_SIZE = 32
SIGNATURE_LIMIT = 8
"""More signatures than this are not looked at: checking them costs a small device its time."""

_DOMAIN = b"slimfleet/signed/v1"
_PUBLIC = "slimfleet-ed25519"
_PRIVATE = "slimfleet-ed25519-private"
_ROOT_SIZE = 32
_DOCUMENT = TypeVar("_DOCUMENT", Release, Deployment, Checkpoint, ConsistencyProof)


class Kind(StrEnum):
    """The kinds of signed documents."""

    RELEASE = "release"
    DEPLOYMENT = "deployment"
    CHECKPOINT = "checkpoint"
    CONSISTENCY = "consistency"


# --- keys ---------------------------------------------------------------------------------------


def generate_signing_key() -> bytes:
    """Return a new private key: 32 random bytes that stay with the server."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key_of(private_key: bytes) -> bytes:
    """Return the 32 bytes that devices must trust."""
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def key_id(public_key: bytes) -> str:
    """Return the short name of a public key: 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def public_key_text(public_key: bytes) -> str:
    """Return a public key as one line for configuration files."""
    return _key_text(_PUBLIC, public_key)


def parse_public_key(text: str) -> bytes:
    """Read the line that `public_key_text` wrote.

    Raises:
        ValueError: it is not such a line.
    """
    return _parse_key(_PUBLIC, text)


def private_key_text(private_key: bytes) -> str:
    """Return a private key as one line for the server's key file."""
    return _key_text(_PRIVATE, private_key)


def parse_private_key(text: str) -> bytes:
    """Read the line that `private_key_text` wrote.

    Raises:
        ValueError: it is not such a line.
    """
    return _parse_key(_PRIVATE, text)


def _key_text(prefix: str, key: bytes) -> str:
    if len(key) != KEY_SIZE:
        raise ValueError(f"{prefix} key of {len(key)} bytes: it must have {KEY_SIZE}")
    return f"{prefix} {base64.b64encode(key).decode()}"


def _parse_key(prefix: str, text: str) -> bytes:
    # The text is never repeated in the error: it may be a private key in the wrong place.
    words = text.split()
    expected = f"a line '{prefix} <base64 of {KEY_SIZE} bytes>'"
    if len(words) != 2 or words[0] != prefix:
        raise ValueError(f"not a key: expected {expected}")
    try:
        key = base64.b64decode(words[1], validate=True)
    except binascii.Error as error:
        raise ValueError(f"not a key: {error}; expected {expected}") from error
    if len(key) != KEY_SIZE:
        raise ValueError(f"not a key: {len(key)} bytes; expected {expected}")
    return key


# --- signing ------------------------------------------------------------------------------------


def signed_bytes(kind: str, payload: bytes) -> bytes:
    """Return the bytes that a signature covers."""
    return b"\n".join((_DOMAIN, kind.encode(), payload))


def sign(document: msgspec.Struct, kind: str, private_key: bytes) -> SignedEnvelope:
    """Return the document in an envelope signed with one key.

    Ed25519 is deterministic: the same document and key always give the same envelope.
    """
    payload = msgspec.msgpack.encode(document)
    return add_signature(SignedEnvelope(kind=kind, payload=payload, signatures=()), private_key)


def add_signature(envelope: SignedEnvelope, private_key: bytes) -> SignedEnvelope:
    """Return the envelope with a further signature: a fleet changes its key by signing twice."""
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    signature = Signature(
        key_id=key_id(key.public_key().public_bytes_raw()),
        signature=key.sign(signed_bytes(envelope.kind, envelope.payload)),
    )
    return SignedEnvelope(
        kind=envelope.kind,
        payload=envelope.payload,
        signatures=(*envelope.signatures, signature),
    )


# --- verifying ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class VerifiedOrder:
    """A deployment order that may be carried out.

    Attributes:
        deployment: what to do.
        release: which model to run; None takes the model away.
    """

    deployment: Deployment
    release: Release | None


class Verifier:
    """All rules by which one device trusts what a server signed."""

    def __init__(self, trusted: Mapping[str, bytes], fleet: str, device: str) -> None:
        """Trust public keys by their id.

        Args:
            trusted: `key_id` -> public key.
            fleet: the device's fleet.
            device: the device's id.

        Raises:
            ValueError: no key at all, or a key under an id that is not its own.
        """
        if not trusted:
            raise ValueError("no trusted key: a device without one could accept no release")
        for identity, public in trusted.items():
            if len(public) != KEY_SIZE or key_id(public) != identity:
                raise ValueError(f"trusted key {identity!r} does not have that id; add it anew")
        self._keys = {
            identity: Ed25519PublicKey.from_public_bytes(public)
            for identity, public in trusted.items()
        }
        self._fleet = fleet
        self._device = device

    @property
    def fleet(self) -> str:
        """The fleet whose documents are accepted."""
        return self._fleet

    @classmethod
    def trusting(cls, public_keys: Iterable[bytes], fleet: str, device: str) -> "Verifier":
        """Return a verifier that trusts ``public_keys``."""
        return cls({key_id(public): public for public in public_keys}, fleet, device)

    def release(self, envelope: SignedEnvelope, now: float) -> Release:
        """Return the release in the envelope.

        Raises:
            SignatureError: no trusted key signed it, or it is not a sound release.
            WrongDeviceError: it is for another fleet.
            ExpiredError: its time is over.
        """
        release = self._document(envelope, Kind.RELEASE, Release)
        what = f"release {release.version}"
        if release.fleet != self._fleet:
            raise WrongDeviceError(
                f"{what} is for fleet {release.fleet!r}, this device is in {self._fleet!r};"
                " check the server's fleet"
            )
        _check_expiry(what, release.expires_at, now)
        return release

    def deployment(
        self,
        envelope: SignedEnvelope,
        now: float,
        last_counter: int,
        last_digest: str | None = None,
    ) -> Deployment:
        """Return the deployment in the envelope.

        A counter equal to the last one is the same deployment delivered again, which is no error.

        Args:
            envelope: the signed document.
            now: the device's best knowledge of the time.
            last_counter: highest counter that the device ever acted on, 0 where none.
            last_digest: the digest that the deployment of ``last_counter`` named, where known: with
                the same counter no other digest is accepted.

        Raises:
            SignatureError: no trusted key signed it, or it is not a sound deployment.
            WrongDeviceError: it is for another fleet or device.
            ExpiredError: its time is over.
            RollbackError: its counter is older than the last one.
        """
        deployment = self._document(envelope, Kind.DEPLOYMENT, Deployment)
        counter, what = deployment.counter, f"deployment {deployment.counter}"
        if (deployment.fleet, deployment.device) != (self._fleet, self._device):
            raise WrongDeviceError(
                f"{what} is for {deployment.fleet}/{deployment.device}, this device is"
                f" {self._fleet}/{self._device}; check the names on both sides"
            )
        _check_expiry(what, deployment.expires_at, now)
        repeated = counter == last_counter and last_digest in {None, deployment.digest}
        if counter <= last_counter and not repeated:
            raise RollbackError(
                f"{what} is not newer than {last_counter}, which is in force; to go back to an"
                " older model the server must send a higher counter"
            )
        return deployment

    def file(self, release: Release, data: bytes) -> None:
        """Accept the bytes of a release's ONNX file.

        Raises:
            DigestError: they are not what was signed.
        """
        manifest, digest = release.manifest, hashlib.sha256(data).hexdigest()
        if len(data) != manifest.size or digest != manifest.digest:
            raise DigestError(
                f"release {release.version}: file of {len(data)} bytes with digest {digest[:12]},"
                f" signed are {manifest.size} bytes with {manifest.digest[:12]}; fetch it again"
            )

    def order(
        self,
        order: DeploymentOrder,
        now: float,
        last_counter: int,
        last_digest: str | None = None,
    ) -> VerifiedOrder:
        """Return a whole deployment order, its parts fitting each other.

        Raises:
            SignatureError: as for `deployment` and `release`, or the release is missing.
            DigestError: deployment, release and blob name different files.
            WrongDeviceError: as for `deployment` and `release`.
            ExpiredError: as for `deployment` and `release`.
            RollbackError: as for `deployment`.
        """
        deployment = self.deployment(order.deployment, now, last_counter, last_digest)
        if not deployment.digest:
            return VerifiedOrder(deployment, None)
        what = f"deployment {deployment.counter}"
        if order.release is None:
            raise SignatureError(f"{what} came without its signed release; send both")
        release = self.release(order.release, now)
        digests = {deployment.digest, release.manifest.digest}
        if order.blob is not None:
            digests.add(order.blob.plaintext)
        if len(digests) != 1:
            raise DigestError(
                f"{what} names file {deployment.digest[:12]}, its release or blob another one;"
                " send the release that it names"
            )
        return VerifiedOrder(deployment, release)

    def checkpoint(self, envelope: SignedEnvelope) -> Checkpoint:
        """Return the checkpoint in the envelope. It never expires: it is evidence.

        Raises:
            SignatureError: no trusted key signed it, or it is not a sound checkpoint.
            WrongDeviceError: it is of another fleet.
        """
        found = self._document(envelope, Kind.CHECKPOINT, Checkpoint)
        self._check_fleet("checkpoint", found.fleet)
        if found.size < 1 or len(found.root) != _ROOT_SIZE or not math.isfinite(found.signed_at):
            raise SignatureError("signed checkpoint is unsound: use the same version on both sides")
        return found

    def consistency(self, envelope: SignedEnvelope) -> ConsistencyProof:
        """Return the consistency proof in the envelope; whether it holds is another question.

        Raises:
            SignatureError: no trusted key signed it, or it cannot be read.
            WrongDeviceError: it is of another fleet.
        """
        found = self._document(envelope, Kind.CONSISTENCY, ConsistencyProof)
        self._check_fleet("consistency proof", found.fleet)
        return found

    def _check_fleet(self, what: str, fleet: str) -> None:
        if fleet != self._fleet:
            raise WrongDeviceError(
                f"{what} is of fleet {fleet!r:.80}, expected is {self._fleet!r}; check the server's"
                " fleet"
            )

    def _document(
        self, envelope: SignedEnvelope, kind: Kind, document_type: type[_DOCUMENT]
    ) -> _DOCUMENT:
        if envelope.kind != kind:
            raise SignatureError(f"a signed {envelope.kind!r:.40} stands where a {kind} belongs")
        message = signed_bytes(kind, envelope.payload)
        if not any(
            self._made(signature, message) for signature in envelope.signatures[:SIGNATURE_LIMIT]
        ):
            raise SignatureError(
                f"{kind} is not signed by a trusted key (trusted: {', '.join(sorted(self._keys))});"
                " add the server's key to the device if it is yours"
            )
        try:
            document = decode_struct(envelope.payload, document_type)
        except DecodeError as error:
            raise SignatureError(
                f"signed {kind} cannot be read: {error}; use the same version on both sides"
            ) from error
        return document

    def _made(self, signature: Signature, message: bytes) -> bool:
        key = self._keys.get(signature.key_id)
        if key is None:
            return False
        try:
            key.verify(signature.signature, message)
        except InvalidSignature:
            return False
        return True


def _check_expiry(what: str, expires_at: float, now: float) -> None:
    # Written so that a NaN on either side counts as expired.
    if not (now < expires_at < math.inf):
        raise ExpiredError(
            f"{what} expired at {expires_at:.0f}, it is {now:.0f} here (seconds since 1970, UTC);"
            " check the device's clock, else sign it anew"
        )
