"""Names and widths of region features (:mod:`infra.formats.regions`); light, for configurations."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BOXES", "CLASSES", "REGIONS", "RegionShape"]

REGIONS, BOXES, CLASSES = "regions.npy", "boxes.npy", "classes.npy"
"""Extensions of the members."""


class RegionShape(NamedTuple):
    """The regions that a model reads of an image."""

    most: int
    """Regions of a picture; of more the first are taken."""
    features: int
    """Width of a feature."""
    classes: int
    """Number of the detector's classes; 0: they are not read."""
    pictures: int = 1
    """Pictures of equal width side by side in the image; each has the regions whose centre is in its part."""

    @property
    def rows(self) -> int:
        """Rows of the table that :func:`pack` makes."""
        return self.pictures * self.most

    @property
    def columns(self) -> int:
        """Width of a row of the table that :func:`pack` makes."""
        return self.features + 4 + self.classes

    @property
    def members(self) -> tuple[str, ...]:
        """Extensions of the members that are read."""
        return (REGIONS, BOXES, CLASSES) if self.classes else (REGIONS, BOXES)
