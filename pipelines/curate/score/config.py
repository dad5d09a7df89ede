"""Configuration of the score stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from infra.errors import UsageError
from pipelines.curate.score.scores import ClipScore, Score

__all__ = ["Config"]


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True, description="a download, and retries of it"),
        "selection": Input("selection", required=False, description="score only the rows it keeps"),
        "embeddings": Input("embeddings", repeated=True, description="vectors of the rows: of embed, or adopted"),
        "references": Input("embeddings", required=False, description="vectors of what images are compared with"),
        "weights": Input("weights", required=False, repeated=True, description="weights of heads, adopted"),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    scores: tuple[Score, ...] = Field((ClipScore(),), min_length=1, description="scores, each a column")
    embedding: str | None = Field(
        None, description="model whose vectors count, where files have several: b32 for b32_img and b32_txt"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @field_validator("scores")
    @classmethod
    def _columns_differ(cls, value: tuple[Score, ...]) -> tuple[Score, ...]:
        name, count = Counter(score.name for score in value).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} scores have the column {name!r}: name one another way, with column")
        return value

    def check_inputs(self, given: Collection[str]) -> None:
        """Each score has what it reads."""
        for score in self.scores:
            if missing := [name for name in score.needs() if name not in given]:
                raise UsageError(
                    f"score {score.name!r} needs the input {missing[0]!r}", found=f"inputs {', '.join(sorted(given))}"
                )
