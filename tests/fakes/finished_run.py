"""The folder that a server leaves: a journal that names weights, and the weights."""

from pathlib import Path

from journal.blobs import BlobFolder
from journal.events import CampaignStarted, CurvePoint, ModelInitialised, RoundScored
from journal.store import Journal
from slimmable.state import encode_state

SPEC_HASH = "ab" * 32


class FinishedRun:
    """What a server writes into its folder, round by round; close it to leave it at rest."""

    def __init__(
        self, folder: Path, *, model="toy", options=None, spec_hash=SPEC_HASH, settings=None
    ):
        self.folder = folder
        self.journal = Journal.open(folder / "journal")
        self.blobs = BlobFolder(folder / "blobs")
        self.say(
            CampaignStarted(
                fleet="plant",
                model=model,
                options=options or {},
                spec_hash=spec_hash,
                widths=(0.5, 1.0),
                ladder=(0.25, 0.5, 1.0),
                seed=0,
                software="slimfleet 0",
                settings=settings or {},
            )
        )

    def say(self, event):
        self.journal.append([event], 1.0)

    def keep(self, state):
        return self.blobs.put(encode_state(state))

    def initialise(self, state, score=0.05):
        self.say(ModelInitialised(digest=self.keep(state), score=score))

    def finish_round(self, number, state):
        """Note a round whose full width scored 0.2 for each round so far, its half the half."""
        points = ((0.25, number / 20), (0.5, number / 10), (1.0, number / 5))
        self.say(
            RoundScored(
                round=number,
                digest=self.keep(state),
                curve=tuple(
                    CurvePoint(width=w, score=s, low=0.0, high=1.0, offered=True, fitted=s)
                    for w, s in points
                ),
                contributions=(),
                method="exact-shapley",
                value_before=0.0,
                value_after=0.1,
                coalitions=2,
                seconds=0.1,
                better=True,
            )
        )
