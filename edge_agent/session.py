"""What the device does with each message: a state machine over values. Pure; the clock is given.

`AgentSession.handle(input, now)` returns actions for the shell (`edge_agent.agent`), which does
them and hands the outcome back as the next input. One task is worked on at a time; whatever the
server said last, retained, is repeated after every connect, so every answer may be asked for again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from broker import messages as m
from broker.codec import BLOCK_LIMIT
from broker.decoding import decode_struct
from broker.envelope import Verifier
from broker.errors import DecodeError, ReleaseError
from edge_agent.actions import (
    Action,
    CancelTask,
    FetchWeights,
    Install,
    KeepUpdate,
    MakeProfile,
    NoteStanding,
    RemoveModel,
    Say,
    SendUpdate,
    SettleUpdate,
    Train,
)
from edge_agent.clock_meter import ClockMeter
from edge_agent.condition_watch import worth_telling
from edge_agent.inputs import (
    Acknowledged,
    ConditionRead,
    ContradictionAccepted,
    InstallDone,
    ProfileMade,
    ServerSaid,
    SessionInput,
    TaskBroke,
    Tick,
    TrainingDone,
    UpdateKept,
    UpdateSent,
    WeightsArrived,
)
from edge_agent.link_meter import LinkMeter
from edge_agent.load_watch import LoadWatch
from edge_agent.profile_message import expected_training_s
from edge_agent.witness import Witness
from profiler.profile import Condition

RETRY_S = 60.0
# `Tick` cancels a late training and leaves its process alive; these are for one that hangs.
PATIENCE = 2.0
GRACE_S = 30.0
DEFAULT_HEARTBEAT_S = 30.0
SHORTEST_HEARTBEAT_S = 0.1
DAY_S = 86400.0
DEFAULT_BLOCK_SIZE = 65536
SMALLEST_BLOCK = 1024
SEND_AGAIN_S = 15.0  # without a receipt after a reconnect: the broker may have forgotten the blocks
TRY_AGAIN = "try-again"
# That it can work on.
PAYLOADS = frozenset({"state-dict", "prototypes", "class-scores", "public-scores"})


@dataclass(frozen=True)
class Work:
    """The task being worked on.

    Attributes:
        deadline: device time after which the update would be late.
        downloaded_bytes, download_s: measured.
    """

    task: m.Task
    deadline: float
    downloaded_bytes: int = 0
    download_s: float = 0.0


@dataclass(frozen=True)
class Installed:
    """What the slots say when the agent starts.

    Attributes:
        counter: of the last deployment decided on; digest: what it named.
        report: what the device reports about it.
    """

    counter: int = 0
    digest: str = ""
    report: m.Report | None = None


class AgentSession:
    """One device's side of the protocol."""

    def __init__(
        self,
        device: str,
        verifier: Verifier,
        *,
        can_train: bool,
        reason: str = "",
        pending: Mapping[int, m.Update] | None = None,
        installed: Installed | None = None,
        witness: Witness | None = None,
    ) -> None:
        """Start a session from what is on the device's disk.

        Args:
            device: id.
            verifier: holds every rule by which releases are trusted.
            can_train: torch and data are there.
            reason: why it cannot train.
            pending: updates in the outbox that have no receipt, by round.
            installed: what runs.
            witness: what it knows of the server's journal; None = nothing yet.
        """
        self.witness = witness or Witness(device, verifier)
        self._device = device
        self._verifier = verifier
        self._can_train = can_train
        self._reason = reason
        self._server: m.ServerState | None = None
        self._profile: m.Profile | None = None
        self._meter = LinkMeter()
        self._clocks = ClockMeter()
        self._load = LoadWatch()
        self._profiling = False
        self._measured = False  # at least once in this session
        self._requested = ""  # to measure itself anew, once it is free
        self._following = ""  # that request, while it measures
        self._followed = ""
        self._work: Work | None = None
        self._waiting: m.Task | None = None
        self._pending = dict(pending or {})
        self._sending: set[int] = set()
        self._sent: set[int] = set()
        self._unsure: set[int] = set()
        self._send_again_at: float | None = None
        self._ended: dict[int, m.Progress] = {}
        self._installed = installed or Installed()
        self._installing: tuple[int, str] | None = None
        self._retry: tuple[float, m.DeploymentOrder] | None = None
        self.standing: m.Standing | None = None

    @property
    def busy(self) -> str:
        """What the heartbeat says."""
        if self._work:
            return "training"
        if self._profiling:
            return "profiling"
        return "transferring" if self._sending else "idle"

    @property
    def obstacle(self) -> str:
        """Why the device cannot train, or ""."""
        return self._reason

    @property
    def heartbeat_s(self) -> float:
        """How often the server wants a sign of life."""
        wanted = self._server.heartbeat_s if self._server else DEFAULT_HEARTBEAT_S
        return wanted if SHORTEST_HEARTBEAT_S <= wanted <= DAY_S else DEFAULT_HEARTBEAT_S

    @property
    def block_size(self) -> int:
        """Bytes per uploaded block."""
        wanted = self._server.block_size if self._server else DEFAULT_BLOCK_SIZE
        return wanted if SMALLEST_BLOCK <= wanted <= BLOCK_LIMIT else DEFAULT_BLOCK_SIZE

    def connected(self) -> list[Action]:
        """Return what to repeat after every connect.

        That is the profile and the updates that have no receipt. The blocks of an update do not
        travel again at once: what is under way goes on in the link, and the broker retains the
        others. A broker that was killed may have forgotten them; then no receipt comes, and a
        later `Tick` sends all of them.
        """
        repeated: list[Action] = [Say(self._profile)] if self._profile else []
        self._unsure, self._send_again_at = set(self._pending), None
        for round_, update in self._pending.items():
            if round_ in self._sent:
                repeated.append(Say(update))
            elif round_ not in self._sending:
                repeated.append(self._send(update))
        return repeated

    def handle(self, given: SessionInput, now: float) -> list[Action]:
        """Return what to do about an input at device time ``now`` (seconds, UTC)."""
        return [*self._answer(given, now), *self._follow_request()]

    def _answer(self, given: SessionInput, now: float) -> list[Action]:
        match given:
            case ServerSaid(message, live):
                if live and message is not None:
                    self._clocks = self._clocks.heard(message.sent_at, now)
                return [*self._heard(message, now), *self._news()]
            case Acknowledged(seconds):
                self._clocks = self._clocks.acknowledged(seconds)
                return self._news()
            case ProfileMade(profile):
                return self._profiled(profile, now)
            case ConditionRead(condition):
                return self._condition(condition)
            case WeightsArrived():
                return self._weights(given, now)
            case TaskBroke(round_, reason, detail):
                return self._broke(round_, reason, detail)
            case TrainingDone():
                return self._trained(given)
            case UpdateKept(update):
                return self._kept(update)
            case UpdateSent(round_):
                self._sending.discard(round_)
                if round_ not in self._pending:
                    return []
                self._sent.add(round_)
                return [Say(m.Progress(round=round_, stage=m.Stage.UPLOADED))]
            case InstallDone(report):
                return self._install_done(report)
            case ContradictionAccepted(acceptance):
                return self.witness.accept(acceptance, now)
            case Tick():
                return [*self._tick(now), *self.witness.tick(now)]

    # --- the server said ------------------------------------------------------------------------

    def _heard(self, message: m.Message | None, now: float) -> list[Action]:
        match message:
            case m.ServerState():
                return self._server_state(message)
            case m.Task():
                return self._task(message, now)
            case m.Receipt():
                return self._receipt(message)
            case m.Standing():
                before, self.standing = self.standing, message
                if before and (before.participation, before.reason) == (
                    message.participation,
                    message.reason,
                ):
                    return []
                return [NoteStanding(message)]
            case m.DeploymentOrder():
                return self._deployment(message, now)
            case m.ProfileRequest():
                return self._asked(message)
            case m.SignedCheckpoint():
                return self.witness.heard(message, now)
            case m.Proof():
                return self.witness.answered(message, now)
        return []

    def _server_state(self, server: m.ServerState) -> list[Action]:
        if server.status is m.LinkStatus.OFFLINE:
            return []
        before, self._server = self._server, server
        if before and self._profile and _same_model(before, server):
            return []
        if self._profile and self._profile_fits(server):
            return [Say(self._profile)]
        if not self._can_train:
            self._profile = m.Profile(can_train=False, reason=self._reason)
            return [MakeProfile(server)]
        if self._profiling:
            return []
        self._profiling = True
        return [MakeProfile(server)]

    def _asked(self, message: m.ProfileRequest) -> list[Action]:
        if message.request == self._followed:  # repeated after a connect
            return [Say(self._profile)] if self._profile else []
        if message.request != self._following:
            self._requested = message.request
        return []

    def _follow_request(self) -> list[Action]:
        """Begin to measure anew where that was asked for, once nothing disturbs it."""
        free = self._measured and not (self._profiling or self._work)
        if not self._requested or not free or self._server is None:
            return []
        self._requested, self._following = "", self._requested
        self._profiling = True
        return [MakeProfile(self._server, fresh=True)]

    def _profile_fits(self, server: m.ServerState) -> bool:
        known = self._profile
        return bool(
            known
            and (known.model, known.spec_hash, known.batch_size)
            == (server.model, server.spec_hash, server.batch_size)
        )

    def _profiled(self, profile: m.Profile, now: float) -> list[Action]:
        self._profiling, self._measured = False, True
        self._load = LoadWatch()
        self._profile = profile = self._with_link(profile)
        if self._server and profile.can_train and not self._profile_fits(self._server):
            self._profiling = True
            return [Say(profile), MakeProfile(self._server, fresh=bool(self._following))]
        if self._following:
            self._followed, self._following = self._following, ""
        if self._followed:
            self._profile = profile = msgspec.structs.replace(profile, answers=self._followed)
        actions: list[Action] = [Say(profile)]
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            actions += self._task(waiting, now)
        return actions

    def _task(self, task: m.Task, now: float) -> list[Action]:
        if self._work and self._work.task.round >= task.round:
            return []
        if task.round in self._ended:
            return [Say(self._ended[task.round])]
        if task.round in self._pending:
            if task.round in self._sending:
                return []
            update = self._pending[task.round]
            return [Say(update) if task.round in self._sent else self._send(update)]
        if not self._can_train:
            return [Say(self._decline(task.round, self._reason))]
        if task.payload not in PAYLOADS:
            why = f"the task holds {task.payload[:32]!r}, which this agent does not know: update it"
            return [Say(self._decline(task.round, why))]
        if self._profiling:
            self._waiting = task
            return []
        actions: list[Action] = []
        if self._work:
            actions.append(CancelTask(self._work.task.round))
        self._work = Work(task, now + task.budget_s)
        return [
            *actions,
            Say(m.Progress(round=task.round, stage=m.Stage.ACCEPTED)),
            FetchWeights(task, task.budget_s),
        ]

    def _with_link(self, profile: m.Profile) -> m.Profile:
        """Return a profile with what link and clocks are like; an emulated one has its own."""
        if profile.emulated:
            return profile
        return msgspec.structs.replace(
            profile,
            link_bytes_per_s=self._meter.rate or profile.link_bytes_per_s,
            round_trip_s=self._clocks.round_trip_s,
            clock_offset_s=self._clocks.offset_s,
        )

    def _news(self) -> list[Action]:
        """Tell the server how fast the link is and how far the clock off, where that is news."""
        profile = self._profile
        if profile is None or profile.emulated:
            return []
        rate = self._meter.worth_telling(profile.link_bytes_per_s)
        if not rate and not self._clocks.worth_telling(profile.clock_offset_s):
            return []
        self._profile = self._with_link(profile)
        return [Say(self._profile)]

    def _condition(self, condition: Condition) -> list[Action]:
        """Tell the server how hot the machine is, and whether it is held back, if that is news."""
        profile = self._profile
        if profile is None or self._profiling or not worth_telling(profile, condition):
            return []
        self._profile = msgspec.structs.replace(profile, **asdict(condition))
        return [Say(self._profile)]

    def _decline(self, round_: int, why: str) -> m.Progress:
        progress = m.Progress(
            round=round_, stage=m.Stage.DECLINED, reason=m.DropReason.DECLINED, detail=why
        )
        self._ended[round_] = progress
        return progress

    def _receipt(self, receipt: m.Receipt) -> list[Action]:
        pending = self._pending.get(receipt.round)
        if pending is None or pending.blob.blob != receipt.blob:
            return []
        del self._pending[receipt.round]
        for rounds in (self._sending, self._sent, self._unsure):
            rounds.discard(receipt.round)
        return [SettleUpdate(receipt.round, receipt.blob)]

    # --- training -------------------------------------------------------------------------------

    def _weights(self, given: WeightsArrived, now: float) -> list[Action]:
        work = self._work
        if work is None or work.task.round != given.round:
            return []
        self._work = replace(
            work, downloaded_bytes=given.downloaded_bytes, download_s=given.download_s
        )
        self._meter = self._meter.after(given.downloaded_bytes, given.download_s)
        return [
            *self._news(),
            Say(
                m.Progress(
                    round=given.round,
                    stage=m.Stage.STARTED,
                    downloaded_bytes=given.downloaded_bytes,
                    download_s=given.download_s,
                )
            ),
            Train(
                work.task,
                given.data,
                PATIENCE * max(1.0, work.deadline - now) + GRACE_S,
                given.correction,
                given.public,
            ),
        ]

    def _trained(self, given: TrainingDone) -> list[Action]:
        work = self._work
        if work is None or work.task.round != given.round:
            return []
        return [
            KeepUpdate(
                work.task,
                given.state,
                given.samples,
                given.steps,
                given.loss,
                work.download_s,
                given.train_s,
                given.evaluations,
                given.upload,
                given.corrected,
            ),
            *self._watch_load(work.task, given),
        ]

    def _watch_load(self, task: m.Task, given: TrainingDone) -> list[Action]:
        """Measure the device anew where its trainings take another time than they did."""
        if self._profile is None or task.evaluate:  # measuring the weights takes time too
            return []
        expected = expected_training_s(self._profile, task, given.steps)
        self._load = self._load.after(expected, given.train_s)
        if not self._load.changed or self._profiling or self._server is None:
            return []
        self._profiling = True
        return [MakeProfile(self._server)]

    def _kept(self, update: m.Update) -> list[Action]:
        if self._work and self._work.task.round == update.round:
            self._work = None
        self._pending[update.round] = update
        return [self._send(update)]

    def _send(self, update: m.Update) -> Action:
        self._sending.add(update.round)
        return SendUpdate(update)

    def _sent_in_vain(self, now: float) -> list[Action]:
        """Send again, once after a connect, what has had no receipt for a while."""
        if not self._unsure:
            return []
        if self._send_again_at is None:
            self._send_again_at = now + SEND_AGAIN_S
        if now < self._send_again_at:
            return []
        forgotten, self._unsure = self._unsure & self._sent, set()
        self._sent -= forgotten
        return [self._send(self._pending[round_]) for round_ in sorted(forgotten)]

    def _broke(self, round_: int, reason: m.DropReason, detail: str) -> list[Action]:
        if self._work is None or self._work.task.round != round_:
            return []
        self._work = None
        progress = m.Progress(round=round_, stage=m.Stage.FAILED, reason=reason, detail=detail)
        self._ended[round_] = progress
        return [Say(progress)]

    def _tick(self, now: float) -> list[Action]:
        if self._retry and not self._installing and now >= self._retry[0]:
            (_, order), self._retry = self._retry, None
            return self._deployment(order, now)
        if again := self._sent_in_vain(now):
            return again
        work = self._work
        if work is None or now < work.deadline:
            return []
        round_ = work.task.round
        broken = self._broke(round_, m.DropReason.LATE, f"not done within {work.task.budget_s:g} s")
        return [CancelTask(round_), *broken]

    # --- releases -------------------------------------------------------------------------------

    def _deployment(self, order: m.DeploymentOrder, now: float) -> list[Action]:
        installed = self._installed
        try:
            verified = self._verifier.order(order, now, installed.counter, installed.digest)
        except ReleaseError as error:
            # An older or forged order must not hide what the device answered about the real one.
            return [Say(self._refusal(error, order))]
        deployment = verified.deployment
        if self._installing and deployment.counter <= self._installing[0]:
            return []
        if deployment.counter == installed.counter and installed.report:
            return [Say(installed.report)]
        if order.blob is not None and order.blob.encrypted and not order.key:
            # The server has had an answer and shares the blob no more. The device has lost it.
            if self._retry:
                return []
            return [Say(m.Report(counter=deployment.counter, state=m.InstallState.DOWNLOADING))]
        self._installing = (deployment.counter, deployment.digest)
        self._retry = (now + RETRY_S, order)
        if verified.release is None:
            return [RemoveModel(deployment)]
        return [Install(deployment, verified.release, order)]

    def _refusal(self, error: ReleaseError, order: m.DeploymentOrder) -> m.Report:
        known = self._installed.report
        claimed = _claimed_counter(order)
        return m.Report(
            # A forged repeat of the deployment in force must not unsay that it was confirmed.
            counter=0 if claimed == self._installed.counter else claimed,
            state=m.InstallState.REFUSED,
            running=known.running if known else "",
            width=known.width if known else 0.0,
            code=error.code,
            detail=str(error),
        )

    def _install_done(self, report: m.Report) -> list[Action]:
        named = self._installing
        if report.counter < self._installed.counter:
            return []  # what became of a newer one was said already, and is what counts
        if named and report.counter == named[0]:
            self._installing = None
            if not tries_again(report.code):
                self._retry = None
                self._installed = Installed(*named, report)
        return [Say(report)]


def tries_again(code: str) -> bool:
    """Return whether a failure passes by itself; the cause may follow, as "try-again:killed"."""
    return code.partition(":")[0] == TRY_AGAIN


def _claimed_counter(order: m.DeploymentOrder) -> int:
    try:
        return decode_struct(order.deployment.payload, m.Deployment).counter
    except DecodeError:
        return 0


def _same_model(one: m.ServerState, other: m.ServerState) -> bool:
    def key(state: m.ServerState) -> Any:
        trained = state.model, state.options, state.spec_hash, state.exchange
        return *trained, state.widths, state.batch_size

    return bool(key(one) == key(other))
