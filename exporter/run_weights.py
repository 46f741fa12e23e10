"""Take the weights of a finished round out of a coordinator's folder, beside a running server too.

Nothing is written there. The journal says which blob holds the weights of a round and what each
width scored; its chain is checked, as the server checks it before it goes on from it.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.messages import ModelManifest
from exporter.errors import ExportError
from journal import events as e
from journal.blobs import BlobFolder
from journal.chain import verify
from journal.errors import BlobMissingError, DamagedFileError
from journal.reader import DATABASE, JournalReader
from slimmable.state import ModelState, StateError, decode_state

JOURNAL, BLOBS = "journal", "blobs"
ATTEMPTS = 3  # a running server may finish a round, and drop the weights before it, while we read
# People name the folder of server.toml, or of a demo, rather than the `folder` in it.
BELOW = ("", "data", "server/data")


class RunError(ExportError):
    """A run does not hold what was asked for. Choose what the message offers."""


class WeightsGoneError(RunError):
    """The server no longer keeps the weights of that round. Choose another round."""


@dataclass(frozen=True)
class RunWeights:
    """The full-width weights of one round, and what the run says about them.

    Attributes:
        fleet: its name.
        model, options: which network, see `slimmable.model.load_model`.
        spec_hash: of the width spec that it was trained with.
        widths: the training grid and the widths of the rewards: all that were measured.
        grid: the training grid alone.
        round: of the weights; 0 are the initial ones.
        state: full-width state dict; its statistics are those of the full width.
        scores: width -> score that the server measured.
        scale: expected preprocessing in one line, as the run's releases say; "" where none does.
    """

    fleet: str
    model: str
    options: Mapping[str, Any]
    spec_hash: str
    widths: tuple[float, ...]
    grid: tuple[float, ...]
    round: int
    state: ModelState
    scores: Mapping[float, float]
    scale: str


def read_run(folder: Path, number: int | None = None) -> RunWeights:
    """Read the weights of a round.

    Args:
        folder: of the server: ``folder`` in ``server.toml``.
        number: of the round; the last finished one where None.

    Raises:
        RunError: no such round, or its weights are no longer kept; the message lists what there is.
        JournalError: the journal is damaged or of another version.
    """
    place = _server_folder(folder)
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(WeightsGoneError):
            return _read_round(place, number)
    return _read_round(place, number)


def _read_round(place: Path, number: int | None) -> RunWeights:
    history = _read_history(JournalReader(place / JOURNAL))
    chosen = _chosen(history, number, place)
    return _as_weights(history, chosen, _read_state(place, history, chosen))


@dataclass
class _History:
    """What the journal says, as far as weights are concerned."""

    started: e.CampaignStarted | None = None
    digests: dict[int, str] = field(default_factory=dict)
    scores: dict[int, dict[float, float]] = field(default_factory=dict)
    manifests: list[ModelManifest] = field(default_factory=list)

    @property
    def devices_measure(self) -> bool:
        """Whether scores are reports of devices, on weights that a round started from."""
        settings = self.started.settings if self.started else {}
        return bool(settings.get("contributions", {}).get("evaluator") == "devices")

    def note(self, event: e.AnyEvent) -> None:
        """Take in what an event says about weights."""
        match event:
            case e.CampaignStarted():
                self.started = event
            case e.ModelInitialised():
                self.digests[0] = event.digest
                if not self.devices_measure:
                    self.scores[0] = {1.0: event.score}
            case e.RoundScored():
                self.digests[event.round] = event.digest
                if not self.devices_measure:  # or the curve is about an earlier round's weights
                    self.scores[event.round] = {point.width: point.score for point in event.curve}
            case e.ReleaseBuilt():
                self.manifests.append(event.release.manifest)


def _server_folder(folder: Path) -> Path:
    for below in BELOW:
        if (folder / below / JOURNAL / DATABASE).is_file():
            return folder / below
    raise RunError(
        f"{folder} holds no journal; name the data folder of a server, `folder` in server.toml"
    )


def _read_history(reader: JournalReader) -> _History:
    noted = reader.head()
    records = list(reader.records())
    verify(records, noted)
    history = _History()
    for record in records:
        history.note(record.event)
    return history


def _chosen(history: _History, number: int | None, folder: Path) -> int:
    if history.started is None or not history.digests:
        raise RunError(f"the run in {folder} has no weights yet; wait for its first round")
    if number is None:
        return max(history.digests)
    if number not in history.digests:
        raise RunError(
            f"the run in {folder} has no finished round {number}; there are"
            f" {_listed(history.digests)}"
        )
    return number


def _read_state(place: Path, history: _History, number: int) -> ModelState:
    digest = history.digests[number]
    if not (place / BLOBS).is_dir():  # opening it would make it
        raise RunError(f"{place} has a journal and no folder {BLOBS!r}; name the whole folder")
    try:
        return decode_state(BlobFolder(place / BLOBS, owner=False).get(digest))
    except BlobMissingError as error:
        raise WeightsGoneError(
            f"the weights of round {number} are no longer in {place / BLOBS}: a server keeps those"
            f" in use, the best and the released ones; here: {_listed(_kept(place, history))}"
        ) from error
    except (DamagedFileError, StateError) as error:
        raise RunError(f"the weights of round {number} are damaged: {error}") from error


def _kept(place: Path, history: _History) -> list[int]:
    blobs = BlobFolder(place / BLOBS, owner=False)
    return [number for number, digest in history.digests.items() if blobs.has(digest)]


def _as_weights(history: _History, number: int, state: ModelState) -> RunWeights:
    started = history.started
    assert started is not None
    scales = [m.scale for m in history.manifests if m.round == number and m.scale]
    return RunWeights(
        fleet=started.fleet,
        model=started.model,
        options=started.options,
        spec_hash=started.spec_hash,
        widths=tuple(sorted({*started.widths, *started.ladder})),
        grid=started.widths,
        round=number,
        state=state,
        scores=history.scores.get(number, {}),
        scale=scales[-1] if scales else "",
    )


def _listed(rounds: "list[int] | Mapping[int, str]") -> str:
    """Return round numbers in words, runs of them shortened: "rounds 0, 3 to 7"."""
    ranges: list[list[int]] = []
    for number in sorted(rounds):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    parts = [str(r[0]) if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in ranges]
    return f"rounds {', '.join(parts)}" if parts else "none"
