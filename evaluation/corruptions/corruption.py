"""The base of all corruptions: an open family, as tasks are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.config import Choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Change", "Corruption"]


class Corruption(Choice):
    """A change of an image that leaves what it shows, at severities from 1 to 5."""

    @abstractmethod
    def corrupt(self, image: NDArray[np.float32], severity: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Return ``image``, (h, w, 3) from 0 to 1, corrupted; values beyond are clipped.

        What is random comes from ``random``, which is seeded by the sample's key: all models see the same image.
        """


@dataclass(frozen=True)
class Change:
    """A corruption at a severity, of images scaled to ``side`` pixels."""

    corruption: Corruption
    severity: int
    side: int

    @property
    def name(self) -> str:
        """Its name in results and files."""
        return f"{self.corruption.kind}-{self.severity}"

    def split(self, split: str) -> str:
        """The name of ``split`` with its images corrupted."""
        return f"{split}@{self.name}"
