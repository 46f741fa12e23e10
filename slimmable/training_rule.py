"""How a slimmable network is trained: which widths a step takes, and how large a step is. No torch.

Five rules choose the widths of a step:

* own width (HeteroFL, Diao et al., ICLR 2021; FedRolex, Alam et al., NeurIPS 2022): the training
  width and no other;
* ordered dropout (Horvath et al., FjORD, NeurIPS 2021): one width, drawn at random;
* widest and drawn (FjORD, section 3.3, for self-distillation): the training width and one drawn at
  random from those inside it, on the same batch;
* sandwich (Yu and Huang, US-Nets, ICCV 2019, section 3.2): the widest, the narrowest and some drawn
  from those between, on the same batch;
* all widths (SHeteroFL, in the repository of Split-Mix, Hong et al., ICLR 2022): every width of the
  grid inside the training width, on the same batch.

Where a step takes several widths their losses are averaged; the papers sum them. So one learning
rate suits all rules.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class WidthRule(StrEnum):
    """How the widths of a step are chosen."""

    ORDERED_DROPOUT = "ordered-dropout"
    WIDEST_AND_DRAWN = "widest-and-drawn"
    SANDWICH = "sandwich"
    OWN_WIDTH = "own-width"
    ALL_WIDTHS = "all-widths"


class Schedule(StrEnum):
    """How the learning rate goes on after the warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"


@dataclass(frozen=True)
class TrainingRule:
    """How a network is trained.

    Attributes:
        steps: gradient steps.
        batch_size: samples a step.
        learning_rate: of SGD with momentum; the highest one where a schedule changes it.
        momentum: 0 to below 1.
        weight_decay: L2 factor.
        widths: the training grid; a step takes from those inside the training width.
        rule: how a step's widths are chosen.
        random_widths: of the sandwich rule, how many besides the widest and the narrowest; where
            fewer lie between them, all.
        draw_weights: of ordered dropout, how often each of ``widths`` is drawn in proportion to the
            others; empty for equally often.
        widest_share: of ordered dropout, share of the steps that take the widest width inside the
            training width; the others take the narrower ones equally often. 0 = all are drawn
            equally often. Draw weights, where they are given, decide alone.
        distillation: how much of the loss of a narrower slice is its distance from the widest one
            of the step, 0 (none) to 1 (it never sees a target); see `slimmable.distillation`.
        schedule: of the learning rate.
        warm_up: steps in which the learning rate rises linearly to its highest.
        gradient_norm: a longer gradient is shortened to this Euclidean length (Pascanu et al., On
            the difficulty of training recurrent neural networks, ICML 2013); 0 = never.
        proximal: mu, how strongly weights are drawn back to those that training started from (Li et
            al., FedProx, "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation
            2); 0 = not.
        masked_loss: whether outputs for classes that the samples do not have are set to 0 in the
            loss, so that training does not push them down (HeteroFL, Diao et al., ICLR 2021,
            section 3, "masked cross-entropy"). Only classification has classes.
        scaler: whether what a slice's layers give is divided by its width while training; see
            `slimmable.scaler`.
        private: patterns of the tensors that a device keeps to itself, see
            `slimmable.private_parts`.
        private_steps: so many of the steps come first and move only what is private, the others
            only the rest (FedRep, Collins et al., "Exploiting Shared Representations for
            Personalized Federated Learning", ICML 2021, algorithm 1); 0 = all move together.
    """

    steps: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    widths: tuple[float, ...]
    rule: WidthRule = WidthRule.ORDERED_DROPOUT
    random_widths: int = 2
    draw_weights: tuple[float, ...] = ()
    widest_share: float = 0.0
    distillation: float = 0.0
    schedule: Schedule = Schedule.CONSTANT
    warm_up: int = 0
    gradient_norm: float = 0.0
    proximal: float = 0.0
    masked_loss: bool = False
    scaler: bool = False
    private: tuple[str, ...] = ()
    private_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that no training can use.

        Raises:
            ValueError: the message names the number.
        """
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"{self.steps} steps of {self.batch_size} samples: both must be at least 1"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning rate {self.learning_rate} must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} must be from 0 to below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight decay {self.weight_decay} must be at least 0")
        if not 0 <= self.gradient_norm < math.inf:
            raise ValueError(f"gradient norm {self.gradient_norm} must be at least 0")
        if not 0 <= self.proximal < math.inf:
            raise ValueError(f"proximal {self.proximal} must be at least 0")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation {self.distillation} must be from 0 to 1")
        if self.random_widths < 0:
            raise ValueError(f"{self.random_widths} random widths must be at least 0")
        if not 0 <= self.warm_up < self.steps:
            raise ValueError(
                f"warm-up of {self.warm_up} steps must be at least 0 and below all {self.steps}"
            )
        if self.private_steps and not (self.private and 0 < self.private_steps < self.steps):
            raise ValueError(
                f"{self.private_steps} private steps must be from 0 to below all {self.steps}, and"
                " 0 where nothing is private"
            )
        # Names are taken too, so that a configuration may be handed over as it was read.
        object.__setattr__(self, "rule", WidthRule(self.rule))
        object.__setattr__(self, "schedule", Schedule(self.schedule))
        self._check_draw_weights()
        if not 0 <= self.widest_share < 1:
            raise ValueError(f"widest share {self.widest_share} must be at least 0 and below 1")

    def _check_draw_weights(self) -> None:
        weights = self.draw_weights
        if not weights:
            return
        if self.rule is not WidthRule.ORDERED_DROPOUT:
            raise ValueError(f"draw weights {list(weights)} must be left out with {self.rule}")
        # The training width may be the narrowest of the grid, so that each weight may be alone.
        if len(weights) != len(self.widths) or not all(0 < one < math.inf for one in weights):
            raise ValueError(
                f"draw weights {list(weights)} must be one number above 0 for each of the widths"
                f" {list(self.widths)}"
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        The cosine falls from the highest rate to almost 0 in the last step (Loshchilov and Hutter,
        SGDR, ICLR 2017, without restarts).
        """
        if step < self.warm_up:
            return self.learning_rate * ((step + 1) / self.warm_up)
        if self.schedule is Schedule.CONSTANT:
            return self.learning_rate
        done = (step - self.warm_up) / (self.steps - self.warm_up)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


