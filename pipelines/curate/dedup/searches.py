"""The searches for near duplicates: which keys are compared, and in how many bits those of two copies may differ.

Of the whole picture there is a key or two, and a copy may have changed them by much; of its parts there are many, among
which one nearly always fits. So parts may differ in fewer bits, which makes their search several times as cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipelines.curate.dedup.candidates import Blocks
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.keys import FEW, MOST

__all__ = ["Search", "entries", "searches", "sent"]


class Search(NamedTuple):
    """A search among the keys in some columns of the images. Small; pickles."""

    columns: tuple[str, ...]
    blocks: Blocks


def searches(config: Config, images: int) -> list[Search]:
    """Those of ``config`` for so many images."""
    found = [Search(("keys",), Blocks.of(config.max_distance, FEW * images))]
    if config.crops:
        distance = min(config.max_distance_parts, config.max_distance)
        found.append(Search(("keys", "parts"), Blocks.of(distance, MOST * images)))
    return found


def sent(searches: Sequence[Search]) -> list[tuple[Search, int]]:
    """The searches and blocks by which keys are sent to the exchange; the place in it is an entry's ``block``."""
    return [(search, block) for search in searches for block in search.blocks.sent]


def entries(searches: Sequence[Search], images: int) -> int:
    """The entries of so many images, about."""
    return images * sum(len(search.blocks.sent) * (MOST if "parts" in search.columns else FEW) for search in searches)
