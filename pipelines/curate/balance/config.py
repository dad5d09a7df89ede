"""Configuration of the balance stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from infra.errors import UsageError

__all__ = ["PUBLISHED", "Config"]

PUBLISHED = {"clip": 20_000, "metaclip_400m": 20_000, "metaclip_2.5b": 170_000}
"""Limits by name: of Radford et al. 2021, section 2.2, and of Xu et al. 2023, section 3."""


class Config(StageConfig):
    code_version: ClassVar[int] = 6
    inputs: ClassVar[Mapping[str, Input]] = {
        "selection": Input("selection", description="the rows to balance"),
        "metadata": Input(
            "metadata",
            required=False,
            description="the entries: a text file, one a line, or a JSON list; "
            "by language: de.txt, en.txt, ..., or a JSON object",
        ),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    t: int = Field(
        20_000,
        gt=0,
        description="captions an entry may have before it is subsampled, or a published limit: clip (20,000 a query), "
        "metaclip_400m (20,000), metaclip_2.5b (170,000)",
    )
    by_language: bool = Field(
        False, description="balance each language by itself, as MetaCLIP 2 does: its own counts, entries and limit"
    )
    reference: str = Field(
        "en",
        description="by language: that whose limit is `t`; another's leaves it the same share of rare topics",
    )
    drop: bool = Field(
        True,
        description="drop rows by the draw; false: they stay, for train.data.balance and train.data.batches, with "
        "columns keep_probability, entries, and times_limit: of each entry, the rows that hold it over the limit",
    )
    seed: int = Field(0, description="seed of the random draws")
    metadata: tuple[str, ...] | None = Field(
        None,
        description="the entries, words or phrases as they appear in captions; none, and no input metadata: frequent "
        "words and phrases of the captions themselves",
    )
    keep_unmatched: bool | None = Field(
        None,
        description="keep captions that hold no entry; null: where the entries come from captions, which they are "
        "rarer than",
    )
    min_count: int = Field(
        5, gt=0, description="captions a word or phrase must be in to become an entry, without metadata"
    )
    min_pmi: float = Field(
        3.0, description="mutual information that makes two neighbouring words an entry, bits, without metadata"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @field_validator("t", mode="before")
    @classmethod
    def _published(cls, value: object) -> object:
        if isinstance(value, str) and value not in PUBLISHED and not value.isdigit():
            raise ValueError(f"a number, or one of {', '.join(PUBLISHED)}")
        return PUBLISHED.get(value, value) if isinstance(value, str) else value

    def check_inputs(self, given: Collection[str]) -> None:
        """Metadata comes from the field or from the input, not both."""
        if self.metadata is not None and "metadata" in given:
            raise UsageError("balance has metadata both as a field and as an input", fix="leave out one of them")
