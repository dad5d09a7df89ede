"""Read pairs of words (or phrases) with people's ratings of how similar they are, from the files that are published.

::

    {name}/combined.csv, combined.tab         WordSim-353: Word 1, Word 2, Human (mean)
    {name}/wordsim_similarity_goldstandard.txt  its two parts: no head
    {name}/SimLex-999.txt                     word1, word2, POS, SimLex999, ...; SimVerb-3500.txt: no head, POS third
    {name}/MEN_dataset_natural_form_full      MEN: white space between; words of *_lemma_form_* end in -n, -j, -v
    {name}/rw.txt                             Rare Words: the mean rating third, then each rater's
    {name}/word_similarity.csv, .tsv, .txt    any other, as multi-SimLex's with a column for each annotator

Columns are found by their names, without a head by their place: two words, then the first number; a word between or
behind is the category. Of several columns of raters the mean counts. A file of any other name, or whose columns this
does not find, is told by ``forms=[{"kind": "word_pairs", "file": "mine.txt", "rating": ["4"]}]``.

A line that is no rated pair is left out, and counted. All have one split.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from pydantic import Field

from infra.errors import DataError
from infra.formats.testset.evalset import Broken, EvalSet, Form, Packed, SetFiles
from infra.formats.testset.texts import decoded, readable
from infra.store import Store

__all__ = ["Columns", "WordPairs"]

_SPLIT = "test"
_NAMES = tuple(
    re.compile(f"(?i){name}")
    for name in (
        r"word_similarity\.(?:csv|tsv|tab|txt)",
        r"combined\.(?:csv|tab)",
        r"sim(?:lex-?999|verb-?3500)\.(?:txt|tsv|csv)",
        r"MEN_dataset_natural_form_full",
        r"MEN_dataset_lemma_form_full",
        r"rw\.txt",
        r"wordsim_\w+_goldstandard\.txt|(?:wordsim353|ws353|simlex999|rg65|mc30|mturk\w*)\.(?:csv|tsv|tab|txt)",
    )
)
"""Names of files; of several in a folder the one that an earlier fits is read."""

_RATINGS = ("simlex999", "humanmean", "rating", "score", "similarity", "relatedness", "mean", "average", "avg", "gold")
_CATEGORIES = ("pos", "partofspeech", "wordclass", "category", "relation", "type", "tag")
_NUMBERS = ("id", "index", "no", "nr", "number", "")
_TAGGED = re.compile(r"(.+)-([a-z])")


@dataclass(frozen=True)
class Columns:
    """The way a file's lines are read: ``mark`` between fields (None: white space), places of columns from 0."""

    mark: str | None
    headed: bool
    words: tuple[int, int]
    ratings: tuple[int, ...]  # of several the mean counts
    category: int | None
    tagged: bool  # words end in -n, -v, -j: their parts of speech, which are the category

    def __str__(self) -> str:
        ratings = " and ".join(str(at + 1) for at in self.ratings)
        return f"columns {self.words[0] + 1} and {self.words[1] + 1} as words and {ratings} as rating"


class WordPairs(Form):
    """A file of pairs of words with ratings; it has no images."""

    kind: ClassVar[str] = "word_pairs"
    precedence: ClassVar[int] = 10  # what has images beside it is a set of images
    layout: ClassVar[str] = "word_similarity.csv, combined.csv, SimLex-999.txt, MEN_dataset_* or rw.txt"

    file: str | None = Field(None, description="name of the file; none: one of those that are known")
    words: tuple[str, str] | None = Field(None, description="the words' columns, names or places from 1; none: found")
    rating: tuple[str, ...] = Field((), description="the rating's, or each rater's, whose mean counts; none: found")
    category: str | None = Field(None, description="the column of the category; none: found, if there is one")

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in sorted(paths, key=self._rank):
            if self._rank(path)[0] < len(_NAMES):
                found.setdefault((path.rpartition("/")[0], _SPLIT), [path])
        return found

    def _rank(self, path: str) -> tuple[int, str]:
        """The file's place among those that may be read; the last if it may not."""
        name = path.rpartition("/")[2]
        if self.file is not None:
            return (0 if name == self.file else len(_NAMES)), path
        return next((at for at, known in enumerate(_NAMES) if known.fullmatch(name)), len(_NAMES)), path

    def open(self, files: SetFiles) -> EvalSet:
        path = min(files.paths, key=self._rank)
        lines, place = _lines(files.store, path), files.store.locate(path)
        columns = self._columns([line for _, line in lines], place)
        good = [isinstance(one, Packed) for one in _samples(files.store, columns, path)]
        if 2 * sum(good) <= len(good):
            raise DataError(
                f"{place} is no file of rated pairs of words",
                expected=self.layout,
                found=f"{sum(good)} of {len(good)} lines that are, by {columns}",
                fix="name its columns by forms, kind word_pairs, with words and rating",
            )
        return EvalSet(
            name=files.name,
            split=files.split,
            store=files.store,
            kind="word_similarity",
            classes=(),
            templates=(),
            parts={0: path},
            read=partial(_samples, files.store, columns),
            pictured=False,
            strict=False,
        )

    def _columns(self, lines: Sequence[str], place: str) -> Columns:
        """Find the columns. Raises DataError for a file that lacks one, or a name that it does not have."""
        mark = next((mark for mark in "\t;," if 2 * sum(mark in line for line in lines) > len(lines)), None)
        rows = [_fields(line, mark) for line in lines]
        width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
        body = [row for row in rows if len(row) == width]
        numeric = [2 * sum(_number(row[at]) is not None for row in body) > len(body) for at in range(width)]
        texts = [at for at in range(width) if not numeric[at]]
        names = [_plain(name) for name in rows[0]] if rows else []
        told = {_plain(name) for name in (*(self.words or ()), *self.rating, self.category or "") if name}
        headed = _word_names(names, texts) is not None or bool(set(names) & {*_RATINGS, *_CATEGORIES, *told} - {""})
        names = names if headed else []

        words = _at(self.words, rows, headed, place) if self.words else _word_names(names, texts) or texts[:2]
        ratings = _at(self.rating, rows, headed, place) if self.rating else _rating(names, numeric, max(words or [0]))
        if len(words) != 2 or not ratings:
            raise DataError(
                f"{place} has no pairs of words with ratings",
                expected="two columns of words and one of numbers",
                found=f"lines as {lines[0][:100]!r}" if lines else "no line",
                fix="name its columns by forms, kind word_pairs, with words and rating",
            )
        own = _at((self.category,), rows, headed, place) if self.category is not None else []
        category = own[0] if own else _category(names, [at for at in texts if at not in words])
        both = [row[at] for row in body[headed:] for at in words]
        tagged = 2 * sum(_TAGGED.fullmatch(word) is not None for word in both) > len(both)
        return Columns(mark, headed, (words[0], words[1]), tuple(ratings), category, tagged)


