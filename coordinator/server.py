"""The coordinator's shell: link, journal, blobs, clock and worker, around the pure decisions.

Everything that happens becomes an input of `coordinator.rounds.decide`; its events are committed to
the journal; then `coordinator.publications` says what must stand on the broker and
`coordinator.duties` what job is due, and this shell makes it so. It holds no rule about federated
learning.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from broker import messages as m
from broker.background import BackgroundTasks
from broker.codec import decode_on, encode, expires_after_s, is_retained
from broker.envelope import key_id, public_key_of, sign
from broker.errors import BlobError, DecodeError, LinkError, SizeError
from broker.link import Connected, Disconnected, Link, Received
from broker.ordering import LatestOnly
from broker.topics import (
    CommandTopic,
    DeviceSays,
    ServerTells,
    ServerTopic,
    Topic,
    UploadBlock,
    UpTopic,
    parse_topic,
    server_filters,
    topic_for,
)
from broker.transfer import BlobFetcher, upload_topics
from coordinator import inputs as i
from coordinator.admission import admit
from coordinator.aggregation.knowledge import inspect_knowledge
from coordinator.aggregation.updates import inspect_payload
from coordinator.bench import Bench
from coordinator.duties import (
    Assess,
    Export,
    Initialise,
    Job,
    Score,
    job,
    needed_blobs,
)
from coordinator.evolution import evolve
from coordinator.fleet import Campaign
from coordinator.job_orders import assess_job, export_job, score_job
from coordinator.jobs import JobError, JobRunner
from coordinator.notices import Notices, tells
from coordinator.presence import Leases
from coordinator.rounds import advance
from coordinator.settings import (
    DAY_S,
    AuditSettings,
    Settings,
    SettingsError,
    changed_settings,
)
from coordinator.share_list import ShareList
from coordinator.sharing import Sealer, Sharing
from coordinator.witnessing import Witnessing
from journal.blobs import BlobFolder
from journal.errors import EventError
from journal.events import ContradictionReported, RewardsAllocated, WidthMemory
from journal.store import Journal
from profiler.prediction import predict_inference_memory
from slimmable.cost import model_bytes, payload_bytes
from slimmable.private_parts import check_patterns, shared_spec
from slimmable.spec import SpecError, WidthSpec
from slimmable.state import decode_state

log = logging.getLogger(__name__)

TICK_S = 0.25
GOODBYE_S = 2.0
UPDATE_SLACK = 65536  # bytes that an honest update may weigh more than predicted


@dataclass(frozen=True)
class Identity:
    """What only this fleet's server has.

    Attributes:
        fleet_secret: keys of shared blobs are derived from it.
        signing_key: Ed25519 private key, 32 bytes.
    """

    fleet_secret: bytes = field(repr=False)
    signing_key: bytes = field(repr=False)


@dataclass(frozen=True)
class Desk:
    """Everything that the shell touches, handed in so that tests can hand in other things."""

    link: Link
    journal: Journal
    blobs: BlobFolder
    jobs: JobRunner
    clock: Callable[[], float]
    folder: Path


class Coordinator:
    """One campaign of one fleet."""

    def __init__(
        self,
        settings: Settings,
        spec: WidthSpec,
        bench: Bench,
        identity: Identity,
        desk: Desk,
        software: str = "",
        audit: AuditSettings | None = None,
    ) -> None:
        """Replay the journal; nothing is sent before `run`.

        Raises:
            SettingsError: the journal holds a campaign with other settings, or private parts are
                none of the model.
        """
        self.settings = settings
        self._spec = spec
        try:
            check_patterns(spec, settings.training.private)
        except SpecError as error:
            raise SettingsError(f"training.private: {error}") from error
        self._travels = shared_spec(spec, settings.training.private)
        self._bench = bench
        self._identity = identity
        self._desk = desk
        self._software = software
        self._link = desk.link
        self.state = Campaign()
        for record in desk.journal.records():
            self.state = evolve(self.state, record.event, record.at)
        self.replayed = desk.journal.head.count
        if self.state.settings and (changes := changed_settings(self.state.settings, settings)):
            raise SettingsError(
                f"the campaign in {desk.folder} was started with other settings"
                f" ({'; '.join(changes)}): restore them, or name another folder for a new campaign"
            )
        self._leases = Leases(settings.presence, self.state.leases(), desk.clock())
        self._notices = Notices(self._sign)
        self._witnessing = Witnessing(
            settings.fleet,
            audit or AuditSettings(),
            desk.journal,
            identity.signing_key,
            desk.folder,
            desk.clock(),
        )
        self._job: Job | None = None
        self._fetching: set[str] = set()
        self._fetcher = BlobFetcher(desk.link, desk.folder / "uploads")
        self._latest = LatestOnly()
        self._seq = 0
        self._background = BackgroundTasks(self._link)
        self._sealer = Sealer(settings, self._travels, identity.fleet_secret, desk.blobs)
        self._sharing = Sharing(
            settings.fleet,
            self._sealer,
            desk.link,
            ShareList(desk.folder / "shared.json"),
            self._background,
            self._apply,
        )
        self._wake = asyncio.Event()
        self._ending = False
        self._payload_bytes = {w: payload_bytes(self._travels, w) for w in settings.widths}

    # --- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        spec, ladder = self._spec, self.settings.rewards.ladder
        # Activations are not known here: the least that it takes.
        least = {width: predict_inference_memory(model_bytes(spec, width), 0) for width in ladder}
        memory = tuple(WidthMemory(width=w, inference_bytes=size) for w, size in least.items())
        signer = key_id(public_key_of(self._identity.signing_key))
        self._apply(i.Started(self.settings, spec.spec_hash, self._software, memory, signer))
        await self._link.start()
        await self._link.subscribe(server_filters(self.settings.fleet))
        self._background.spawn(self._publish_for_ever())
        self._background.spawn(self._tick_for_ever())
        self._sharing.start()
        try:
            async for event in self._link.events():
                match event:
                    case Received():
                        self._receive(event)
                    case Connected() if not self._ending:
                        log.info("connected to the broker")
                        self._say_all_again()
                    case Disconnected(reason):
                        log.warning("broker connection: %s", reason)
            if self._background.failure:
                raise self._background.failure
        finally:
            self._background.cancel()
            self._desk.jobs.close()

    async def stop(self) -> None:
        """Say goodbye and end `run`."""
        offline = m.ServerState(status=m.LinkStatus.OFFLINE, session=self.state.epoch)
        topic = topic_for(self.settings.fleet, ServerTopic(ServerTells.STATE))
        self._ending = True
        # Without a broker there is nobody to say it to.
        with contextlib.suppress(LinkError, TimeoutError):
            goodbye = self._link.publish(topic, encode(offline), retain=True)
            await asyncio.wait_for(goodbye, GOODBYE_S)
        await self._link.stop()

    async def _tick_for_ever(self) -> None:
        pruned_at = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()
            now = self._desk.clock()
            if now - pruned_at > DAY_S:
                self._desk.journal.prune_telemetry(now - self.settings.telemetry_days * DAY_S)
                pruned_at = now

    def tick(self) -> None:
        """Let time pass: leases and deadlines. What the journal may write later it writes now."""
        for change in self._leases.transitions(self._desk.clock()):
            self._apply(i.LeaseChanged(change.device, change.state, change.cause))
        self._apply(i.Tick())
        self._desk.journal.flush()
        due = self._witnessing.tick(self._desk.clock())
        if self._notices.tick(self.state) or due:
            self._wake.set()

    # --- inputs ----------------------------------------------------------------------------------

    def _apply(self, given: i.Input) -> None:
        """Decide and commit. The commit comes before anything is said or done about it."""
        now = self._desk.clock()
        events, state = advance(self.state, given, now)
        if not events:
            return
        telling = tells(events)
        if telling:
            self._desk.journal.append(events, now)
        else:  # on a real medium a commit takes milliseconds: those are many, and may wait
            self._desk.journal.later(events, now)
        self.state = state
        for event in events:
            log.info("%s", type(event).__name__, extra={"event": event})
            if isinstance(event, RewardsAllocated):
                self._witnessing.rewards_allocated()
            elif isinstance(event, ContradictionReported):
                log.error("%s reports that this journal was changed: docs/audit.md", event.device)
        if telling:
            self._notices.happened(events)
            self._do_what_is_due()

    def _receive(self, message: Received) -> None:
        try:
            topic = parse_topic(self.settings.fleet, message.topic)
        except DecodeError as error:
            log.warning("ignored: %s", error)
            return
        if isinstance(topic, UploadBlock):
            self._fetcher.offer(message.topic, message.payload)
            return
        if not message.payload:
            return  # a cleared topic
        try:
            decoded = decode_on(topic, message.payload)
        except DecodeError as error:
            sender = topic.device if isinstance(topic, UpTopic) else str(topic)
            log.warning("message of %s on %s refused: %s", sender, message.topic, error)
            self._apply(i.MessageForged(sender, message.topic.rpartition("/")[2], str(error)))
            return
        if not self._latest.admit(message.topic, decoded):
            if isinstance(topic, UpTopic) and not message.retained:
                self._outdated(topic, decoded.session)
            return
        match topic:
            case UpTopic(device, channel):
                self._device_said(device, channel, decoded, retained=message.retained)
            case CommandTopic(operator):
                assert isinstance(decoded, m.Command)
                self._apply(i.CommandReceived(operator, decoded, self._sizes()))

    def _device_said(
        self, device: str, channel: DeviceSays, said: m.Message, *, retained: bool
    ) -> None:
        now = self._desk.clock()
        if isinstance(said, m.Birth) and said.status is m.LinkStatus.OFFLINE:
            self._leases.doubted(device, said.session, said.cause, now)
            self.tick()
            return
        if retained:
            self._leases.remembered(device, said.session)
        elif not self._leases.heard(device, said.session, now):
            log.info("stale %s of %s (session %d)", channel, device, said.session)
            self._outdated(UpTopic(device, channel), said.session)
            return
        if isinstance(said, m.Birth):
            self._apply(i.BirthReceived(device, said))
        for change in self._leases.transitions(now, device):
            self._apply(i.LeaseChanged(change.device, change.state, change.cause))
        self._dispatch(device, said, now)

    def _outdated(self, topic: UpTopic, session: int) -> None:
        """Tell the operator, once, of an older session that does not fall silent."""
        reason = self._leases.outdated(topic.device, session, self._desk.clock())
        if reason:
            log.warning("%s: %s", topic.device, reason)
            self._apply(i.MessageForged(topic.device, topic.channel, reason))

    def _dispatch(self, device: str, said: m.Message, now: float) -> None:
        match said:
            case m.Profile():
                self._apply(i.ProfileReceived(device, said, self._sizes()))
            case m.Progress():
                self._apply(i.ProgressReceived(device, said))
            case m.Update():
                self._announced(device, said)
            case m.Report():
                self._apply(i.ReportReceived(device, said))
            case m.Witness():
                known = self.state.devices.get(device)
                doubted = bool(known and known.contradiction)
                if found := self._witnessing.heard(device, said, doubted=doubted):
                    self._apply(found)
            case m.Telemetry():
                try:
                    self._desk.journal.add_telemetry(device, now, said)
                except EventError as error:  # a device may say anything
                    log.warning("not kept: %s", error)

    def _sizes(self) -> dict[float, int]:
        """Return how large what travels is at each training width."""
        if self.settings.exchange == "weights":
            return self._payload_bytes
        known = self._desk.blobs.size_of(self.state.weights)
        return dict.fromkeys(self._payload_bytes, known) if known else self._payload_bytes

    # --- updates ---------------------------------------------------------------------------------

    def _announced(self, device: str, update: m.Update) -> None:
        known = self.state.devices.get(device)
        receipt = known.receipt if known else None
        if receipt and (receipt.round, receipt.blob) == (update.round, update.blob.blob):
            return  # judged already; the retained receipt says so
        limit = 2 * self._sizes().get(update.width, 0) + UPDATE_SLACK
        self._apply(i.UpdateAnnounced(device, update, limit))
        if admit(self.state, device, update, limit) is None:
            fetch_id = f"{device}/{update.blob.blob}"
            if fetch_id not in self._fetching:
                self._fetching.add(fetch_id)
                self._background.spawn(self._fetch_update(device, update, limit, fetch_id))

    async def _fetch_update(self, device: str, update: m.Update, limit: int, fetch_id: str) -> None:
        try:
            given = await self._fetched(device, update, limit)
        finally:
            self._fetching.discard(fetch_id)
        if given:
            self._apply(given)

    async def _fetched(self, device: str, update: m.Update, limit: int) -> i.UpdateFetched | None:
        topic_of = upload_topics(self.settings.fleet, device, update.blob.blob)
        current = self.state.round
        assert current is not None  # it was announced for the open round
        patience = current.opened.budget_s + 10.0
        try:
            data = await self._fetcher.fetch(update.blob, topic_of, patience, limit=limit)
        except BlobError as error:
            log.warning("update of %s: %s", device, error)
            fault = (m.DropReason.BAD_BYTES, str(error))
            return i.UpdateFetched(device, update, limit, "", fault)
        if self.settings.exchange == "weights":
            fault_found = inspect_payload(self._travels, update.width, data)
        else:
            like = decode_state(self._desk.blobs.get(current.opened.base))
            fault_found = inspect_knowledge(data, like)
        if fault_found:
            log.warning("update of %s: %s", device, fault_found[1])
        digest = "" if fault_found else self._desk.blobs.put(data)
        return i.UpdateFetched(device, update, limit, digest, fault_found)

    # --- outputs ---------------------------------------------------------------------------------

    def _do_what_is_due(self) -> None:
        self._start_job()
        self._start_sharing()
        self._wake.set()

    async def _publish_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._publish_changes()

    def _start_job(self) -> None:
        due = job(self.state)
        if due is None or self._job is not None:
            return
        self._job = due
        self._background.spawn(self._do(due))

    async def _do(self, due: Job) -> None:
        try:
            given: i.Input = await self._run_job(due)
        except JobError as error:
            log.warning("job failed: %s", error)
            given = i.JobFailed(type(due).__name__.lower(), str(error))
            await asyncio.sleep(min(30.0, 2.0**self.state.work_failures))
        self._job = None
        self._apply(given)
        if job(self.state) is None:
            # Nothing reads or writes the folder now but this loop.
            self._desk.blobs.collect(needed_blobs(self.state))
        self._do_what_is_due()

    async def _run_job(self, due: Job) -> i.Input:
        jobs, bench, state = self._desk.jobs, self._bench, self.state
        match due:
            case Initialise():
                made = await jobs.initialise(bench)
                jobs.warm(bench)
                return i.Initialised(*made)
            case Score(number):
                jobs.warm(bench)
                return i.Scored(number, await jobs.score(bench, score_job(state)))
            case Assess(number):
                jobs.warm(bench)
                found = await jobs.assess(bench, assess_job(state))
                return i.Assessed(number, found.scores, found.seconds)
            case Export(widths):
                exported = await jobs.export(bench, export_job(state, widths))
                return i.Exported(
                    tuple(self._release(manifest) for manifest in exported.manifests),
                    exported.worse,
                )

    def _release(self, manifest: m.ModelManifest) -> tuple[m.Release, m.BlobReference]:
        now = self._desk.clock()
        release = m.Release(
            fleet=self.settings.fleet,
            version=self.state.release_version + 1,
            manifest=manifest,
            created_at=now,
            expires_at=now + self.settings.releases.valid_days * DAY_S,
        )
        _, share = self._sealer.seal_release(manifest)
        return release, share.reference

    def _start_sharing(self) -> None:
        if self._sharing.follow(self.state):
            self._notices.anything_changed()

    # --- retained publications -------------------------------------------------------------------

    def _say_all_again(self) -> None:
        """Publish everything once more: a killed broker may have forgotten what it retained."""
        self._notices.forgotten()
        self._witnessing.forgotten()
        self._wake.set()
        self._sharing.forgotten()
        self._start_sharing()

    async def _publish_changes(self) -> None:
        if self._ending:
            return  # nothing is said after the goodbye
        due = self._notices.due(self.state, self._sharing.shares) | self._witnessing.due()
        # All are queued before the first is waited for; a task for each would cost more than it.
        said = [self._say(topic, body) for topic, body in due.items()]
        if said:
            await asyncio.gather(*filter(None, said))

    def _say(self, topic: Topic, message: m.Message | None) -> asyncio.Future[None] | None:
        payload = b""
        if message is not None:
            self._seq += 1
            stamped = msgspec.structs.replace(
                message, session=self.state.epoch, seq=self._seq, sent_at=self._desk.clock()
            )
            try:
                payload = encode(stamped)
            except SizeError as error:  # one message that cannot be said must not end the server
                log.error("not published on %s: %s", topic, error)
                return None
        return self._link.post(
            topic_for(self.settings.fleet, topic),
            payload,
            retain=is_retained(topic),
            expiry_s=expires_after_s(topic),
        )

    def _sign(self, document: msgspec.Struct, kind: str) -> m.SignedEnvelope:
        return sign(document, kind, self._identity.signing_key)
