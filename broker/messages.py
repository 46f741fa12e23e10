"""Every message of the protocol, as typed structs.

The rules of evolution: a new field has a default, a field never changes its type or meaning,
unknown fields are ignored when read. `broker.codec` turns them into msgpack and back, and knows
which topic carries which message. Times are seconds since the epoch (UTC) of the sender's clock;
durations are seconds; sizes are bytes; widths are width multipliers in (0, 1].
"""

from enum import StrEnum
from typing import Any

import msgspec

# A manifest also stands in a file, which a program reads that never talks to a broker.
from broker.manifest import InputTensor as InputTensor  # noqa: PLC0414 - for who speaks the protocol
from broker.manifest import ModelManifest as ModelManifest  # noqa: PLC0414
from broker.manifest import ReferenceHistogram as ReferenceHistogram  # noqa: PLC0414


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every message carries.

    Attributes:
        session: counts the sender's starts; a message of an older session than the newest known
            one is stale.
        seq: counts messages within the session, from 1; (sender, session, seq) names a message.
        sent_at: the sender's clock. Shown, never decided on.
    """

    session: int = 0
    seq: int = 0
    sent_at: float = 0.0


class BlobReference(msgspec.Struct, frozen=True, kw_only=True):
    """Where bytes are, and how to know that they are right.

    Attributes:
        blob: SHA-256 of the bytes on the wire (the ciphertext, where encrypted); names the topic.
        size: bytes on the wire.
        block_size: bytes of each block but the last.
        plaintext: SHA-256 of the decoded bytes.
        encrypted: whether a key is needed.
    """

    blob: str
    size: int
    block_size: int
    plaintext: str
    encrypted: bool = False

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.size // self.block_size)


# --- from a device ------------------------------------------------------------------------------


class LinkStatus(StrEnum):
    """Whether a device said that it is there."""

    ONLINE = "online"
    OFFLINE = "offline"


class Birth(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/birth``, retained, also the last will: a device appeared or left.

    Attributes:
        status: online, or offline in the will and on shutdown.
        cause: why offline: "will" or "shutdown".
        agent: version of the agent.
        can_train: torch and the model are installed.
        running: plaintext digest of the model that the device runs now, or "".
        emulated: name of the emulated machine, or "" on a real one.
        witness: the agent keeps checkpoints of the server's journal, and says so in ``up/witness``;
            also in the will and the goodbye.
    """

    status: LinkStatus
    cause: str = ""
    agent: str = ""
    can_train: bool = False
    running: str = ""
    emulated: str = ""
    witness: bool = False


