"""Configuration of the entries stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from infra.errors import UsageError

__all__ = ["Config"]


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "selection": Input("selection", required=False, description="rows whose captions are counted"),
        "corpus": Input("corpus", required=False, repeated=True, description="texts that are counted: adopt.Corpus"),
        "phrases": Input(
            "metadata",
            required=False,
            repeated=True,
            description="lists of titles, names, queries: entries as they are",
        ),
    }
    produces: ClassVar[tuple[str, ...]] = ("metadata",)

    min_count: int = Field(
        100, gt=0, description="texts a word or pair must be in to become an entry; MetaCLIP's 100 is for Wikipedia"
    )
    min_pmi: float = Field(3.0, description="mutual information that makes two neighbouring words an entry, bits")
    by_language: bool = Field(False, description="count each language by itself, as told from the texts")
    column: str = Field("text", description="column or JSON field of a corpus that has the texts")
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    def check_inputs(self, given: Collection[str]) -> None:
        """Something is counted, or listed."""
        if not given:
            raise UsageError("entries has nothing to count", expected="an input selection, corpus or phrases")