def _word_names(names: Sequence[str], texts: Sequence[int]) -> list[int] | None:
    """The two columns of texts whose names differ in their last character alone, 1 and 2; None if there are none."""
    for at in texts:
        other = f"{names[at][:-1]}2" if at < len(names) and names[at].endswith("1") else None
        if other in names and names.index(other) in texts:
            return [at, names.index(other)]
    return None


def _rating(names: Sequence[str], numeric: Sequence[bool], last_word: int) -> list[int]:
    """The rating's column by its name, or each rater's; without names the first behind the words."""
    numbers = [at for at, is_number in enumerate(numeric) if is_number]
    if not names:
        return [at for at in numbers if at > last_word][:1]
    named = [names.index(name) for name in _RATINGS if name in names and numeric[names.index(name)]]
    alike = [at for at in numbers if any(part in names[at] for part in ("mean", "average", "rating", "score"))]
    raters = [at for at in numbers if names[at] not in _NUMBERS]
    # Annotator 1, Annotator 2, ...: numbers of other names are something else beside a rating.
    same = len({names[at].rstrip("0123456789") for at in raters}) == 1
    return (named or alike)[:1] or (raters if same else [])


def _category(names: Sequence[str], others: Sequence[int]) -> int | None:
    """The category's column by its name; without names the first that is neither word."""
    if not names:
        return others[0] if others else None
    return next((names.index(name) for name in _CATEGORIES if name in names), None)


def _at(wanted: Sequence[str], rows: Sequence[Sequence[str]], headed: bool, place: str) -> list[int]:
    """Places of columns by their names, or their numbers from 1. Raises DataError for one that is not there."""
    head = list(rows[0]) if rows else []
    found = []
    for name in wanted:
        if headed and name in head:
            found.append(head.index(name))
        elif name.isdecimal() and 0 < int(name) <= len(head):
            found.append(int(name) - 1)
        else:
            raise DataError(f"{place} has no column {name!r}", expected="a name or a number from 1", found=str(head))
    return found


def _samples(store: Store, columns: Columns, path: str) -> Iterator[Packed | Broken]:
    for number, line in _lines(store, path)[columns.headed :]:
        fields = _fields(line, columns.mark)
        found = _pair(fields, columns)
        if isinstance(found, Packed):
            yield Packed(str(number), b"", -1, found.captions, found.metadata)
        else:
            error = DataError(f"line {number} of {store.locate(path)} has {found}", found=line[:100])
            yield Broken(found, error)


def _pair(fields: Sequence[str], columns: Columns) -> Packed | str:
    """The pair of a line, or what it does not have."""
    if max(*columns.words, *columns.ratings) >= len(fields):
        return "too few fields"
    words = [fields[at] for at in columns.words]
    category = fields[columns.category] if columns.category is not None and columns.category < len(fields) else ""
    if columns.tagged:
        tags = [_TAGGED.fullmatch(word) for word in words]
        words = [tag[1] if tag else word for tag, word in zip(tags, words, strict=True)]
        category = "-".join(tag[2] for tag in tags if tag)
    words = [readable(word) for word in words]
    ratings = [_number(fields[at]) for at in columns.ratings]
    if not all(words):
        return "no two words"
    known = [rating for rating in ratings if rating is not None]
    if not known:
        return "no rating"
    told = {"rating": math.fsum(known) / len(known), **({"category": category} if category else {})}
    return Packed("", b"", -1, tuple(words), json.dumps(told, ensure_ascii=False))


def _lines(store: Store, path: str) -> list[tuple[int, str]]:
    """The lines that say anything, with their numbers from 1; a comment begins with ``#``."""
    lines = decoded(store.read(path), store.locate(path)).splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]


def _fields(line: str, mark: str | None) -> list[str]:
    quoted = mark in (",", ";") and len(line) < csv.field_size_limit()
    fields = next(csv.reader([line], delimiter=mark), []) if mark and quoted else line.split(mark)
    return [field.strip() for field in fields]


def _number(field: str) -> float | None:
    """The finite number that a field is; None if it is none."""
    try:
        number = float(field)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