class Alive(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/alive``: a heartbeat; it renews the lease.

    Attributes:
        busy: what the device does now: "idle", "profiling", "training", "transferring".
    """

    busy: str = "idle"


class WidthCost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one training width costs on a device.

    Attributes:
        width: width multiplier.
        step_s: seconds of one training step, emulation included.
        peak_bytes: peak memory of training.
        timed_steps: how many steps were timed; 0 where it was interpolated.
        interpolated: computed from the widths beside it, because the time to measure was over.
    """

    width: float
    step_s: float
    peak_bytes: int
    timed_steps: int = 3
    interpolated: bool = False


class InferenceCost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one ONNX file costs on a device with batch 1 and one thread; never emulated.

    Attributes:
        width: width multiplier of the file.
        form: "float32" or "int8".
        latency_s, latency_p95_s: median and 95th percentile of the seconds of one call.
        load_s: seconds until the file answers for the first time.
        size: bytes of the file.
    """

    width: float
    form: str
    latency_s: float
    latency_p95_s: float
    load_s: float
    size: int


class Profile(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/profile``, retained: what a device can do; the wire form of `profiler.DeviceProfile`.

    Attributes:
        schema: version of this profile.
        model: model id that the costs were measured with; "" where the device cannot train.
        spec_hash: width spec of that model.
        batch_size: batch of the timed steps.
        costs: one entry per width that fitted.
        failures: one line per width that did not, for example "oom at width 1.0".
        can_train: false on an inference-only device.
        reason: why it cannot train.
        memory_budget: bytes that training may use.
        link_bytes_per_s: measured (or emulated) rate of the transfer path.
        samples: training samples on the device (the device's own claim).
        cores, cpu_flags, memory_total, machine, system, python: facts of the machine.
        runtimes: versions, for example {"torch": "2.13.0", "onnxruntime": "1.32.0"}.
        clock_mhz: highest clock of a processor, 0 = unknown; swap_total: bytes.
        container: kind of container that the agent runs in, or "".
        temperature_c: of the hottest sensor, or nil; throttled: why the processor is slowed down,
            or ""; power: "mains", "battery" or ""; disk_free: bytes. All of when the profile was
            made.
        emulated: name of the emulated machine, or "".
        round_trip_s: seconds from a small message to the broker's acknowledgement; 0 = unknown.
        clock_offset_s: the device's clock less the server's, or nil; shown, never decided on.
        inference: one entry per ONNX file that was measured.
        inference_failures: one line per file that could not be, or why there are none.
        answers: the last `ProfileRequest` that this session of the device has followed, or "".
    """

    schema: int = 1
    model: str = ""
    spec_hash: str = ""
    batch_size: int = 0
    costs: tuple[WidthCost, ...] = ()
    failures: tuple[str, ...] = ()
    can_train: bool = False
    reason: str = ""
    memory_budget: int = 0
    link_bytes_per_s: float = 0.0
    samples: int = 0
    cores: int = 0
    cpu_flags: tuple[str, ...] = ()
    memory_total: int = 0
    machine: str = ""
    system: str = ""
    python: str = ""
    runtimes: dict[str, str] = {}
    clock_mhz: float = 0.0
    swap_total: int = 0
    container: str = ""
    temperature_c: float | None = None
    throttled: str = ""
    power: str = ""
    disk_free: int = 0
    emulated: str = ""
    round_trip_s: float = 0.0
    clock_offset_s: float | None = None
    inference: tuple[InferenceCost, ...] = ()
    inference_failures: tuple[str, ...] = ()
    answers: str = ""


class Stage(StrEnum):
    """How far a device is with its task, in order, then the ways it can end badly."""

    ACCEPTED = "accepted"
    STARTED = "started"
    UPLOADED = "uploaded"
    DECLINED = "declined"
    FAILED = "failed"


class DropReason(StrEnum):
    """The closed list of why a device's work did not count in a round."""

    OFFLINE = "offline"
    LATE = "late"
    DECLINED = "declined"
    OUT_OF_MEMORY = "out-of-memory"
    TRAINING_FAILED = "training-failed"
    WRONG_ROUND = "wrong-round"
    WRONG_SPEC = "wrong-spec"
    WRONG_WIDTH = "wrong-width"
    WRONG_SHAPE = "wrong-shape"
    NOT_FINITE = "not-finite"
    BAD_BYTES = "bad-bytes"
    FORGED_ID = "forged-id"
    SUSPENDED = "suspended"
    ROUND_ABANDONED = "round-abandoned"
    SURPLUS = "surplus"


class Progress(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/progress``, retained: how far the device is with the task of ``round``.

    Attributes:
        reason: for declined and failed, from the closed list.
        detail: one line for people.
        downloaded_bytes, download_s, train_s: what was measured so far.
    """

    round: int
    stage: Stage
    reason: DropReason | None = None
    detail: str = ""
    downloaded_bytes: int = 0
    download_s: float = 0.0
    train_s: float = 0.0


class WidthEvaluation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the weights of a task scored at one width on recordings that the device holds back.

    Attributes:
        width: of the sub-model.
        score: the task's score, higher is better; loss: its mean loss.
        samples: how many samples.
    """

    width: float
    score: float
    loss: float
    samples: int


class Update(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/update``, retained until its receipt: the result of a training task.

    Attributes:
        device: must equal the device of the topic.
        round, width, model, spec_hash: must equal the task's.
        payload: what the blob holds: "state-dict", the trained slice, or "change", what training
            changed of its parameters; where the task brought knowledge, the same word.
        encoding: how; "safetensors-f32", of a change "safetensors-float16" and so on, see
            `slimmable.update_codec`.
        blob: the uploaded bytes.
        samples: samples trained on (the device's own claim).
        steps: gradient steps done.
        loss: mean training loss, the device's own claim.
        download_s, train_s: measured durations, emulation included.
        evaluations: where the task asked for them, what the received weights scored at each width
            of the grid up to the task's, on recordings that the device holds back from training.
        corrected: whether the task's correction was added to every gradient.
    """

    device: str
    round: int
    width: float
    model: str
    spec_hash: str
    blob: BlobReference
    payload: str = "state-dict"
    encoding: str = "safetensors-f32"
    samples: int = 0
    steps: int = 0
    loss: float = 0.0
    download_s: float = 0.0
    train_s: float = 0.0
    evaluations: tuple[WidthEvaluation, ...] = ()
    corrected: bool = False


class InstallState(StrEnum):
    """What became of a deployment on the device."""

    DOWNLOADING = "downloading"
    INSTALLED = "installed"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    FAILED = "failed"


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the running model scored on data that the device holds.

    Attributes:
        data: name of the data, for example "own" or "unseen-person".
        score: the task's score, higher is better.
        samples: how many samples.
    """

    data: str
    score: float
    samples: int


class Report(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/report``, retained: what the device really runs. The truth of every rollout.

    Attributes:
        counter: the deployment answered.
        state: how far it came.
        running: plaintext digest of the model that the device runs now, or "".
        installed: digest of the model that was placed on the disk and answered its probe, or "".
        width: width of the running model, 0 where none.
        code: machine-readable reason of a refusal.
        detail: one line for people.
        latency_p50_s, latency_p95_s: of one inference with batch 1.
        load_s: seconds from the file to its first answer, 0 = not measured.
        mean_confidence: over the evaluated samples.
        evaluations: scores on data that the device holds.
    """

    counter: int
    state: InstallState
    running: str = ""
    installed: str = ""
    width: float = 0.0
    code: str = ""
    detail: str = ""
    latency_p50_s: float = 0.0
    latency_p95_s: float = 0.0
    mean_confidence: float = 0.0
    evaluations: tuple[Evaluation, ...] = ()
    load_s: float = 0.0


class Telemetry(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/telemetry``: what inference looked like since the last one.

    Attributes:
        running: plaintext digest of the model.
        inferences: how many samples.
        latency_p50_s, latency_p95_s: per call.
        classes: counts per class.
        confidence: counts per tenth of confidence (10 entries).
        memory_bytes: resident memory of the agent.
        outbox: updates that wait for a receipt.
    """

    running: str = ""
    inferences: int = 0
    latency_p50_s: float = 0.0
    latency_p95_s: float = 0.0
    classes: tuple[int, ...] = ()
    confidence: tuple[int, ...] = ()
    memory_bytes: int = 0
    outbox: int = 0


# --- from the server ----------------------------------------------------------------------------


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The hyper-parameters of a task; see `slimmable.training_rule.TrainingRule`.

    Attributes:
        rule: "ordered-dropout", "sandwich", "own-width", "all-widths" or "widest-and-drawn"; an
            agent that does not know it declines.
        schedule: of the learning rate over the steps of this task, "constant" or "cosine".
        gradient_norm: longer gradients are shortened to this; 0 = none.
        proximal: how strongly weights are drawn back to those of the task; 0 = not.
        masked_loss: whether classes that the device does not have are left out of its loss.
        scaler: whether what a slice's layers give is divided by its width while training.
        private: patterns of tensors that the device keeps to itself: they are not in the weights of
            the task, nor in the update. An agent that does not know them finds tensors missing and
            reports "wrong-spec".
        private_steps: so many steps come first and move only those; 0 = all move together.
    """

    steps: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    widths: tuple[float, ...]
    rule: str = "ordered-dropout"
    random_widths: int = 2
    draw_weights: tuple[float, ...] = ()
    widest_share: float = 0.0
    distillation: float = 0.0
    schedule: str = "constant"
    gradient_norm: float = 0.0
    proximal: float = 0.0
    masked_loss: bool = False
    scaler: bool = False
    private: tuple[str, ...] = ()
    private_steps: int = 0


class Task(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/task``, retained while its update may count: train this width on your own data.

    Attributes:
        round: number of the round, from 1.
        width: the training width.
        model, options, spec_hash: which network; built from code already on the device.
        weights: blob with the slice of this width.
        key: 32 bytes that open the blob; only in the tasks of entitled devices.
        payload, encoding: what the blob holds and how: "state-dict", the slice; or "prototypes",
            "class-scores" or "public-scores", what the devices know of each class or of each public
            sample, for a network of the device's own. An agent that does not know the payload
            declines.
        training: hyper-parameters.
        budget_s: seconds from receipt until the update must have arrived.
        seed: for batch order and width draws.
        evaluate: hold back some recordings from training, and report what the received weights
            score on them.
        upload: encoding of the update, see `slimmable.update_codec`; an agent that does not know it
            sends full precision. upload_keep: of "top-k", share of the changes that travels.
        correction: blob with what is added to each gradient of the parameters, in the shapes of
            this width (SCAFFOLD); correction_key opens it. An agent that does not know it trains
            without, and its update does not say `corrected`.
        start_seed: of the values that private parts, and networks of a device's own, start with.
        knowledge_weight: how strongly the device's network is drawn to what the others know.
        public: of "public-scores", blob with the inputs that all devices score, the same in every
            round; public_key opens it. digest_steps: how many steps the device trains towards what
            the devices know of them, before its own data.
    """

    round: int
    width: float
    model: str
    options: dict[str, Any]
    spec_hash: str
    weights: BlobReference
    key: bytes
    training: TrainingSettings
    budget_s: float
    seed: int
    payload: str = "state-dict"
    encoding: str = "safetensors-f32"
    evaluate: bool = False
    upload: str = "float32"
    upload_keep: float = 0.0
    correction: BlobReference | None = None
    correction_key: bytes = b""
    start_seed: int = 0
    knowledge_weight: float = 0.0
    public: BlobReference | None = None
    public_key: bytes = b""
    digest_steps: int = 0


class Verdict(StrEnum):
    """What became of an update."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


class Receipt(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/receipt``, retained: the server has committed what it did with an update.

    Only this acknowledges an update, never a PUBACK.

    Attributes:
        round, blob: which update.
        verdict: accepted or refused.
        reason, detail: why refused.
    """

    round: int
    blob: str
    verdict: Verdict
    reason: DropReason | None = None
    detail: str = ""


class Participation(StrEnum):
    """Whether a device takes part in training."""

    TAKES_PART = "takes-part"
    WAITING = "waiting"
    CANNOT = "cannot"
    SUSPENDED = "suspended"


class Standing(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/standing``, retained: where a device stands and why; `slimfleet status` reads it.

    Attributes:
        participation: whether it takes part; reason: in one sentence.
        training_width, entitled_width, deployed_width, running_width: 0 where none, each with its
            sentence in ``width_reasons``.
        width_reasons: {"training": ..., "entitled": ..., "deployed": ..., "running": ...}.
        rounds_taken, rounds_missed: so far; last_drop: the last drop reason with its detail.
        contribution: accumulated score; method: how it was measured.
        confirmed: digest that the device confirmed to run.
        local_score: where devices keep networks of their own, what this one's scored on recordings
            that it holds back, as it reported last; local_samples: how many.
        training_cap: widest width that an operator lets it train, 0 where that is not limited; the
            sentence stands in ``width_reasons`` as "cap".
        retired: an operator said that it is gone for good; then ``participation`` is suspended.
    """

    participation: Participation
    reason: str
    training_width: float = 0.0
    entitled_width: float = 0.0
    deployed_width: float = 0.0
    running_width: float = 0.0
    width_reasons: dict[str, str] = {}
    rounds_taken: int = 0
    rounds_missed: int = 0
    last_drop: str = ""
    contribution: float | None = None
    method: str = ""
    confirmed: str = ""
    local_score: float | None = None
    local_samples: int = 0
    training_cap: float = 0.0
    retired: bool = False


class ProfileRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/profile-request``, retained until it is followed: measure yourself anew.

    The device times its widths once it is free, whatever it remembers, and names the request in its
    profile. An agent that does not know the channel does not subscribe to it.

    Attributes:
        request: names it; another one is another request.
    """

    request: str


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One Ed25519 signature (64 bytes) and the id of the key that made it."""

    key_id: str
    signature: bytes


class SignedEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """Exact bytes and who signed them; see `broker.envelope` for how they are verified.

    Attributes:
        kind: "release", "deployment", "checkpoint" or "consistency"; part of what is signed.
        payload: msgpack of the document.
        signatures: at least one by a trusted key.
    """

    kind: str
    payload: bytes
    signatures: tuple[Signature, ...]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One model version at one width, immutable once signed.

    Attributes:
        fleet: the fleet it is for.
        version: counts the fleet's releases of model weights, from 1.
        manifest: the ONNX file.
        created_at, expires_at: server's clock.
    """

    fleet: str
    version: int
    manifest: ModelManifest
    created_at: float
    expires_at: float


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """Which release one device shall run.

    Attributes:
        device: the only device it is for.
        counter: higher than every earlier deployment of this device. A rollback or a lower reward
            is a *higher* counter that names an older digest.
        digest: of the ONNX file; "" takes the model away.
        reason: in one sentence.
        expires_at: server's clock.
    """

    fleet: str
    device: str
    counter: int
    digest: str
    reason: str
    expires_at: float


class DeploymentOrder(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/deployment``, retained: a signed deployment, its signed release, where the bytes are.

    Attributes:
        deployment: envelope of a `Deployment`.
        release: envelope of a `Release`; absent where the deployment takes the model away.
        blob: the encrypted ONNX file.
        key: 32 bytes that open the blob.
    """

    deployment: SignedEnvelope
    release: SignedEnvelope | None = None
    blob: BlobReference | None = None
    key: bytes = b""


class ServerState(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``srv/state``, retained, also the server's will: who serves this fleet and what is trained.

    Attributes:
        status: online or offline.
        model, options, spec_hash: what devices shall profile with.
        widths: the training grid.
        batch_size: of the profile's timed steps.
        heartbeat_s: how often devices shall say that they are alive.
        block_size: for uploads.
        notice: what every participant must know, for example that devices hold their training
            width while training.
        exchange: what travels: "weights", or what networks of the devices' own know; then the
            profile is of the device's own network.
    """

    status: LinkStatus
    model: str = ""
    options: dict[str, Any] = {}
    spec_hash: str = ""
    widths: tuple[float, ...] = ()
    batch_size: int = 0
    heartbeat_s: float = 30.0
    block_size: int = 262144
    notice: str = ""
    exchange: str = "weights"


class DeviceSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the summary."""

    device: str
    link: str
    participation: Participation
    training_width: float = 0.0
    running_width: float = 0.0


class Summary(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``srv/summary``, retained: the fleet at a glance.

    Attributes:
        phase: what the coordinator does now.
        detail: in one sentence.
        round: current or last round; rounds: how many are planned.
        score: of the full width after the last round.
        devices: one line per device, at most 90; more are counted in ``more``.
    """

    phase: str
    detail: str = ""
    round: int = 0
    rounds: int = 0
    score: float | None = None
    online: int = 0
    devices: tuple[DeviceSummary, ...] = ()
    more: int = 0


# --- the audit log ------------------------------------------------------------------------------


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What the server's journal holds at one moment, to be signed; see `journal.merkle`.

    Attributes:
        fleet: whose server it is.
        size: how many records; root: of the Merkle tree over them, 32 bytes.
        signed_at: server's clock; a later checkpoint of a server has a later one.
    """

    fleet: str
    size: int
    root: bytes
    signed_at: float


class ConsistencyProof(msgspec.Struct, frozen=True, kw_only=True):
    """That the tree of ``new_root`` only adds to the tree of ``old_size`` records; signed too.

    The proof needs no signature to be believed. It has one so that a proof that does not hold is
    the server's own word, and nobody else can make a device doubt its server.

    Attributes:
        old_size, new_size: how many records; new_root: of the larger tree, 32 bytes.
        hashes: of RFC 9162, section 2.1.4, 32 bytes each.
    """

    fleet: str
    old_size: int
    new_size: int
    new_root: bytes
    hashes: tuple[bytes, ...]


class SignedCheckpoint(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``srv/checkpoint``, retained: the newest checkpoint of the server's journal.

    Attributes:
        checkpoint: envelope of a `Checkpoint`.
        proofs: envelopes of a `ConsistencyProof` each, from the last few checkpoints to this one: a
            device that was there has nothing to ask.
    """

    checkpoint: SignedEnvelope
    proofs: tuple[SignedEnvelope, ...] = ()


class Proof(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/proof``: the answer to a device that asked for a consistency proof.

    Attributes:
        proof: envelope of a `ConsistencyProof`.
    """

    proof: SignedEnvelope


class ContradictionKind(StrEnum):
    """In what way two checkpoints cannot be of one journal that only grew."""

    SMALLER_TREE = "smaller-tree"
    OTHER_ROOT = "other-root"
    BROKEN_PROOF = "broken-proof"


class Contradiction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Two checkpoints, both signed by the server, of which one must be of a changed journal.

    Attributes:
        kept, seen: envelopes of the earlier and the later `Checkpoint`.
        proof: envelope of the `ConsistencyProof` that does not hold, where there is one.
        noticed_at: the device's clock.
    """

    kind: ContradictionKind
    kept: SignedEnvelope
    seen: SignedEnvelope
    proof: SignedEnvelope | None = None
    noticed_at: float = 0.0


class Witness(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/witness``, retained: which checkpoint the device keeps, and whether another denies it.

    Attributes:
        size, root, signed_at: of the checkpoint that it keeps; size 0 = none yet.
        wants: where above 0, the device asks for the proof from ``size`` to this size.
        contradiction: the evidence, until an operator has accepted it on the device.
        accepted: what the operator wrote who accepted the last one.
    """

    size: int = 0
    root: bytes = b""
    signed_at: float = 0.0
    wants: int = 0
    contradiction: Contradiction | None = None
    accepted: str = ""


# --- operators ----------------------------------------------------------------------------------


class OperatorAction(StrEnum):
    """What an operator may ask for."""

    SUSPEND = "suspend"
    RESUME = "resume"
    PAUSE_ROUNDS = "pause-rounds"
    RESUME_ROUNDS = "resume-rounds"
    CAP_WIDTH = "cap-width"
    ROLL_BACK = "roll-back"
    ROLL_FORWARD = "roll-forward"
    RE_PROFILE = "re-profile"
    NOTE = "note"
    RETIRE = "retire"


FLEET_ACTIONS = frozenset([OperatorAction.PAUSE_ROUNDS, OperatorAction.RESUME_ROUNDS])
"""Those that concern no single device."""


class Command(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``op/<operator>/up/command``: an operator asks for something.

    Attributes:
        command_id: chosen by the operator's tool; a repeated id is answered, not done again.
        action, device: what and with whom; "" for what concerns the whole fleet.
        reason: in the operator's words, kept in the journal; of a note, what it says.
        width: of "cap-width", the widest width of the grid that the device may train; 0 = any.
        on_behalf_of: the person for whom the operator's tool asks, where it serves several; "" =
            the operator.
    """

    command_id: str
    action: OperatorAction
    device: str
    reason: str = ""
    width: float = 0.0
    on_behalf_of: str = ""


class CommandResult(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``op/<operator>/down/result``, retained: the answer to the operator's last command."""

    command_id: str
    done: bool
    detail: str = ""
