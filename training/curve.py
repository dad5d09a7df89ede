"""Curves of the learning rate after its warm-up, an open family. Light to import."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field

from infra.config import Choice

__all__ = ["Curve", "InverseSqrt"]


class Curve(Choice):
    """A curve of the learning rate between its warm-up and its cooldown."""

    @abstractmethod
    def factor(self, seen: float, total: int) -> float:
        """Factor of the peak rate, from 0 to 1, when ``seen`` of ``total`` samples after the warm-up were seen."""


class InverseSqrt(Curve):
    """The inverse square root of the samples seen (Zhai et al. 2022, arXiv:2106.04560), however many are to come."""

    timescale: int = Field(10_000_000, ge=1, description="samples after the warm-up until the rate is .71 of the peak")

    def factor(self, seen: float, total: int) -> float:
        return float((1 + seen / self.timescale) ** -0.5)