class WidthDraw:
    """Chooses the widths of each step inside one training width."""

    def __init__(self, rule: TrainingRule, width: float) -> None:
        """Prepare.

        Args:
            rule: with the training grid.
            width: of training; where it lies below the grid, it is trained alone.
        """
        alone = rule.rule is WidthRule.OWN_WIDTH
        inside = [
            place for place, offered in enumerate(rule.widths) if offered <= width and not alone
        ]
        self._rule = rule
        self._inner = tuple(rule.widths[place] for place in inside) or (width,)
        self._chances: tuple[float, ...] = ()
        if rule.draw_weights and inside:
            weights = [rule.draw_weights[place] for place in inside]
            self._chances = tuple(weight / sum(weights) for weight in weights)
        elif rule.rule is WidthRule.ORDERED_DROPOUT and rule.widest_share and len(inside) > 1:
            narrower = (1 - rule.widest_share) / (len(inside) - 1)
            self._chances = tuple(
                rule.widest_share if one == max(self._inner) else narrower for one in self._inner
            )

    @property
    def widths(self) -> tuple[float, ...]:
        """All that a step may take."""
        return self._inner

    @property
    def teacher(self) -> float:
        """The width that narrower ones are distilled from."""
        return max(self._inner)

    def frequencies(self) -> dict[float, float]:
        """Return how often an average step takes each width."""
        inner = sorted(set(self._inner))
        if self._rule.rule is WidthRule.SANDWICH:
            between = inner[1:-1]
            share = min(self._rule.random_widths, len(between)) / max(1, len(between))
            return dict.fromkeys(between, share) | {inner[0]: 1.0, inner[-1]: 1.0}
        if self._rule.rule is WidthRule.ALL_WIDTHS:
            return dict.fromkeys(inner, 1.0)
        if self._rule.rule is WidthRule.WIDEST_AND_DRAWN:
            return dict.fromkeys(inner, 1 / len(inner)) | {inner[-1]: 1.0}
        chances = self._chances or (1 / len(self._inner),) * len(self._inner)
        return dict(zip(self._inner, chances, strict=True))

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        """Return the widths of the next step; the widest comes first."""
        inner = self._inner
        if self._rule.rule is WidthRule.SANDWICH:
            return self._sandwich(rng)
        if self._rule.rule is WidthRule.ALL_WIDTHS:
            return tuple(sorted(set(inner), reverse=True))
        if self._rule.rule is WidthRule.OWN_WIDTH:
            return inner
        if self._rule.rule is WidthRule.WIDEST_AND_DRAWN:
            chosen = {max(inner), inner[int(rng.integers(len(inner)))]}
            return tuple(sorted(chosen, reverse=True))
        if self._chances:
            return (inner[int(rng.choice(len(inner), p=self._chances))],)
        return (inner[int(rng.integers(len(inner)))],)

    def _sandwich(self, rng: np.random.Generator) -> tuple[float, ...]:
        ascending = sorted(set(self._inner))
        between = ascending[1:-1]
        count = min(self._rule.random_widths, len(between))
        places = sorted(rng.choice(len(between), size=count, replace=False)) if count else []
        ends = {ascending[0], ascending[-1]}
        return tuple(sorted(ends | {between[place] for place in places}, reverse=True))
