"""The agent's shell: link, trainer process, slots, outbox and clock, around the pure session.

Messages become inputs of `edge_agent.session.AgentSession`; its actions are done here, and their
outcomes handed back. It holds no rule about federated learning. Inference goes on whatever the link
does.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil

from broker import messages as m
from broker.background import BackgroundTasks
from broker.blobs import check_reference, digest_of, reference, unseal
from broker.codec import decode_on, encode, expires_after_s, is_retained
from broker.errors import BlobError, DecodeError, LinkError
from broker.link import Connected, Disconnected, Link, Received, Will
from broker.ordering import LatestOnly
from broker.topics import (
    DeviceSays,
    DownTopic,
    ServerTopic,
    SharedBlock,
    UpTopic,
    device_filters,
    parse_topic,
    topic_for,
)
from broker.transfer import BlobFetcher, BlobPublisher, shared_topics, upload_topics
from edge_agent import actions as a
from edge_agent import inputs as i
from edge_agent.outbox import Outbox
from edge_agent.profile_message import to_message
from edge_agent.public_inputs import PublicInputs
from edge_agent.session import RETRY_S, TRY_AGAIN, AgentSession, Installed
from edge_agent.trainer_process import TrainRequest
from edge_agent.trainer_protocol import WEIGHTS, Trained
from edge_agent.training_failure import TrainingFailed
from edge_agent.witness_file import read_acceptance, write_witness
from profiler.profile import (
    Benchmark,
    Condition,
    InferenceFindings,
    MachineFacts,
    describe,
)
from slimmable.update_codec import form_of

log = logging.getLogger(__name__)

CHANNEL_OF: dict[type[m.Message], DeviceSays] = {
    m.Birth: DeviceSays.BIRTH,
    m.Alive: DeviceSays.ALIVE,
    m.Profile: DeviceSays.PROFILE,
    m.Progress: DeviceSays.PROGRESS,
    m.Update: DeviceSays.UPDATE,
    m.Report: DeviceSays.REPORT,
    m.Telemetry: DeviceSays.TELEMETRY,
    m.Witness: DeviceSays.WITNESS,
}
KEPT = "kept"  # folder of what the device keeps to itself
PUBLIC = "public"  # folder of the inputs that all devices score
TICK_S = 0.5
GOODBYE_S = 2.0
CONDITION_S = 30.0
ACCEPTANCE_S = 2.0
TEXT_LIMIT = 1000  # characters


class TrainerHandle(Protocol):
    """What the agent needs of `edge_agent.trainer_process.TrainerProcess`."""

    async def profile(
        self,
        model: str,
        options: dict[str, Any],
        widths: tuple[float, ...],
        batch_size: int,
        *,
        fresh: bool = False,
    ) -> Benchmark:
        """Time training steps of each width; ``fresh``: whatever is remembered."""

    async def train(self, request: TrainRequest, timeout_s: float) -> Trained:
        """Train one width."""

    async def close(self) -> None:
        """End the process."""


class InferenceMeter(Protocol):
    """What the agent needs of `slimfleet.inference_profile.InferenceProfiler`."""

    async def measure(
        self,
        model: str,
        options: dict[str, Any],
        widths: tuple[float, ...],
        spec_hash: str,
        *,
        fresh: bool = False,
    ) -> InferenceFindings:
        """Time ONNX files, never raising for what one does; ``fresh``: whatever is remembered."""


class InstallerHandle(Protocol):
    """What the agent needs of `edge_agent.installation.ModelInstaller`."""

    def installed(self) -> Installed:
        """Return what runs, for a new session."""

    async def install(
        self, action: a.Install, data: bytes, tell: Callable[[m.Message], Awaitable[None]]
    ) -> m.Report:
        """Check, probe, place and run a model; the report says how it went."""

    async def remove(self, action: a.RemoveModel) -> m.Report:
        """Run no model any more."""

    def telemetry(self, outbox: int) -> list[m.Telemetry]:
        """Return what inference looked like since the last call."""


@dataclass(frozen=True)
class OwnModel:
    """The network of a device's own, where no weights travel; see `slimmable.model`."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AgentIdentity:
    """Who the agent is and what it is like.

    Attributes:
        fleet, device: names.
        session: counts the agent's starts; kept on disk.
        version: of the software.
        emulated: name of the emulated machine, or "".
        link_bytes_per_s: emulated link rate; 0 on a real machine.
        memory_budget: bytes that training may use.
        behaviour, noise: "honest" but in demonstrations of free-riders.
        never_send: patterns of tensors that never leave the device, whatever the server says.
        own_model: what it trains where devices train networks of their own; None = the fleet's.
    """

    fleet: str
    device: str
    session: int
    version: str = ""
    emulated: str = ""
    link_bytes_per_s: float = 0.0
    memory_budget: int = 0
    behaviour: str = "honest"
    noise: float = 0.0
    never_send: tuple[str, ...] = ()
    own_model: OwnModel | None = None


