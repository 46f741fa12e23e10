"""Bytes too large for a message: cut into blocks, encrypted, named by their digest, put together.

A blob is named by the SHA-256 of the bytes that travel. Every block but the last has exactly
``block_size`` bytes. An encrypted blob is encrypted block by block, so that one block never has to
wait for another; the tag is inside the block. The key depends on the plaintext, so the same content
always gives the same blob: a restarted server makes the blocks that devices already hold.
"""

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from itertools import islice

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.codec import BLOCK_LIMIT
from broker.errors import BlobError
from broker.messages import BlobReference

TAG_SIZE = 16
KEY_SIZE = 32
SECRET_SIZE = 32
BLOB_LIMIT = 256 * 1024 * 1024
"""No larger blob is fetched unless the caller allows it: a reference comes from the network."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEY_DOMAIN = b"slimfleet/blob-key/v1"
_BLOCK_DOMAIN = b"slimfleet/blob-block/v1"


def split(data: bytes, block_size: int) -> list[bytes]:
    """Cut ``data`` into blocks of ``block_size`` bytes; the last one may be shorter.

    Raises:
        ValueError: the block size is outside 1 to `BLOCK_LIMIT`.
    """
    if not 1 <= block_size <= BLOCK_LIMIT:
        raise ValueError(f"block size {block_size}: use 1 to {BLOCK_LIMIT} bytes")
    return [data[start : start + block_size] for start in range(0, len(data), block_size)]


def reference(
    data: bytes,
    block_size: int,
    plaintext_digest: str,
    encrypted: bool,  # noqa: FBT001
) -> BlobReference:
    """Describe the bytes that travel.

    Args:
        data: what is published: the ciphertext, where encrypted.
        block_size: of every block but the last.
        plaintext_digest: SHA-256 of the decoded bytes, in hex.
        encrypted: whether a key is needed.
    """
    return BlobReference(
        blob=digest_of(data),
        size=len(data),
        block_size=block_size,
        plaintext=plaintext_digest,
        encrypted=encrypted,
    )


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def check_reference(described: BlobReference, limit: int = BLOB_LIMIT) -> BlobReference:
    """Return a reference that came from the network if it can describe a blob.

    Raises:
        BlobError: a digest is not one, a size is impossible, or the blob is over ``limit``.
    """
    for name in ("blob", "plaintext"):
        if not _DIGEST.fullmatch(getattr(described, name)):
            raise BlobError(f"blob reference: {name} is not a SHA-256 in hex; ask the sender again")
    smallest = TAG_SIZE + 1 if described.encrypted else 1
    if not smallest <= described.block_size <= BLOCK_LIMIT:
        raise BlobError(
            f"blob {described.blob[:12]}: block size {described.block_size} is outside"
            f" {smallest} to {BLOCK_LIMIT}"
        )
    if not 0 <= described.size <= limit:
        raise BlobError(
            f"blob {described.blob[:12]}: size {described.size} is outside 0 to {limit}"
        )
    return described


# --- encryption ---------------------------------------------------------------------------------


def blob_key(
    fleet_secret: bytes,
    fleet: str,
    purpose: str,
    width: float,
    plaintext_digest: str,
    block_size: int,
) -> bytes:
    """Derive the key of one shared blob with HKDF-SHA256.

    Every argument enters with its length, so no two different lists of arguments agree. With the
    plaintext among them, a key never encrypts two contents, and block indices are safe nonces.

    Args:
        fleet_secret: at least `SECRET_SIZE` random bytes that never leave the server.
        fleet: name of the fleet.
        purpose: what the blob is for, for example "round-7" or "release-3".
        width: width multiplier of the content.
        plaintext_digest: SHA-256 of the content, in hex.
        block_size: of the blob.

    Raises:
        ValueError: the secret is too short.
    """
    if len(fleet_secret) < SECRET_SIZE:
        raise ValueError(
            f"fleet secret of {len(fleet_secret)} bytes: use {SECRET_SIZE} random bytes"
        )
    fields = (
        fleet.encode(),
        purpose.encode(),
        struct.pack(">d", width),
        plaintext_digest.encode(),
        struct.pack(">I", block_size),
    )
    info = _KEY_DOMAIN + b"".join(struct.pack(">H", len(field)) + field for field in fields)
    return HKDF(hashes.SHA256(), KEY_SIZE, salt=None, info=info).derive(fleet_secret)


def encrypt(data: bytes, key: bytes, block_size: int) -> bytes:
    """Encrypt block by block; every block but the last has ``block_size`` bytes with its tag.

    Args:
        data: the plaintext; empty gives one block that is only a tag.
        key: from `blob_key`, for this very plaintext.
        block_size: of the ciphertext, more than `TAG_SIZE`.
    """
    chunks = split(data, _chunk_size(block_size)) or [b""]
    cipher = ChaCha20Poly1305(key)
    associated = _associated(len(chunks), block_size)
    return b"".join(
        cipher.encrypt(_nonce(index), chunk, associated) for index, chunk in enumerate(chunks)
    )


def decrypt(cipher: bytes, key: bytes, block_size: int) -> bytes:
    """Undo `encrypt`.

    Raises:
        BlobError: wrong key, or an altered, missing, added or moved block.
    """
    _chunk_size(block_size)
    blocks = split(cipher, block_size)
    if not blocks:
        raise BlobError("encrypted blob is empty: even empty content has a tag; fetch it again")
    if len(key) != KEY_SIZE:
        raise BlobError(f"blob key of {len(key)} bytes: it must have {KEY_SIZE}")
    opener = ChaCha20Poly1305(key)
    associated = _associated(len(blocks), block_size)
    plain: list[bytes] = []
    for index, block in enumerate(blocks):
        try:
            plain.append(opener.decrypt(_nonce(index), block, associated))
        except (InvalidTag, ValueError) as error:
            raise BlobError(
                f"block {index} of {len(blocks)} does not open: wrong key, or it was altered;"
                " fetch the blob again"
            ) from error
    return b"".join(plain)


def seal(data: bytes, key: bytes, block_size: int) -> tuple[bytes, BlobReference]:
    """Encrypt ``data`` and describe the result."""
    cipher = encrypt(data, key, block_size)
    return cipher, reference(cipher, block_size, digest_of(data), encrypted=True)


def unseal(described: BlobReference, data: bytes, key: bytes = b"") -> bytes:
    """Return the content of a fetched blob, decrypted where it is encrypted.

    Raises:
        BlobError: the bytes are not the blob, the key is wrong, or the content is not as named.
    """
    check_reference(described, limit=max(BLOB_LIMIT, len(data)))
    if digest_of(data) != described.blob:
        raise BlobError(f"blob {described.blob[:12]}: the bytes have another digest; fetch again")
    plain = decrypt(data, key, described.block_size) if described.encrypted else data
    if digest_of(plain) != described.plaintext:
        raise BlobError(
            f"blob {described.blob[:12]}: the content is not {described.plaintext[:12]} as its"
            " reference says; ask the sender again"
        )
    return plain


def _chunk_size(block_size: int) -> int:
    if not TAG_SIZE < block_size <= BLOCK_LIMIT:
        raise ValueError(f"block size {block_size}: use {TAG_SIZE + 1} to {BLOCK_LIMIT} bytes")
    return block_size - TAG_SIZE


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")


def _associated(blocks: int, block_size: int) -> bytes:
    # The number of blocks is bound to each of them: cutting off whole blocks must not go unseen.
    return _BLOCK_DOMAIN + struct.pack(">QI", blocks, block_size)


# --- putting a blob together --------------------------------------------------------------------


class Download:
    """Which blocks of a blob are here, which are missing, and whether the whole is right."""

    def __init__(
        self,
        described: BlobReference,
        have: Mapping[int, bytes] | None = None,
        *,
        limit: int = BLOB_LIMIT,
    ) -> None:
        """Begin with the blocks that are already here.

        Args:
            described: the blob.
            have: blocks kept from an earlier attempt; those that cannot fit are left out.
            limit: largest acceptable size in bytes.

        Raises:
            BlobError: the reference cannot describe a blob.
        """
        self.reference = check_reference(described, limit)
        self._blocks = {
            index: block for index, block in (have or {}).items() if self._fits(index, block)
        }
        self._first = 0

    @property
    def complete(self) -> bool:
        """Whether every block is here; `data` says whether they are right."""
        return len(self._blocks) == self.reference.blocks

    def missing(self) -> tuple[int, ...]:
        """Return the indices of the blocks that are not here."""
        return tuple(self._missing())

    def window(self, size: int) -> tuple[int, ...]:
        """Return the first ``size`` missing blocks: the ones to ask for now."""
        return tuple(islice(self._missing(), size))

    def receive(self, index: int, payload: bytes) -> bool:
        """Take a block; return False where it was here before.

        Raises:
            BlobError: the blob has no such block, or the block has another size.
        """
        if not self._fits(index, payload):
            raise BlobError(
                f"blob {self.reference.blob[:12]}: {len(payload)} bytes as block {index} of"
                f" {self.reference.blocks} do not fit; ask for the block again"
            )
        if index in self._blocks:
            return False
        self._blocks[index] = payload
        return True

    def data(self) -> bytes:
        """Return the bytes of the blob.

        Raises:
            BlobError: blocks are missing, or the digest differs from the blob's name.
        """
        blob, blocks = self.reference.blob[:12], self.reference.blocks
        if not self.complete:
            raise BlobError(f"blob {blob}: {blocks - len(self._blocks)} of {blocks} blocks missing")
        data = b"".join(self._blocks[index] for index in range(blocks))
        if digest_of(data) != self.reference.blob:
            raise BlobError(f"blob {blob}: the blocks have another digest; fetch all of them again")
        return data

    def start_over(self) -> None:
        """Forget every block: which of them is wrong cannot be known from the digest of all."""
        self._blocks.clear()
        self._first = 0

    def _missing(self) -> Iterator[int]:
        while self._first in self._blocks:
            self._first += 1
        for index in range(self._first, self.reference.blocks):
            if index not in self._blocks:
                yield index

    def _fits(self, index: int, payload: bytes) -> bool:
        blocks, block_size = self.reference.blocks, self.reference.block_size
        if not 0 <= index < blocks:
            return False
        last = self.reference.size - (blocks - 1) * block_size
        return len(payload) == (last if index == blocks - 1 else block_size)
