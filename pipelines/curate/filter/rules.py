"""Rules of the filter: each decides for every row whether it is kept, and gives its name as the reason if not.

A rule reads columns, never pixels, so a filter can be changed and run again in seconds. :data:`BASIC` follows
DataComp's basic filter (English, more than two words and five characters, shorter side 200, aspect ratio 3) and adds a
check for texts that describe nothing.

A rule of your own is a subclass of :class:`Rule`, in a recipe file or an installed package; docs/curation.md has one.
"""

from __future__ import annotations

import inspect
import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pydantic import Field, field_validator

from infra.config import Choice
from pipelines.curate.filter.languages import KNOWN, meant

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "BASIC",
    "DigitalSource",
    "ImageAspect",
    "ImageSide",
    "Language",
    "Rule",
    "TextJunk",
    "TextLength",
    "TextWords",
]

Answers: TypeAlias = Any  # booleans: a pyarrow or numpy array, or a list


class Rule(Choice):
    """A condition on rows of images.

    ``columns``: what it reads, of the download (the list's own columns too) or added by an earlier stage.
    ``reason``: recorded with the rows that fail, lower-case letters, digits and ``_``; by default the rule's kind.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    reason: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's signature
        super().__pydantic_init_subclass__(**kwargs)
        if "reason" not in vars(cls):
            cls.reason = cls.kind
        # The reason becomes part of a figure's file name and of a metric's name.
        if not re.fullmatch(r"[a-z][a-z0-9_]*", cls.reason):
            raise TypeError(f"{cls.__qualname__}.reason is {cls.reason!r}: use lower-case letters, digits and _")
        if isinstance(cls.columns, str) or not (cls.columns or cls.needs is not Rule.needs or inspect.isabstract(cls)):
            raise TypeError(f"{cls.__qualname__} must name the columns it reads, as columns = ('caption',)")

    def needs(self) -> tuple[str, ...]:
        """The columns :meth:`keeps` reads; override it where they depend on a field."""
        return self.columns

    @abstractmethod
    def keeps(self, rows: pa.Table) -> Answers:
        """One boolean per row, False for those to drop; null counts as False. ``rows`` has the columns of needs()."""


class TextWords(Rule):
    """Limits on the number of words: runs of characters between spaces, and where a script has none, ICU's words."""

    columns = ("caption",)

    min: int = Field(3, ge=0, description="fewest words")
    max: int = Field(256, ge=1, description="most words")

    def keeps(self, rows: pa.Table) -> Answers:
        from pipelines.curate.words import count_words

        return _within(count_words(rows["caption"]), self.min, self.max)


class TextLength(Rule):
    """Limits on the number of characters; Chinese, Japanese and Korean ones count twice, as they say twice as much."""

    columns = ("caption",)

    min: int = Field(6, ge=0, description="fewest characters")
    max: int = Field(1000, ge=1, description="most characters")

    def keeps(self, rows: pa.Table) -> Answers:
        import pyarrow.compute as pc

        text = pc.utf8_trim_whitespace(rows["caption"])
        dense = pc.count_substring_regex(text, r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Hangul}]")
        return _within(pc.add(pc.utf8_length(text), dense), self.min, self.max)


