"""Rules on scores: any column of numbers that a list has or an earlier stage added."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from pipelines.curate.filter.rules.base import Answers, Rule, columns
from pipelines.curate.filter.survey import Quantile, Question

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Score"]


class Score(Rule):
    """Limits on a column of scores: similarity, aesthetic, NSFW, watermark, punsafe or any other.

    ``top`` keeps a share of the whole set, exactly: its threshold is the score of the last row that belongs to it, and
    rows of equal score stay together.
    """

    column: str = Field(description="the column of numbers")
    min: float | None = Field(None, description="smallest score")
    max: float | None = Field(None, description="largest score")
    top: float | None = Field(None, gt=0, le=1, description="share of all rows to keep, those of the largest scores")
    bottom: float | None = Field(None, gt=0, le=1, description="share of all rows to keep, those of the smallest")
    by_language: bool = Field(False, description="take the shares within each language of captions")
    min_by_language: Mapping[str, float] = Field({}, description="min of single languages, by their codes")
    missing: Literal["drop", "keep"] = Field("drop", description="what to do with rows without a score")
    _limits: Any = PrivateAttr(None)  # the threshold of each language, or of all under ""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.min is self.max is self.top is self.bottom is None and not self.min_by_language:
            raise ValueError("a score needs a limit: min, max, top, bottom or min_by_language")
        if self.top is not None and self.bottom is not None:
            raise ValueError("top and bottom cannot both be given")
        return self

    @property
    def name(self) -> str:
        """Reason with the column's name, as ``score_similarity``."""
        return re.sub(r"[^a-z0-9_]+", "_", f"{self.reason}_{self.column.lower()}")

    def needs(self) -> tuple[str, ...]:
        language = ("caption_language",) if self.by_language or self.min_by_language else ()
        return (self.column, *language)

    def question(self) -> Question | None:
        share = self.top if self.top is not None else self.bottom
        if share is None:
            return None
        return Quantile(self.column, share, largest=self.top is not None, by_language=self.by_language)

    def settled(self, answer: Any) -> Self:  # noqa: ANN401 - thresholds by language
        rule = self.model_copy()
        rule._limits = answer
        return rule

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return columns().numbers(rows[self.column])

    def bounds(self, language: str = "") -> tuple[float | None, float | None]:
        """The limits for rows of a language, or for all."""
        limit = (self._limits or {}).get(language if self.by_language else "")
        least = [self.min_by_language.get(language, self.min), limit if self.top is not None else None]
        most = [self.max, limit if self.bottom is not None else None]
        return (
            max((one for one in least if one is not None), default=None),
            min((one for one in most if one is not None), default=None),
        )

    def keeps(self, rows: pa.Table) -> Answers:
        kept, missing = columns().scored(self, rows)
        return kept | missing if self.missing == "keep" else kept