@dataclass(frozen=True)
class Equipment:
    """Everything that the shell touches, handed in so that tests can hand in other things.

    Attributes:
        trainer: None on a device that only infers.
        condition: reads the state that the machine is in.
        inference: measures what inference costs; None = that is not measured.
    """

    link: Link
    session: AgentSession
    outbox: Outbox
    installer: InstallerHandle
    facts: MachineFacts
    folder: Path
    clock: Callable[[], float]
    trainer: TrainerHandle | None = None
    telemetry_s: float = 60.0
    condition: Callable[[], Condition] = Condition
    inference: InferenceMeter | None = None


def last_will(fleet: str, device: str, session: int) -> Will:
    """Return what the broker shall say when this session ends without a goodbye."""
    death = m.Birth(status=m.LinkStatus.OFFLINE, cause="will", session=session, witness=True)
    return Will(topic_for(fleet, UpTopic(device, DeviceSays.BIRTH)), encode(death))


def brief(message: m.Message) -> m.Message:
    """Return a message whose texts are cut to what fits: an error may quote a whole traceback."""
    cut = {
        name: text[: TEXT_LIMIT - 1] + "…"
        for name in ("detail", "reason")
        if isinstance(text := getattr(message, name, None), str) and len(text) > TEXT_LIMIT
    }
    return msgspec.structs.replace(message, **cut) if cut else message


