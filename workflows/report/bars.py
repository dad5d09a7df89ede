"""The funnel of a run as bars: which stages share a scale. Drawn by :mod:`workflows.report.charts`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from infra.run.manifest import Funnel

__all__ = ["Bar", "bars"]

_HOLDERS = ("urls", "pages")  # units that contain the things counted after them


@dataclass(frozen=True)
class Bar:
    """One stage of the funnel.

    ``full``: the count that fills the width. ``linked``: the stage takes what the bar above kept, on the same scale.
    """

    stage: str
    funnel: Funnel
    full: int
    linked: bool

    @property
    def drops(self) -> list[tuple[str, int]]:
        """Reasons that dropped something, with their counts, the largest first."""
        return sorted(((r, n) for r, n in self.funnel.dropped.items() if n), key=lambda item: (-item[1], item[0]))

    @property
    def share(self) -> float:
        return self.funnel.kept / self.funnel.entered if self.funnel.entered else 1.0


def bars(funnels: Iterable[tuple[str, Funnel]]) -> list[Bar]:
    """The funnel's stages on their scales.

    400 pages may hold 9,000 pairs, so what holds others has a scale of its own. From pairs to images to samples it is
    one thing under several names: a stage that takes what the one above kept, or a part of it, stays on its scale.
    """
    found: list[Bar] = []
    for stage, counts in funnels:
        above = found[-1] if found else None
        if above and above.funnel.unit not in _HOLDERS and counts.entered <= above.funnel.kept:
            found.append(Bar(stage, counts, above.full, linked=True))
        else:
            found.append(Bar(stage, counts, max(1, counts.entered), linked=False))
    return found
