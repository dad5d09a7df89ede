"""A random share of the rows: the control that a filter has to beat at equal size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from infra.hashing import hash64
from pipelines.curate.filter.rules.base import Answers, Rule

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Sample"]


class Sample(Rule):
    """Keeps about a share of the rows, each by a draw of its own from its uid, in whatever shard it lies."""

    columns = ("uid",)

    share: float = Field(gt=0, le=1, description="probability of each row to be kept")
    seed: int = Field(0, description="seed of the draws")

    def keeps(self, rows: pa.Table) -> Answers:
        bound = self.share * 2**64
        return [hash64(f"{self.seed}/sample/{uid}") < bound for uid in rows["uid"].to_pylist()]