class Agent:
    """One device."""

    def __init__(self, identity: AgentIdentity, equipment: Equipment) -> None:
        """Nothing is sent before `run`."""
        self._id = identity
        self._gear = equipment
        self._link = equipment.link
        self._session = equipment.session
        self._fetcher = BlobFetcher(equipment.link, equipment.folder / "downloads")
        self._publisher = BlobPublisher()
        self._public = PublicInputs(equipment.folder / PUBLIC)
        self._fetching_public = asyncio.Lock()
        self._witnessing = asyncio.Lock()
        self._seq = 0
        self._latest = LatestOnly()
        self._background = BackgroundTasks(self._link)
        self._rounds: dict[int, asyncio.Task[None]] = {}
        self._ending = False

    async def run(self) -> None:
        """Serve until cancelled or stopped."""
        await self._link.start()
        await self._link.subscribe(device_filters(self._id.fleet, self._id.device))
        for loop in (
            self._heartbeats(),
            self._ticks(),
            self._telemetry(),
            self._conditions(),
            self._acceptances(),
        ):
            self._background.spawn(loop)
        try:
            async for event in self._link.events():
                match event:
                    case Received():
                        self._receive(event)
                    case Connected() if not self._ending:
                        log.info("connected to the broker")
                        self._background.spawn(self._born())
                        self._do(self._session.connected())
                    case Disconnected(reason):
                        log.warning("broker connection: %s", reason)
            if self._background.failure:
                raise self._background.failure
        finally:
            self._background.cancel()
            if self._gear.trainer:
                await self._gear.trainer.close()

    async def stop(self) -> None:
        """Say goodbye and end `run`."""
        goodbye = self._publish(
            m.Birth(status=m.LinkStatus.OFFLINE, cause="shutdown", witness=True)
        )
        self._ending = True
        with contextlib.suppress(LinkError, TimeoutError):
            await asyncio.wait_for(goodbye, GOODBYE_S)
        await self._link.stop()

    # --- in --------------------------------------------------------------------------------------

    def _receive(self, message: Received) -> None:
        try:
            topic = parse_topic(self._id.fleet, message.topic)
            if isinstance(topic, SharedBlock):
                self._fetcher.offer(message.topic, message.payload)
                return
            if not message.payload:
                return
            decoded = decode_on(topic, message.payload)
        except DecodeError as error:
            log.warning("ignored: %s", error)
            return
        if not self._latest.admit(message.topic, decoded):
            return
        if isinstance(topic, DownTopic | ServerTopic):
            self._handle(i.ServerSaid(decoded, live=not message.retained))  # type: ignore[arg-type]

    def _handle(self, given: i.SessionInput) -> None:
        self._do(self._session.handle(given, self._gear.clock()))

    # --- out -------------------------------------------------------------------------------------

    async def _say(self, message: m.Message) -> None:
        if self._ending:
            raise LinkError(f"{self._id.device} is ending: nothing is said after the goodbye")
        await self._publish(message)

    async def _say_in_passing(self, message: m.Message) -> None:
        """Say something small, and note how long the broker took to acknowledge it."""
        now = asyncio.get_running_loop().time
        started = now()
        await self._say(message)
        self._handle(i.Acknowledged(now() - started))

    async def _publish(self, message: m.Message) -> None:
        self._seq += 1
        topic = UpTopic(self._id.device, CHANNEL_OF[type(message)])
        stamped = msgspec.structs.replace(
            brief(message), session=self._id.session, seq=self._seq, sent_at=self._gear.clock()
        )
        await self._link.publish(
            topic_for(self._id.fleet, topic),
            encode(stamped),
            retain=is_retained(topic),
            expiry_s=expires_after_s(topic),
        )

    async def _born(self) -> None:
        running = self._gear.installer.installed().report
        await self._say_in_passing(
            m.Birth(
                status=m.LinkStatus.ONLINE,
                agent=self._id.version,
                can_train=self._gear.trainer is not None,
                running=running.running if running else "",
                emulated=self._id.emulated,
                witness=True,
            )
        )
        await self._say(self._session.witness.message())
        if running:
            await self._say(running)

    async def _heartbeats(self) -> None:
        silent_s = 0.0
        while True:
            # In short steps: the server's wish may arrive while the default is being waited out.
            step_s = min(TICK_S, self._session.heartbeat_s)
            await asyncio.sleep(step_s)
            silent_s += step_s
            if silent_s >= self._session.heartbeat_s:
                silent_s = 0.0
                await self._say_in_passing(m.Alive(busy=self._session.busy))

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._handle(i.Tick())

    async def _conditions(self) -> None:
        while True:
            await asyncio.sleep(CONDITION_S)
            self._handle(i.ConditionRead(await asyncio.to_thread(self._gear.condition)))

    async def _acceptances(self) -> None:
        """Look for an operator's word, as long as there is something to accept."""
        while True:
            await asyncio.sleep(ACCEPTANCE_S)
            if self._session.witness.state.contradiction:
                found = await asyncio.to_thread(read_acceptance, self._gear.folder)
                if found:
                    self._handle(i.ContradictionAccepted(found))

    async def _telemetry(self) -> None:
        while True:
            await asyncio.sleep(self._gear.telemetry_s)
            memory = psutil.Process().memory_info().rss
            for message in self._gear.installer.telemetry(len(self._gear.outbox.pending())):
                await self._say(msgspec.structs.replace(message, memory_bytes=memory))

    # --- actions ---------------------------------------------------------------------------------

    def _do(self, actions: list[a.Action]) -> None:
        for action in actions:
            match action:
                case a.CancelTask(round_):
                    if task := self._rounds.pop(round_, None):
                        task.cancel()
                case a.Note(text):
                    log.warning("%s", text)
                case a.NoteStanding(standing):
                    log.info("standing: %s (%s)", standing.participation, standing.reason)
                case a.FetchWeights(task):
                    self._rounds[task.round] = self._background.spawn(self._fetch_weights(action))
                case a.Train(task):
                    self._rounds[task.round] = self._background.spawn(self._train(action))
                case _:
                    self._background.spawn(self._carry_out(action))

    async def _carry_out(self, action: a.Action) -> None:
        match action:
            case a.Say(message):
                await self._say(message)
            case a.MakeProfile(server, fresh):
                self._handle(i.ProfileMade(await self._make_profile(server, fresh=fresh)))
            case a.KeepUpdate(task):
                try:
                    kept = await self._keep(action)
                except OSError as error:  # a full disk among them
                    why = f"the update cannot be kept: {error}"
                    self._handle(i.TaskBroke(task.round, m.DropReason.TRAINING_FAILED, why))
                else:
                    self._handle(i.UpdateKept(kept))
            case a.SendUpdate(update):
                await self._send_update(update)
            case a.SettleUpdate(round_, blob):
                await self._settle(round_, blob)
            case a.Install():
                await self._install(action)
            case a.RemoveModel():
                self._handle(i.InstallDone(await self._gear.installer.remove(action)))
            case a.KeepWitness():
                await self._keep_witness()

    async def _keep_witness(self) -> None:
        async with self._witnessing:  # an older state must not be written over a newer one
            witness = self._session.witness
            try:
                await asyncio.to_thread(write_witness, self._gear.folder, witness.state)
            except OSError as error:  # a full disk among them; what was seen is told all the same
                log.warning("a checkpoint of the server cannot be kept: %s", error)
        await self._say(witness.message())

    async def _make_profile(self, server: m.ServerState, *, fresh: bool) -> m.Profile:
        facts, trainer = self._gear.facts, self._gear.trainer
        benchmark, reason = None, self._session.obstacle
        if trainer:
            try:
                own = self._id.own_model if server.exchange != "weights" else None
                model = own or OwnModel(server.model, server.options)
                benchmark = await trainer.profile(
                    model.model, model.options, server.widths, server.batch_size, fresh=fresh
                )
                if own:  # its costs stand for the fleet's network in what the server works out
                    benchmark = replace(benchmark, model=server.model, spec_hash=server.spec_hash)
                reason = "" if benchmark.costs else "; ".join(benchmark.failures)
            except TrainingFailed as error:
                reason = str(error)
        inference = None
        if self._gear.inference and server.exchange == "weights":
            inference = await self._gear.inference.measure(
                server.model, server.options, server.widths, server.spec_hash, fresh=fresh
            )
        return to_message(
            describe(
                facts,
                benchmark,
                reason=reason,
                condition=self._gear.condition(),
                inference=inference,
                memory_budget=self._id.memory_budget,
                link_bytes_per_s=self._id.link_bytes_per_s,
                emulated=self._id.emulated,
            )
        )

    async def _fetch_weights(self, action: a.FetchWeights) -> None:
        task = action.task
        size, correction, public = task.weights.size, b"", ""
        try:
            data, seconds = await self._download(task.weights, task.key, action.timeout_s)
            if task.correction is not None:
                correction, more = await self._download(
                    task.correction, task.correction_key, action.timeout_s
                )
                size, seconds = size + task.correction.size, seconds + more
            if task.public is not None:
                public, received, more = await self._public_inputs(
                    task.public, task.public_key, action.timeout_s
                )
                size, seconds = size + received, seconds + more
        except BlobError as error:
            self._handle(i.TaskBroke(task.round, m.DropReason.BAD_BYTES, str(error)))
            return
        except OSError as error:  # a full disk among them
            why = f"the public inputs cannot be kept: {error}"
            self._handle(i.TaskBroke(task.round, m.DropReason.TRAINING_FAILED, why))
            return
        self._handle(i.WeightsArrived(task.round, data, size, seconds, correction, public))

    async def _public_inputs(
        self, reference: m.BlobReference, key: bytes, timeout_s: float
    ) -> tuple[str, int, float]:
        """Return the file of the public inputs, and the bytes and seconds that fetching took."""
        check_reference(reference)  # a digest from the network becomes the name of a file
        # What a cancelled task still lets go of must be gone before the next one asks for it.
        async with self._fetching_public:
            path = await asyncio.to_thread(self._public.find, reference.plaintext)
            if path:
                return str(path), 0, 0.0
            data, seconds = await self._download(reference, key, timeout_s)
            path = await asyncio.to_thread(self._public.keep, data)
            return str(path), reference.size, seconds

    async def _download(
        self, reference: m.BlobReference, key: bytes, timeout_s: float
    ) -> tuple[bytes, float]:
        started = asyncio.get_running_loop().time()
        topics = shared_topics(self._id.fleet, reference.blob)
        cipher = await self._fetcher.fetch(reference, topics, timeout_s)
        await self._wait_out(reference.size, started)
        seconds = asyncio.get_running_loop().time() - started
        return unseal(reference, cipher, key), seconds

    async def _wait_out(self, size: int, started: float) -> None:
        """Make a transfer as slow as on the emulated link."""
        if self._id.link_bytes_per_s:
            owed = size / self._id.link_bytes_per_s - (asyncio.get_running_loop().time() - started)
            await asyncio.sleep(max(0.0, owed))

    async def _train(self, action: a.Train) -> None:
        task, trainer = action.task, self._gear.trainer
        assert trainer is not None
        own = self._id.own_model if task.payload != WEIGHTS else None
        request = TrainRequest(
            model=own.model if own else task.model,
            options=own.options if own else task.options,
            spec_hash="" if own else task.spec_hash,
            width=task.width,
            state=action.weights,
            training=task.training,
            seed=task.seed,
            behaviour=self._id.behaviour,
            noise=self._id.noise,
            evaluate=task.evaluate,
            upload=task.upload,
            upload_keep=task.upload_keep,
            correction=action.correction,
            start_seed=task.start_seed,
            never_send=self._id.never_send,
            kept=str(self._gear.folder / KEPT),
            payload=task.payload,
            knowledge_weight=task.knowledge_weight,
            public=action.public,
            digest_steps=task.digest_steps,
        )
        try:
            done = await trainer.train(request, action.timeout_s)
        except TrainingFailed as error:
            self._handle(i.TaskBroke(task.round, error.reason, str(error)))
            return
        self._handle(
            i.TrainingDone(
                task.round,
                done.state,
                done.samples,
                done.steps,
                done.loss,
                done.emulated_s,
                done.evaluations,
                done.upload,
                done.corrected,
            )
        )

    async def _keep(self, action: a.KeepUpdate) -> m.Update:
        task = action.task
        size = self._session.block_size
        payload, encoding = form_of(action.upload)
        if task.payload != WEIGHTS:
            payload = task.payload
        update = m.Update(
            device=self._id.device,
            round=task.round,
            width=task.width,
            model=task.model,
            spec_hash=task.spec_hash,
            blob=reference(action.state, size, digest_of(action.state), encrypted=False),
            samples=action.samples,
            steps=action.steps,
            loss=action.loss,
            download_s=action.download_s,
            train_s=action.train_s,
            evaluations=action.evaluations,
            payload=payload,
            encoding=encoding,
            corrected=action.corrected,
        )
        await asyncio.to_thread(self._gear.outbox.put, update, action.state)
        return update

    async def _send_update(self, update: m.Update) -> None:
        started = asyncio.get_running_loop().time()
        try:
            data = await asyncio.to_thread(self._gear.outbox.data, update.blob.blob)
        except BlobError as error:  # settled meanwhile, or damaged on the disk
            log.warning("not sent: %s", error)
            return
        topics = upload_topics(self._id.fleet, self._id.device, update.blob.blob)
        await self._publisher.publish(self._link, topics, data, update.blob.block_size)
        await self._wait_out(len(data), started)
        await self._say(update)
        self._handle(i.UpdateSent(update.round))

    async def _settle(self, round_: int, blob: str) -> None:
        entry = next((u for u in self._gear.outbox.pending() if u.blob.blob == blob), None)
        if entry:
            topics = upload_topics(self._id.fleet, self._id.device, blob)
            await self._publisher.clear(self._link, topics, entry.blob.blocks)
        if not any(u.round > round_ for u in self._gear.outbox.pending()):
            announcement = UpTopic(self._id.device, DeviceSays.UPDATE)
            await self._link.publish(topic_for(self._id.fleet, announcement), b"", retain=True)
        await asyncio.to_thread(self._gear.outbox.settle, round_, blob)

    async def _install(self, action: a.Install) -> None:
        counter = action.deployment.counter
        await self._say(m.Report(counter=counter, state=m.InstallState.DOWNLOADING))
        assert action.order.blob is not None
        try:
            data, _ = await self._download(action.order.blob, action.order.key, RETRY_S)
        except BlobError as error:
            report = m.Report(
                counter=counter,
                state=m.InstallState.FAILED,
                code=TRY_AGAIN,
                detail=str(error),
            )
        else:
            report = await self._gear.installer.install(action, data, self._say)
        self._handle(i.InstallDone(report))
