"""Every sample of shards of regions is read once, and what is wrong with it counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from infra.errors import DataError
from infra.formats.region_shape import CLASSES, REGIONS
from infra.formats.regions import Regions, read_regions
from infra.formats.shards import read_samples
from infra.run.manifest import Funnel
from infra.store import Store

if TYPE_CHECKING:
    from pipelines.adopt.regions import RegionShards

__all__ = ["judge"]


def judge(contents: RegionShards, store: Store, paths: Sequence[str]) -> tuple[dict[str, int], Funnel]:
    """Count the samples of each shard, and those of use. Raises DataError for a damaged tar, or if none is of use."""
    reasons: Counter[str] = Counter()
    widths: Counter[tuple[int, int]] = Counter()  # of a feature and of the classes; those of most samples are right
    rows = {}
    for path in paths:
        seen = 0
        with store.open(path) as source:
            for sample in read_samples(source, place=store.locate(path)):
                if seen == contents.looked_at:
                    break
                seen += 1
                try:
                    widths[_widths(read_regions(sample))] += 1
                except ValueError as error:
                    reasons[str(error)] += 1
        rows[path] = seen
    for other, count in widths.most_common()[1:]:
        reasons[_unlike(other, widths.most_common(1)[0][0])] += count
    entered, dropped = sum(rows.values()), sum(reasons.values())
    if entered == dropped:
        raise DataError(
            f"no sample of the shards at {store.url} has regions that can be read",
            expected=contents.layout,
            found=_told(reasons) or "no samples",
        )
    funnel = Funnel(unit="samples", entered=entered, kept=entered - dropped, dropped=dict(sorted(reasons.items())))
    return rows if contents.looked_at is None else {}, funnel


def _widths(regions: Regions) -> tuple[int, int]:
    """The width of a feature, and the number of classes; 0 if they are not there."""
    return regions.features.shape[1], 0 if regions.classes is None else regions.classes.shape[1]


def _unlike(own: tuple[int, int], right: tuple[int, int]) -> str:
    """Say what is wrong with arrays of widths ``own``."""
    if own[0] != right[0]:
        return f"{REGIONS} has {own[0]} columns, not {right[0]}"
    if not (own[1] and right[1]):
        return f"no {CLASSES}" if right[1] else f"{CLASSES}, which others lack"
    return f"{CLASSES} has {own[1]} columns, not {right[1]}"


def _told(reasons: Mapping[str, int]) -> str:
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
    return "; ".join(f"{reason} ({count} samples)" for reason, count in most)
