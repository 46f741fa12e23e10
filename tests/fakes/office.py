"""A coordinator without a shell: inputs go in, events come out, and the state is replayed."""

import hashlib

import msgspec

from broker.messages import (
    Birth,
    BlobReference,
    Command,
    InstallState,
    LinkStatus,
    ModelManifest,
    OperatorAction,
    Profile,
    Progress,
    ReferenceHistogram,
    Release,
    Report,
    Stage,
    Update,
    WidthCost,
)
from coordinator import inputs as i
from coordinator.bench import RoundResult
from coordinator.duties import Assess, Export, Initialise, Score, Share, job
from coordinator.evolution import evolve
from coordinator.fleet import Campaign
from coordinator.rounds import decide
from coordinator.settings import Rewards, Rounds, Settings, Training
from journal import events as e
from journal.chain import canonical_bytes

SPEC = "5" * 64
START = 1_800_000_000.0
WIDTHS = (0.25, 0.5, 0.75, 1.0)
LIMIT = 100_000
MIB = 2**20
MEMORY = tuple(
    e.WidthMemory(width=width, inference_bytes=int(40 * width) * MIB) for width in (0.125, *WIDTHS)
)
ONLINE, OFFLINE = e.LinkState.ONLINE, e.LinkState.OFFLINE


def settings(rounds=None, **changes):
    known = {"budget": 3, "minimum": 2, "deadline_s": 10.0, "retry_s": 5.0, "gather_s": 20.0}
    chosen = {
        "fleet": "plant",
        "model": "cnn1d",
        "widths": WIDTHS,
        "training": Training(steps=2),
        "rewards": Rewards(ladder=(0.125, *WIDTHS)),
        "rounds": Rounds(**(known | (rounds or {}))),
    }
    return Settings(**(chosen | changes)).check()


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def profile(widest=1.0, **changes):
    known = {
        "model": "cnn1d",
        "spec_hash": SPEC,
        "batch_size": 32,
        "can_train": True,
        "memory_budget": 1000 * MIB,
        "link_bytes_per_s": 1e9,
        "costs": tuple(
            WidthCost(width=width, step_s=0.1, peak_bytes=MIB)
            for width in WIDTHS
            if width <= widest
        ),
    }
    return Profile(**(known | changes))


def blob(name="update", size=1000, **changes):
    known = {"blob": digest(name), "size": size, "block_size": 4096, "plaintext": digest(name)}
    return BlobReference(**(known | changes))


def manifest(width, number):
    return ModelManifest(
        model="cnn1d",
        width=width,
        spec_hash=SPEC,
        round=number,
        digest=digest(f"onnx {width} {number}"),
        size=10,
        opset=18,
        ir_version=10,
        input_name="x",
        input_shape=(6, 100),
        output_name="y",
        task="classification",
        classes=("a", "b"),
        score=0.7,
        score_data="validation",
        reference=ReferenceHistogram(classes=(1, 1), confidence=(0,) * 10),
        parity=0.0,
    )


def curve(scores=None):
    scores = scores or {0.125: 0.5, 0.25: 0.6, 0.5: 0.7, 0.75: 0.75, 1.0: 0.8}
    return tuple(
        e.CurvePoint(width=width, score=score, low=score, high=score, offered=True, fitted=score)
        for width, score in sorted(scores.items())
    )


def risen(fraction, scores=None, untrained=0.2):
    """The curve of a network that has come this far on the way from the untrained one."""
    return tuple(
        msgspec.structs.replace(
            point, **dict.fromkeys(("score", "low", "high", "fitted"), untrained + fraction * rise)
        )
        for point in curve(scores)
        for rise in [point.score - untrained]
    )


def share_of(wanted):
    """What stands on the broker for a shared blob, with a key that is easy to look for."""
    return Share(blob(str(wanted), encrypted=True), b"KEY-" * 8)


