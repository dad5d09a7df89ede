"""The line between accuracies on two test sets, and how far a model is above it (Taori et al., 2020).

Models' accuracies on a standard and a shifted test set lie near a line once both are turned into logits. Effective
robustness is a model's accuracy on the shifted set less what the line says for its accuracy on the standard one.

Its interval adds up three sources of noise, each by the squared distance to its own bound (Zou and Donner, 2008): the
accuracy on the shifted set, that on the standard set, carried along the line, and the line itself, if it is fitted,
whose band is that of a regression's mean. Models of the baseline pull the line towards themselves. Where both
accuracies are of the same images, as with corruptions, the first two are one: the difference on their resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit
from scipy.stats import linregress

from evaluation.intervals import Interval, percentile_interval
from infra.errors import DataError

__all__ = ["Expectation", "Resampled", "effective", "fit"]

Resampled = tuple[NDArray[Any], NDArray[Any]]
"""Accuracies on the standard and on the shifted set, on the same resamples of the images: (b,) each."""

_EDGE = 1e-9  # where a logit would be infinite


@dataclass(frozen=True)
class Expectation:
    """A line between logits; ``models`` that it was fitted to, with what its band needs."""

    slope: float
    intercept: float
    models: int = 0
    middle: float = 0.0  # mean of the models' logits
    spread: float = 1.0  # sum of their squared distances to it
    error: float = 0.0  # standard deviation of the models around the line

    def at(self, accuracy: float) -> float:
        """The accuracy on the shifted set that is expected of that on the standard one."""
        return float(self.at_each(np.array(accuracy)))

    def at_each(self, accuracies: NDArray[Any]) -> NDArray[Any]:
        """The same for any number of accuracies."""
        expected: NDArray[Any] = expit(self.slope * logit(np.clip(accuracies, _EDGE, 1 - _EDGE)) + self.intercept)
        return expected

    def band(self, accuracy: float, confidence: float) -> tuple[float, float]:
        """Bounds of that expectation, if the line was fitted."""
        if not self.models:
            return self.at(accuracy), self.at(accuracy)
        place = _logit(accuracy)
        width = float(stdtrit(self.models - 2, (1 + confidence) / 2)) * self.error
        width *= sqrt(1 / self.models + (place - self.middle) ** 2 / self.spread)
        centre = self.slope * place + self.intercept
        return float(expit(centre - width)), float(expit(centre + width))


def fit(standard: Sequence[float], shifted: Sequence[float], name: str) -> Expectation:
    """The least squares line of the logits of accuracies. Raises DataError for less than three different models."""
    x, y = (np.array([_logit(value) for value in values]) for values in (standard, shifted))
    if len(x) < 3 or np.ptp(x) == 0:
        raise DataError(
            f"no line can be fitted to shift {name!r}",
            expected="three models at least, of different accuracy on the standard set",
            found=f"{len(x)}",
            fix="compare more models, or give the shift a line",
        )
    found = linregress(x, y)
    rest = y - found.slope * x - found.intercept
    error = sqrt(float((rest**2).sum()) / (len(x) - 2))
    spread = float(((x - x.mean()) ** 2).sum())
    return Expectation(float(found.slope), float(found.intercept), len(x), float(x.mean()), spread, error)


def effective(
    standard: Interval, shifted: Interval, line: Expectation, confidence: float, paired: Resampled | None = None
) -> Interval:
    """The accuracy on the shifted set beyond ``line``, with its interval; ``paired`` if both are of the same images."""
    expected = line.at(standard.value)
    band = line.band(standard.value, confidence)
    value = shifted.value - expected
    if paired is not None and np.ptp(draws := paired[1] - line.at_each(paired[0])) > 0:
        lowest, highest = percentile_interval(draws, confidence)
        below: tuple[float, ...] = (max(0.0, value - float(lowest)), band[1] - expected)
        above: tuple[float, ...] = (max(0.0, float(highest) - value), expected - band[0])
    else:
        carried = sorted((line.at(standard.low), line.at(standard.high)))
        below = (shifted.value - shifted.low, carried[1] - expected, band[1] - expected)
        above = (shifted.high - shifted.value, expected - carried[0], expected - band[0])
    low, high = (sqrt(sum(part**2 for part in parts)) for parts in (below, above))
    return Interval(value, value - low, value + high)


def _logit(accuracy: float) -> float:
    return float(logit(min(1 - _EDGE, max(_EDGE, accuracy))))
