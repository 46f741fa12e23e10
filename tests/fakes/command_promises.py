"""What an operator's commands promise, kept apart from the code that keeps it."""

from broker.messages import OperatorAction
from journal import events as e


class CommandPromises:
    """Follows the events of a campaign, and fails where one breaks a promise.

    Attributes:
        paused: whether rounds are.
    """

    def __init__(self):
        self.paused = False
        self._caps = {}
        self._retired = set()
        self._deployed = {}
        self._left = {}  # device -> digests that it was rolled back from

    def check(self, event, state):
        """Look at one event; ``state`` is that of the campaign, after it or later."""
        match event:
            case e.OperatorActed(done=True):
                self._command(event)
            case e.RoundOpened():
                assert not self.paused, "a round opened while rounds were paused"
                for task in event.tasks:
                    assert task.width <= self._caps.get(task.device, 1.0), "wider than its cap"
                    assert task.device not in self._retired, "a retired device was invited"
            case e.DeploymentIssued():
                self._deployment(event, state)

    def _command(self, event):
        match event.action:
            case OperatorAction.PAUSE_ROUNDS | OperatorAction.RESUME_ROUNDS:
                self.paused = event.action is OperatorAction.PAUSE_ROUNDS
            case OperatorAction.CAP_WIDTH:
                self._caps[event.device] = event.width or 1.0
            case OperatorAction.RETIRE:
                self._retired.add(event.device)
            case OperatorAction.RESUME:
                self._retired.discard(event.device)
            case OperatorAction.ROLL_BACK if left := self._deployed.get(event.device):
                self._left.setdefault(event.device, set()).add(left)
            case OperatorAction.ROLL_FORWARD:
                self._left.pop(event.device)

    def _deployment(self, event, state):
        assert event.device not in self._retired, "a retired device was sent a release"
        round_of = {digest: one.manifest.round for digest, (one, _) in state.releases.items()}
        left = {round_of[digest] for digest in self._left.get(event.device, ())}
        if event.commanded:
            assert event.digest, "a command takes no model away"
        elif event.digest:
            assert round_of[event.digest] not in left, "what it was rolled back from came again"
            if left and round_of[event.digest] > max(left):
                del self._left[event.device]
        self._deployed[event.device] = event.digest