class Office:
    """Decides, commits and evolves, as the shell does, and keeps what was committed.

    Attributes:
        state: of the campaign.
        log: every (event, time) so far, as read back from canonical bytes.
        now: the clock.
    """

    def __init__(self, chosen=None):
        self.settings = chosen or settings()
        self.state = Campaign()
        self.log = []
        self.now = START

    def say(self, given):
        events = decide(self.state, given, self.now)
        for event in events:
            payload = canonical_bytes(event)
            read = msgspec.json.decode(payload, type=e.AnyEvent)
            self.log.append((read, self.now))
            self.state = evolve(self.state, event, self.now)
        return events

    def replayed(self):
        state = Campaign()
        for event, at in self.log:
            state = evolve(state, event, at)
        return state

    def of(self, kind):
        return [event for event, _ in self.log if isinstance(event, kind)]

    def device(self, name):
        return self.state.devices[name]

    # --- shorthand ---------------------------------------------------------------------------

    def start(self):
        return self.say(i.Started(self.settings, SPEC, "test", MEMORY))

    def begin(self, *devices, **widest):
        """Start, initialise, and let devices arrive with their profile."""
        self.start()
        self.say(i.Initialised(digest("round 0"), 0.2))
        for device in devices:
            self.join(device, widest.get(device, 1.0))
        return self

    def join(self, device, widest=1.0, session=1, **changes):
        self.born(device, session)
        self.lease(device)
        return self.profiled(device, profile(widest, **changes))

    def born(self, device, session=1, **changes):
        birth = Birth(status=LinkStatus.ONLINE, session=session, can_train=True, **changes)
        return self.say(i.BirthReceived(device, birth))

    def lease(self, device, link=ONLINE):
        return self.say(i.LeaseChanged(device, link, "heard"))

    def profiled(self, device, given=None):
        sizes = {width: int(1000 * width) for width in WIDTHS}
        return self.say(i.ProfileReceived(device, given or profile(), sizes))

    def wait(self, seconds):
        self.now += seconds
        return self.say(i.Tick())

    def progress(self, device, stage=Stage.ACCEPTED, number=None, **changes):
        number = number or self.state.round.number
        return self.say(i.ProgressReceived(device, Progress(round=number, stage=stage, **changes)))

    def update_of(self, sender, **changes):
        current, owed = self.state.round, self.state.owed.get(sender)
        number = owed.number if owed else current.number
        task = owed.task if owed else current.tasks.get(sender)
        known = {
            "device": sender,
            "round": number,
            "width": task.task.width if task else 1.0,
            "model": "cnn1d",
            "spec_hash": SPEC,
            "blob": blob(f"{sender} {number}"),
            "samples": 10,
            "steps": 2,
            "loss": 1.5,
        }
        return Update(**(known | changes))

    def announced(self, sender, **changes):
        return self.say(i.UpdateAnnounced(sender, self.update_of(sender, **changes), LIMIT))

    def fetched(self, sender, fault=None, **changes):
        update = self.update_of(sender, **changes)
        return self.say(
            i.UpdateFetched(sender, update, LIMIT, digest(f"stored {update.blob.blob}"), fault)
        )

    def scored(self, contributions=None, *, better=True, points=None):
        current = self.state.round
        late = {step.device for step in current.closed.late}
        arrived = sorted({*current.closed.aggregated, *late})
        given = contributions or {}
        return self.say(
            i.Scored(
                current.number,
                RoundResult(
                    digest=digest(f"round {current.number}"),
                    curve=points or curve(),
                    contributions=tuple(
                        e.Contribution(
                            device=device, score=given.get(device, 0.1), update=digest(device)
                        )
                        for device in arrived
                    ),
                    method="permutation-shapley",
                    value_before=-1.0,
                    value_after=-0.5,
                    coalitions=8,
                    seconds=0.1,
                    better=better,
                ),
            )
        )

    def assessed(self, scores=None):
        """Close the open assessment and measure each device, by default as 0.5."""
        if self.state.round.closed is None:
            self._answer()
        given = scores or {}
        return self.say(
            i.Assessed(
                round=self.state.round.number,
                scores=tuple(
                    e.AloneScore(
                        device=device,
                        width=1.0,
                        score=given.get(device, 0.5),
                        low=0.0,
                        high=1.0,
                        update=digest(device),
                    )
                    for device in self.state.round.closed.aggregated
                ),
                seconds=0.1,
            )
        )

    def round_(self, contributions=None, *, without=(), better=True):
        """Take one open round to its score."""
        self._answer(without)
        return self.scored(contributions, better=better)

    def _answer(self, without=()):
        for device in list(self.state.round.tasks):
            if device not in without:
                self.fetched(device)
        if self.state.round.closed is None:
            self.wait(self.state.round.opened.budget_s)

    def exported(self, worse="", widths=None):
        due = job(self.state)
        assert isinstance(due, Export)
        if worse:
            return self.say(i.Exported((), worse))
        made = []
        for width in due.widths if widths is None else widths:
            found = manifest(width, self.state.weights_round)
            release = Release(
                fleet="plant",
                version=self.state.release_version + 1,
                manifest=found,
                created_at=self.now,
                expires_at=self.now + 1e6,
            )
            made.append((release, blob(found.digest, encrypted=True)))
        return self.say(i.Exported(tuple(made)))

    def finish_training(self, contributions=None):
        """Take rounds until training is over and the widths are known."""
        while not isinstance(job(self.state), Export):
            self.round_(contributions)
        return self

    def confirm(self, device, state=InstallState.CONFIRMED, **changes):
        deployed = self.device(device).deployed
        known = {
            "counter": deployed.counter,
            "state": state,
            "running": deployed.digest,
            "width": deployed.width,
        }
        return self.say(i.ReportReceived(device, Report(**(known | changes))))

    def command(
        self, action, device, command_id="c1", operator="ana", reason="maintenance", **changes
    ):
        sizes = {width: int(1000 * width) for width in WIDTHS}
        return self.say(
            i.CommandReceived(
                operator,
                Command(
                    command_id=command_id,
                    action=OperatorAction(action),
                    device=device,
                    reason=reason,
                    **changes,
                ),
                sizes,
            )
        )

    def failed(self, detail="it broke"):
        names = {Initialise: "initialise", Score: "score", Assess: "assess", Export: "export"}
        return self.say(i.JobFailed(names[type(job(self.state))], detail))
