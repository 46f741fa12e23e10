"""In how few bits a device's update must travel, by its link. Pure.

Full precision costs nothing in accuracy, so it is taken wherever the upload is a small part of the
round; each further encoding loses more and sends less.
"""

from dataclasses import dataclass

from coordinator.settings import Uploads
from slimmable.update_codec import UpdateEncoding, encoded_share

# From what loses nothing to what loses most. bfloat16 is as large as float16 and less exact.
LADDER = (
    UpdateEncoding.FLOAT32,
    UpdateEncoding.FLOAT16,
    UpdateEncoding.INT8,
    UpdateEncoding.TOP_K,
)


@dataclass(frozen=True)
class EncodingChoice:
    """How a device's updates of one width travel, with the reason in one sentence.

    Attributes:
        sent: bytes of an update, about.
        reason: "" where the operator chose.
    """

    encoding: UpdateEncoding
    sent: int
    reason: str = ""


def choose_encoding(
    uploads: Uploads, size: int, link_bytes_per_s: float, round_s: float
) -> EncodingChoice:
    """Return the encoding of a device's updates.

    Args:
        uploads: the operator's choice; with "adaptive", the first of `LADDER` whose upload takes
            no more than ``uploads.share`` of the round, else the smallest.
        size: of the update in full precision, bytes.
        link_bytes_per_s: rate of the link; 0 = unknown: then the update travels in full precision,
            until a transfer has been measured.
        round_s: the round's time.
    """
    if uploads.encoding != "adaptive":
        return _as(UpdateEncoding(uploads.encoding), uploads, size)
    if link_bytes_per_s <= 0:
        return _as(LADDER[0], uploads, size, "float32: its link has not been measured yet")
    allowed, coarser, tried = uploads.share * round_s, _as(LADDER[0], uploads, size), ""
    for encoding in LADDER:
        choice = _as(encoding, uploads, size)
        if choice.sent > coarser.sent:  # of top-k with a large share
            continue
        coarser, seconds = choice, choice.sent / link_bytes_per_s
        if seconds <= allowed:
            reason = f"{encoding}: its upload takes {seconds:.2g} of the {allowed:.2g} s allowed"
            return _as(encoding, uploads, size, reason + tried)
        tried += f", in {encoding} {seconds:.2g} s"
    reason = f"{coarser.encoding}: no upload fits the {allowed:.2g} s allowed{tried}"
    return _as(coarser.encoding, uploads, size, reason)


def _as(encoding: UpdateEncoding, uploads: Uploads, size: int, reason: str = "") -> EncodingChoice:
    return EncodingChoice(encoding, int(size * encoded_share(encoding, uploads.keep)), reason)
