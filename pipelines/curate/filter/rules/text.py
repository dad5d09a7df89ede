"""Rules on captions: length, words, junk, alphabets, repetition, language, frequency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, PrivateAttr, field_validator

from pipelines.curate.filter.languages import KNOWN, meant
from pipelines.curate.filter.rules.base import Answers, Range, Rule
from pipelines.curate.filter.survey import Frequent, Question

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CaptionFrequency", "Language", "TextJunk", "TextLength", "TextRepetition", "TextShare", "TextWords"]

SCRIPTS = (
    *("Arabic", "Armenian", "Bengali", "Bopomofo", "Cherokee", "Cyrillic", "Devanagari", "Ethiopic", "Georgian"),
    *("Greek", "Gujarati", "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana", "Khmer", "Lao"),
    *("Latin", "Malayalam", "Mongolian", "Myanmar", "Oriya", "Sinhala", "Tamil", "Telugu", "Thaana", "Thai", "Tibetan"),
)


class TextLength(Range):
    """Limits on the number of characters; Chinese, Japanese and Korean ones count twice, as they say twice as much."""

    columns = ("caption",)

    min: int = Field(6, ge=0, description="fewest characters")
    max: int = Field(1000, ge=1, description="most characters")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return _texts().length(rows["caption"])


class TextWords(Range):
    """Limits on the number of words: runs of characters between spaces, and where a script has none, ICU's words."""

    columns = ("caption",)

    min: int = Field(3, ge=0, description="fewest words")
    max: int = Field(256, ge=1, description="most words")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return _texts().count_words(rows["caption"])


class TextShare(Range):
    """Limits on the share of a class of characters among those of a caption that are no spaces."""

    columns = ("caption",)

    of: str = Field(
        "symbols",
        description="letters, digits, symbols (marks and signs that are neither), capitals, or a script: Latin, Han, "
        "Cyrillic and so on",
    )
    min: float = Field(0.0, ge=0, le=1, description="smallest share")
    max: float = Field(1.0, ge=0, le=1, description="largest share")

    @field_validator("of")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (known := ("letters", "digits", "symbols", "capitals", *SCRIPTS)):
            raise ValueError(f"one of {', '.join(known)}")
        return value

    @property
    def name(self) -> str:
        return f"{self.reason}_{self.of.lower()}"

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return _texts().share(rows["caption"], self.of)


class TextRepetition(Range):
    """A limit on how much of a caption is one word, said again and again."""

    columns = ("caption",)

    max: float = Field(0.6, gt=0, le=1, description="largest share of one word")
    min_words: int = Field(6, ge=1, description="words from which a caption is judged")

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        return _texts().repetition(rows["caption"], self.min_words)


class TextJunk(Rule):
    """Drops texts that describe nothing: file names, camera names, hashes, URLs, markup, page furniture, noise."""

    columns = ("caption",)

    min_letters: float = Field(0.5, ge=0, le=1, description="least share of letters among the characters")
    max_repetition: float = Field(0.6, gt=0, le=1, description="largest share of one word in a text of 6 or more words")

    def keeps(self, rows: pa.Table) -> Answers:
        return _texts().says_something(rows["caption"], self.min_letters, self.max_repetition)


class Language(Range):
    """Languages to keep, detected with eldc.

    Captions are often too short to be sure ("Eiffel Tower, Paris"), so one is kept if a wanted language is nearly as
    likely as the likeliest. A caption without any word that the detector knows is dropped.
    """

    columns = ("caption",)

    languages: tuple[str, ...] = Field(("en",), min_length=1, description="ISO 639-1 codes of the languages to keep")
    min_score: float = Field(
        0.75, gt=0, le=1, description="least score of a wanted language, relative to the best of all languages"
    )
    min_scores: Mapping[str, float] = Field({}, description="min_score of single languages, by their codes")

    @field_validator("languages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if code not in KNOWN:
                hint = f" (did you mean {found!r}?)" if (found := meant(code)) else ""
                raise ValueError(f"{code!r} is no language that captions are told by{hint}; known: {' '.join(KNOWN)}")
        return value

    @field_validator("min_scores")
    @classmethod
    def _shares(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        if wrong := {code: least for code, least in value.items() if code not in KNOWN or not 0 < least <= 1}:
            raise ValueError(f"scores above 0, at most 1, by language; not {wrong}")
        return value

    def bounds(self) -> tuple[float | None, float | None]:
        """1 and none: :meth:`value` is relative to the score that each language needs."""
        return 1.0, None

    def value(self, rows: pa.Table) -> Any:  # noqa: ANN401 - an array
        least = {code: self.min_scores.get(code, self.min_score) for code in self.languages}
        return _texts().relative_scores(rows["caption"], least)


class CaptionFrequency(Rule):
    """Drops captions that more than ``max`` rows of the whole set have, whatever their case and spaces.

    Every such row is dropped: a text under many pictures is a shop's name or a notice, not what they show. (For one of
    each, deduplicate.)
    """

    columns = ("caption",)

    max: int = Field(10, ge=1, description="rows that may have one caption")
    _frequent: Any = PrivateAttr(None)  # the hashes of the captions that more rows have

    def question(self) -> Question:
        return Frequent(self.max)

    def settled(self, answer: Any) -> Self:  # noqa: ANN401 - an array of hashes
        rule = self.model_copy()
        rule._frequent = answer
        return rule

    def keeps(self, rows: pa.Table) -> Answers:
        return _texts().is_rare(rows["caption"], self._frequent)


def _texts() -> Any:  # noqa: ANN401 - a module
    """Functions on columns of captions; they import what planning does without."""
    from pipelines.curate.filter import texts

    return texts
