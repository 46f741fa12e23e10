"""How far chance in training moves a contribution, read off its rounds. Pure.

Which batches a device draws, and which coalitions are tried, is drawn anew in every round. Early
rounds advance far more than late ones, so rounds are compared by the ratio model (Cochran,
Sampling Techniques, 3rd edition, 1977, section 6.7): in a round that advanced by v a device scores
theta v + e, where e has the variance sigma^2 v. The sum of the scores is then the best estimate of
theta times the sum of v. With T rounds sigma^2 is the sum of (score - theta v)^2 / v over T - 1.
"""

import math
from dataclasses import dataclass, replace

from coordinator.contribution.student import quantile

# With fewer, the test calls everything chance: with three, what is below 3.5 times the noise.
ROUNDS_THAT_TELL = 4


@dataclass(frozen=True)
class RoundNoise:
    """What the noise of one device's account is worked out from; sums over its rounds.

    Attributes:
        rounds: those it took part in and in which anybody advanced.
        scores: sum of its scores; advances: of v; squares: of score^2 / v. None of them decays.
        weight: sum of decay^(2 (T - t)) v n / (n - 1), with n devices in round t. What one of n has
            more of a round the others have less, so that two differ by more than by chance alone.
    """

    rounds: int = 0
    scores: float = 0.0
    advances: float = 0.0
    squares: float = 0.0
    weight: float = 0.0

    def entered(self, score: float, advance: float, devices: int) -> "RoundNoise":
        """Return the sums after a round.

        Args:
            score: of the device.
            advance: sum of the scores above 0 of all. Harm is no part of it: it would make
                everybody else's noise look large.
            devices: how many took part.
        """
        size = max(advance, abs(score))  # a score is a part of its round
        if size == 0 or not (math.isfinite(score) and math.isfinite(advance)):
            return self
        return RoundNoise(
            rounds=self.rounds + 1,
            scores=self.scores + score,
            advances=self.advances + size,
            squares=self.squares + score * (score / size),
            weight=self.weight + size * devices / max(1, devices - 1),
        )

    def decayed(self, decay: float) -> "RoundNoise":
        """Return the sums when every round so far counts for less."""
        return replace(self, weight=decay**2 * self.weight)

    def scaled(self, times: float) -> "RoundNoise":
        """Return the sums if the device had scored so many times as much in the same rounds."""
        return replace(self, scores=times * self.scores, squares=times**2 * self.squares)

    def difference(self, level: float) -> float:
        """Return how far chance sets this account apart from one that gives as much.

        Two that give alike vary alike, so the noise is that of this account alone, which must be
        the one with the higher score. What the other one varies by must not count, or a device
        that gives little could make itself hard to tell from one that gives much, by giving only
        now and then.

        Args:
            level: how often two equal devices may be told apart by chance, in (0, 1).

        Returns:
            a difference of accounts; minus infinity where the rounds are too few to tell.
        """
        if self.rounds < ROUNDS_THAT_TELL:
            return -math.inf
        freedom = self.rounds - 1
        left = max(0.0, self.squares - self.scores * (self.scores / self.advances))
        return quantile(freedom, level) * math.sqrt(2 * left / freedom * self.weight)
