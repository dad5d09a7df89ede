"""A run that learns nothing says so: features that are all alike, or a loss that is that of chance.

Both happen in silence. A tower that lost its activations, a learning rate that is too high, weights put together
wrongly: the loss goes on to be a number, ln(batch), and hours later every score is chance. What is looked at is nearly
free: at the steps that are logged, the mean of each tower's features, whose length tells their mean cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from training.config import Config

__all__ = ["LINES", "Collapse", "Sign", "mean_cosine"]

COSINE = 0.99
"""Mean cosine of a batch's features, each with each, above which a tower tells nothing apart."""
CHANCE = 0.005
"""The loss counts as that of chance within this part of it."""
LINES = 2
"""Lines of the history in a row that must show it: a loss on its way down passes by ln(batch)."""
FIRST = 100
"""Batches after the warm-up that do not count: features of towers that have hardly learnt are alike, too."""


@dataclass(frozen=True)
class Sign:
    """Sign that a run learns nothing. ``kind``: image, text or loss."""

    kind: str
    value: float
    message: str


class Collapse:
    """Looks at one run's features and losses. ``contrastive``: the name of the loss that is ln(batch) by chance.

    It speaks from :data:`FIRST` batches after the warm-up on, or at the run's end.
    """

    def __init__(self, config: Config, total: int, contrastive: str | None) -> None:
        self._batch, self._contrastive = config.batch_size, contrastive
        self._from = min(config.schedule.warmup + FIRST * config.batch_size, total)
        self._means: dict[str, Tensor] = {}

    def look(self, outputs: Mapping[str, Tensor]) -> None:
        """Remember the means of this rank's features."""
        self._means = {
            name: outputs[name].detach().float().mean(dim=0) for name in ("image", "text") if name in outputs
        }

    def take(self) -> dict[str, list[float]]:
        """Return the means that :meth:`look` keeps, and forget them."""
        found = {name: mean.tolist() for name, mean in self._means.items()}
        self._means = {}
        return found

    def cosines(self, of_ranks: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
        """The mean cosine of the whole batch by tower, from every rank's means."""
        return {name: mean_cosine([means[name] for means in of_ranks], self._batch) for name in of_ranks[0]}

    def signs(
        self, samples: int, cosines: Mapping[str, float], losses: Mapping[str, float], lines: dict[str, int]
    ) -> Iterator[Sign]:
        """Yield the warnings due now. ``lines``: lines in a row that show each sign, and warnings given; updated here.

        A sign is said once in a run.
        """
        for sign in self._all(cosines, losses):
            chance = abs(sign.value / self._chance - 1) < CHANCE
            shows = chance if sign.kind == "loss" else sign.value > COSINE
            lines[sign.kind] = lines.get(sign.kind, 0) + 1 if shows else 0
            if samples >= self._from and lines[sign.kind] >= LINES and not lines.get(said := f"{sign.kind} said"):
                lines[said] = 1
                yield sign

    @property
    def _chance(self) -> float:
        return math.log(self._batch)

    def _all(self, cosines: Mapping[str, float], losses: Mapping[str, float]) -> Iterator[Sign]:
        for name, cosine in cosines.items():
            text = f"the {name} features of a batch are all alike (mean cosine {cosine:.4f}): they tell nothing apart"
            yield Sign(name, cosine, text)
        if (loss := losses.get(self._contrastive or "")) is not None:
            text = f"the loss is that of chance ({loss:.4g}; ln {self._batch} = {self._chance:.4g}): nothing is learnt"
            yield Sign("loss", loss, text)


def mean_cosine(means: Sequence[Sequence[float]], batch: int) -> float:
    """The mean cosine of each of ``batch`` unit vectors with each other, from the ``means`` of equal parts of them."""
    square = math.fsum((math.fsum(column) / len(means)) ** 2 for column in zip(*means, strict=True))
    return (batch * square - 1) / (batch - 1)
