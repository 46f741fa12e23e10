"""Keeps on the broker the blobs that several devices may open: those needed now, and no others."""

import asyncio
from collections.abc import Callable

from broker.background import BackgroundTasks
from broker.blobs import blob_key, seal
from broker.link import Link
from broker.messages import BlobReference, ModelManifest
from broker.transfer import BlobPublisher, shared_topics
from coordinator.aggregation.control_variates import correction, mean_variate, unpacked
from coordinator.duties import Share, Shared, SharedCorrection, SharedPublic, SharedWeights, shared
from coordinator.fleet import Campaign
from coordinator.inputs import BlobPublished
from coordinator.settings import Settings
from coordinator.share_list import ShareList
from journal.blobs import BlobFolder
from slimmable.private_parts import part_of
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.state import decode_state, digest, encode_state


class Sealer:
    """Encrypts what is shared, each blob with a key of its own."""

    def __init__(
        self, settings: Settings, spec: WidthSpec, fleet_secret: bytes, blobs: BlobFolder
    ) -> None:
        """Take over what keys are derived from, and where the plain bytes are.

        Args:
            settings: of the campaign.
            spec: of what travels of the model.
            fleet_secret: keys are derived from it.
            blobs: the plain bytes.
        """
        self._settings = settings
        self._spec = spec
        self._fleet_secret = fleet_secret
        self._blobs = blobs

    def seal(self, state: Campaign, blob: Shared) -> tuple[bytes, Share]:
        """Return the ciphertext of a blob, and what opens it."""
        if isinstance(blob, SharedPublic):
            return self._seal_bytes(self._blobs.get(blob.digest), *purpose_of(state, blob))
        if isinstance(blob, SharedWeights) and self._settings.exchange != "weights":
            return self._seal_bytes(self._blobs.get(blob.base), *purpose_of(state, blob))
        if isinstance(blob, SharedWeights):
            base = part_of(decode_state(self._blobs.get(blob.base)), self._spec.tensors)
            cut = slice_state(base, self._spec, blob.width, blob.window)
            return self._seal_bytes(encode_state(cut), *purpose_of(state, blob))
        if isinstance(blob, SharedCorrection):
            return self._seal_bytes(self._correction(blob), *purpose_of(state, blob))
        return self.seal_release(state.releases[blob.digest][0].manifest)

    def _correction(self, blob: SharedCorrection) -> bytes:
        mean = mean_variate(self._spec, decode_state(self._blobs.get(blob.fleet)))
        own = unpacked(self._spec, decode_state(self._blobs.get(blob.own)))
        return encode_state(correction(self._spec, mean, own, (blob.width, blob.window)))

    def seal_release(self, manifest: ModelManifest) -> tuple[bytes, Share]:
        """Return the ciphertext of an ONNX file, and what opens it."""
        data = self._blobs.get(manifest.digest)
        return self._seal_bytes(data, f"release-{manifest.round}", manifest.width)

    def _seal_bytes(self, data: bytes, purpose: str, width: float) -> tuple[bytes, Share]:
        size = self._settings.block_size
        plain = digest(data)
        key = blob_key(self._fleet_secret, self._settings.fleet, purpose, width, plain, size)
        cipher, reference = seal(data, key, size)
        return cipher, Share(reference, key)


def purpose_of(state: Campaign, blob: Shared) -> tuple[str, float]:
    """Return what a blob is for, in one word, and its width."""
    if isinstance(blob, SharedWeights):
        return f"round-{blob.round}", blob.width
    if isinstance(blob, SharedCorrection):
        return f"correction-{blob.round}", blob.width
    if isinstance(blob, SharedPublic):
        return "public", 1.0
    manifest = state.releases[blob.digest][0].manifest
    return f"release-{manifest.round}", manifest.width


class Sharing:
    """Publishes blobs and clears them again.

    Attributes:
        shares: the blobs whose blocks are all on the broker.
    """

    def __init__(
        self,
        fleet: str,
        sealer: Sealer,
        link: Link,
        share_list: ShareList,
        background: BackgroundTasks,
        published: Callable[[BlobPublished], None],
    ) -> None:
        """Publish nothing yet; what an earlier run left on the broker is in ``share_list``."""
        self._fleet = fleet
        self._sealer = sealer
        self._link = link
        self._share_list = share_list
        self._background = background
        self._published = published
        self._publisher = BlobPublisher()
        self._leftovers = share_list.entries()
        self._sharing: set[Shared] = set()
        self.shares: dict[Shared, Share] = {}

    def start(self) -> None:
        """Clear what an earlier run left, unless it may be needed: then once that is published."""
        if not self._sharing:
            self._background.spawn(self._clear_leftovers())

    def follow(self, state: Campaign) -> bool:
        """Start to share what is needed now; returns whether anything is no longer shared."""
        wanted = shared(state)
        for blob in sorted(wanted - self.shares.keys() - self._sharing, key=str):
            self._sharing.add(blob)
            self._background.spawn(self._share(state, blob))
        unwanted = self.shares.keys() - wanted
        for blob in unwanted:
            self._background.spawn(self._unshare(self.shares.pop(blob).reference))
        # Of what is for one device its own answer has told already.
        return not all(isinstance(blob, SharedCorrection) for blob in unwanted)

    def forgotten(self) -> None:
        """Note that the broker may have lost all blocks: `follow` publishes them once more."""
        self.shares.clear()

    async def _share(self, state: Campaign, blob: Shared) -> None:
        data, share = await asyncio.to_thread(self._sealer.seal, state, blob)
        reference = share.reference
        self._share_list.add(reference.blob, reference.blocks)
        topics = shared_topics(self._fleet, reference.blob)
        await self._publisher.publish(self._link, topics, data, reference.block_size)
        self._sharing.discard(blob)
        self.shares[blob] = share
        purpose, width = purpose_of(state, blob)
        device = blob.device if isinstance(blob, SharedCorrection) else ""
        self._published(BlobPublished(purpose, width, reference.blob, len(data), device))
        if not self._sharing:
            await self._clear_leftovers()

    async def _unshare(self, reference: BlobReference) -> None:
        if not self._in_use(reference.blob):
            await self._clear(reference.blob, reference.blocks)

    async def _clear_leftovers(self) -> None:
        """Clear the blocks that an earlier run shared and that nothing needs any more."""
        leftovers, self._leftovers = self._leftovers, {}
        unused = {blob: blocks for blob, blocks in leftovers.items() if not self._in_use(blob)}
        for blob, blocks in unused.items():
            await self._clear(blob, blocks)

    def _in_use(self, blob: str) -> bool:
        # Equal contents make equal ciphertexts, so what was given up may be in use again.
        return any(share.reference.blob == blob for share in self.shares.values())

    async def _clear(self, blob: str, blocks: int) -> None:
        await self._publisher.clear(self._link, shared_topics(self._fleet, blob), blocks)
        self._share_list.remove(blob)
