"""Which updates count, and what is said to whoever sent another one. Pure."""

from broker.blobs import check_reference
from broker.errors import BlobError
from broker.messages import DropReason, Update, WidthEvaluation
from broker.topics import BLOB
from coordinator import inputs as i
from coordinator.fleet import Campaign, open_task, settings_of
from coordinator.inputs import brief, is_finite
from coordinator.reported_curve import sound_evaluations
from journal import events as e
from slimmable.update_codec import FORMS

MIN_BLOCK = 1024


def admit(
    state: Campaign, device: str, update: Update, limit_bytes: int
) -> tuple[DropReason, str] | None:
    """Return why an announced update is refused before its bytes are fetched, or None."""
    current = state.round
    if update.device != device:
        return DropReason.FORGED_ID, f"payload names device {update.device!r}, topic {device!r}"
    if current is None or update.round > current.number:
        return DropReason.WRONG_ROUND, f"round {update.round} has not been opened"
    task = open_task(state, device, update.round)
    if task is None and (update.round < current.number or current.closed is not None):
        return DropReason.LATE, f"round {update.round} is closed"
    if task is None:
        return DropReason.WRONG_ROUND, f"not invited to round {update.round}"
    if task.dropped is not None:
        return task.dropped, f"already dropped from round {update.round}: {task.dropped}"
    if update.spec_hash != state.spec_hash:
        return (
            DropReason.WRONG_SPEC,
            f"spec {update.spec_hash[:8]}, expected {state.spec_hash[:8]}",
        )
    if update.width != task.task.width:
        return DropReason.WRONG_WIDTH, f"width {update.width:g}, task {task.task.width:g}"
    if task.update is not None and task.update.blob != update.blob.blob:
        return DropReason.LATE, f"another update was already accepted in round {update.round}"
    if not is_finite((update.loss, update.download_s, update.train_s)):
        return DropReason.NOT_FINITE, f"it reports a loss of {update.loss}"
    try:
        check_reference(update.blob, limit_bytes)
    except BlobError as error:
        return DropReason.BAD_BYTES, str(error)
    if not update.blob.size > 0 or not update.blob.block_size >= MIN_BLOCK:
        return DropReason.BAD_BYTES, f"{update.blob.size} bytes, at most {limit_bytes} make sense"
    exchange = settings_of(state).exchange
    known = FORMS if exchange == "weights" else {(exchange, "safetensors-f32")}
    if (update.payload, update.encoding) not in known:
        payload = f"{update.payload[:32]!r} in {update.encoding[:32]!r}"
        return DropReason.BAD_BYTES, f"unknown payload {payload}"
    return None


def announced(state: Campaign, given: i.UpdateAnnounced, now: float) -> list[e.AnyEvent]:
    """Refuse what need not even be fetched."""
    refusal = admit(state, given.device, given.update, given.limit_bytes)
    if not refusal:
        return []
    return _refuse(state, given.device, given.update, refusal, given.limit_bytes)


def fetched(state: Campaign, given: i.UpdateFetched, now: float) -> list[e.AnyEvent]:
    """Accept an update whose bytes were inspected, or refuse it."""
    update, current, owed = given.update, state.round, state.owed.get(given.device)
    refusal = admit(state, given.device, update, given.limit_bytes) or given.fault
    if refusal:
        return _refuse(state, given.device, update, refusal, given.limit_bytes)
    task = open_task(state, given.device, update.round)
    assert current is not None
    assert task is not None
    if task.update is not None:
        return []
    late = owed is not None and owed.number == update.round
    opened_at = owed.opened_at if owed and late else current.opened_at
    evaluations, refused = _evaluations(state, update)
    events: list[e.AnyEvent] = [
        e.UpdateAccepted(
            round=update.round,
            device=given.device,
            width=update.width,
            blob=update.blob.blob,
            digest=given.digest,
            size=update.blob.size,
            samples=max(0, update.samples),
            steps=update.steps,
            loss=update.loss,
            download_s=update.download_s,
            train_s=update.train_s,
            round_s=now - opened_at,
            evaluations=evaluations,
            corrected=update.corrected,
        )
    ]
    if refused:
        events.append(
            e.MessageRefused(sender=given.device, channel="update", reason=brief(refused))
        )
    return events


def _evaluations(state: Campaign, update: Update) -> tuple[tuple[WidthEvaluation, ...], str]:
    """Return what counts of a device's evaluations, and why the others do not."""
    settings = settings_of(state)
    if settings.contributions.evaluator == "server":
        return (), ""
    return sound_evaluations(update.evaluations, settings.widths, update.width)


def _refuse(
    state: Campaign,
    device: str,
    update: Update,
    refusal: tuple[DropReason, str],
    limit_bytes: int,
) -> list[e.AnyEvent]:
    known = state.devices.get(device)
    reason, detail = refusal[0], brief(refusal[1])
    # A receipt names the blob, so what has no name gets none.
    if known is None or not BLOB.fullmatch(update.blob.blob):
        who = "unknown device" if known is None else "no blob"
        return [e.MessageRefused(sender=device, channel="update", reason=f"{who}: {detail}")]
    receipt = known.receipt
    if receipt and (receipt.round, receipt.blob) == (update.round, update.blob.blob):
        return []
    if known.accepted.get(update.round) == update.blob.blob:
        return []  # a late repetition of what counts already
    events: list[e.AnyEvent] = [
        e.UpdateRefused(
            round=update.round,
            device=device,
            blob=update.blob.blob,
            reason=reason,
            detail=detail,
            size=min(limit_bytes, max(0, update.blob.size)),
        )
    ]
    invited = open_task(state, device, update.round)
    if invited and not invited.answered:
        events.append(
            e.DeviceDropped(round=update.round, device=device, reason=reason, detail=detail)
        )
    return events