class Language(Rule):
    """Languages to keep, detected with eldc.

    Captions are often too short to be sure ("Eiffel Tower, Paris"), so one is kept if a wanted language is nearly as
    likely as the likeliest. A caption without any word that the detector knows is dropped.
    """

    columns = ("caption",)

    languages: tuple[str, ...] = Field(("en",), min_length=1, description="ISO 639-1 codes of the languages to keep")
    min_score: float = Field(
        0.75, gt=0, le=1, description="least score of a wanted language, relative to the best of all languages"
    )

    @field_validator("languages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if code not in KNOWN:
                hint = f" (did you mean {found!r}?)" if (found := meant(code)) else ""
                raise ValueError(f"{code!r} is no language that captions are told by{hint}; known: {' '.join(KNOWN)}")
        return value

    def keeps(self, rows: pa.Table) -> Answers:
        from pipelines.curate.filter.detect import relative_score

        return [relative_score(text or "", self.languages) >= self.min_score for text in rows["caption"].to_pylist()]


class TextJunk(Rule):
    """Drops texts that describe nothing: file names, camera names, hashes, URLs, markup, page furniture, noise."""

    columns = ("caption",)

    min_letters: float = Field(0.5, ge=0, le=1, description="least share of letters among the characters")
    max_repetition: float = Field(0.6, gt=0, le=1, description="largest share of one word in a text of 6 or more words")

    def keeps(self, rows: pa.Table) -> Answers:
        import pyarrow as pa
        import pyarrow.compute as pc

        text = pc.utf8_trim_whitespace(rows["caption"])
        bad = pc.match_substring_regex(text, "|".join(f"(?:{pattern})" for pattern in _JUNK))
        letters = pc.utf8_length(pc.replace_substring_regex(text, r"[^\pL\pM]", ""))
        solid = pc.utf8_length(pc.replace_substring_regex(text, r"\s", ""))
        noise = pc.less(letters, pc.multiply(solid, self.min_letters))
        repetitive = [_repetition(given or "") > self.max_repetition for given in text.to_pylist()]
        return pc.invert(pc.or_(pc.or_(bad, noise), pa.array(repetitive, pa.bool_())))


_THING = (
    r"(?:image|img|photo|photograph|picture|pic|foto|bild|figure|fig|screenshot|screen shot|scan|slide|page|untitled)"
)
_FURNITURE = (
    r"(?:logo|icon|banner|header|footer|button|arrow|avatar|thumb|thumbnail|spacer|placeholder|pixel|blank|empty|none|"
    r"null|undefined|default|background|divider|separator|spinner|loader|loading|advert|advertisement|ad|ads|sponsor|"
    r"share|tweet|like|menu|search|close|home|back|next|previous|prev|more|read more|link|download|play|video|"
    r"profile picture|no image|image not found|image not available|image unavailable|coming soon|alt|alt text)"
)
# RE2, matched anywhere unless anchored.
_JUNK = (
    r"(?i)^\S+\.(?:jpe?g|png|gif|webp|svg|bmp|tiff?|avif|heic|ico)$",  # a file name
    r"(?i)\.(?:jpe?g|png|gif|webp|svg|bmp|tiff?|avif|heic)$",
    # what cameras and phones call their files
    r"(?i)^(?:img|dsc[nf]?|dcim|pxl|mvi|gopr|sam|imag|p|cimg|wp|screenshot|vlcsnap)[_\-\s]?\d{3,}[\w\-]*$",
    rf"(?i)^{_THING}s?\W*(?:no\.?|nr\.?|#)?\W*\d*\W*(?:of\W*\d+)?\W*$",  # "image 3 of 12"
    rf"(?i)^(?:the |our |site |company |website )*{_FURNITURE}s?[\s\d]*\W*$",
    r"(?i)^.{0,40}\b(?:logo|icon|avatar|thumbnail|placeholder|favicon)\W*$",
    r"(?i)\bclick (?:here|to|on|for|image|the)\b|\b(?:tap|hover) to\b|\bview (?:larger|full size)\b",
    r"(?i)\b(?:https?|ftp|data|file)://?\S|\bwww\.\S|^data:",
    r"(?i)^[0-9a-f]{4,}(?:-[0-9a-f]{4,})+$|^[0-9a-f]{12,}$",  # hashes, UUIDs
    # one endless "word", in a script that has spaces
    r"^[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]{30,}$",
    r"</?[A-Za-z][^>]*>|&(?:[a-z]+|#\d+);|\{\{|\}\}|\$\{|%[sd]\b",  # markup and templates
)


def _repetition(text: str) -> float:
    """Share of the most frequent word among the words of a text; 0 for texts of fewer than 6."""
    from pipelines.curate.words import words

    found = words(text.lower())
    return max(map(found.count, set(found))) / len(found) if len(found) >= 6 else 0.0


class ImageSide(Rule):
    """A lower limit on the shorter side of the original image."""

    columns = ("original_width", "original_height")

    min: int = Field(200, ge=1, description="smallest side, pixels")

    def keeps(self, rows: pa.Table) -> Answers:
        import pyarrow.compute as pc

        return pc.greater_equal(pc.min_element_wise(rows["original_width"], rows["original_height"]), self.min)


class ImageAspect(Rule):
    """An upper limit on the longer side of the original image over the shorter."""

    columns = ("original_width", "original_height")

    max: float = Field(3.0, ge=1, description="largest ratio")

    def keeps(self, rows: pa.Table) -> Answers:
        import pyarrow.compute as pc

        width, height = (rows[name].cast("float64") for name in ("original_width", "original_height"))
        ratio = pc.divide(pc.max_element_wise(width, height), pc.min_element_wise(width, height))
        return pc.less_equal(ratio, self.max)


class DigitalSource(Rule):
    """Drops images that say they were made by AI, in XMP or a C2PA manifest.

    The terms are those of the IPTC's Digital Source Type vocabulary; an image that says nothing is kept.
    """

    columns = ("digital_source",)

    exclude: tuple[str, ...] = Field(
        ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", "algorithmicMedia"),
        description="source types to drop: cv.iptc.org/newscodes/digitalsourcetype",
    )

    def keeps(self, rows: pa.Table) -> Answers:
        excluded = {term.lower() for term in self.exclude}
        return [excluded.isdisjoint((said or "").lower().split(", ")) for said in rows["digital_source"].to_pylist()]


BASIC: tuple[Rule, ...] = (ImageSide(), ImageAspect(), TextJunk(), TextLength(), TextWords(), Language())
"""DataComp's basic filter and the check for junk: cheap rules first, and of two reasons the more specific first."""


def _within(numbers: pa.ChunkedArray | pa.Array, least: int, most: int) -> pa.ChunkedArray | pa.Array:
    import pyarrow.compute as pc

    return pc.and_(pc.greater_equal(numbers, least), pc.less_equal(numbers, most))
