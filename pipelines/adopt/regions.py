"""Adopt shards with a detector's regions, with or without the images, for models of region features."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from infra.run.manifest import Funnel
from infra.store import Store
from pipelines.adopt.contents import Shards

__all__ = ["RegionShards"]


class RegionShards(Shards):
    """WebDataset tars of a detector's regions with captions, to train on; see :mod:`infra.formats.regions`.

    A sample whose regions are broken is counted with the reason, and training passes over it.
    """

    implementation = "pipelines.adopt.region_check:judge"
    layout = "*.tar with regions.npy, boxes.npy, perhaps classes.npy, and a caption per sample"

    looked_at: int | None = Field(None, ge=1, description="first samples of each shard that are looked at; null: all")

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return self.judge(store, paths)[0]

    def judge(self, store: Store, paths: Sequence[str]) -> tuple[dict[str, int], Funnel | None]:
        found: tuple[dict[str, int], Funnel] = self.implemented()(self, store, paths)
        return found
