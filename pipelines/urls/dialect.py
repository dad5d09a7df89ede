"""Detect the dialect of a csv or tsv file, its separator, quoting and columns, from its first lines.

Every reading is tried on a sample, and the one that makes rows with a URL of most lines is taken. A list of which no
reading makes sense, or two make sense of different lines, is refused rather than guessed at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infra.errors import DataError
from pipelines.urls.config import Quoting
from pipelines.urls.lines import MalformedRow, Row
from pipelines.urls.separated import NO_SEPARATOR, SEPARATORS, URL, Dialect, records

__all__ = ["decide", "sample"]

_SAMPLE = 512 << 10  # characters
_QUOTINGS: tuple[Quoting, ...] = ("quoted", "unquoted", "backslash")  # the likeliest first
_FEW, _FEW_SHARE = 3, 0.05  # lines of the sample that may be of another dialect
_ONLY_URL = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)


def sample(lines: Iterable[Row | MalformedRow]) -> list[Row | MalformedRow]:
    """Return the first lines of a file, half a million characters or a little more."""
    found, size = [], 0
    for line in lines:
        found.append(line)
        size += line.size if isinstance(line, Row) else len(line.text)
        if size >= _SAMPLE:
            break
    return found


def decide(lines: Sequence[Row | MalformedRow], usual: str, quoting: Quoting | None = None) -> Dialect:
    """Return the dialect of a file that begins with ``lines``; ``usual`` is the separator its name promises.

    Raises DataError if no dialect makes rows of half of the lines, or if two would each read many lines that the other
    cannot; the latter not if ``quoting`` is given.
    """
    first = next((line for line in lines if isinstance(line, Row) and line.value.strip()), None)
    if first is None:
        return Dialect(usual, quoting or "quoted")
    marks = [mark for mark in dict.fromkeys([usual, *SEPARATORS]) if mark in first.value]
    best: _Trial | None = None
    for mark in marks or [NO_SEPARATOR]:
        trial = _best_quoting(lines, first, mark, (quoting,) if quoting else _QUOTINGS)
        if best is None or trial.rows > best.rows:
            best = trial
        if not best.bad:
            break
    assert best is not None
    if marks and _ONLY_URL.fullmatch(first.value):
        best = _or_one_column(best, lines, usual)
    if best.rows + best.literal < len(best.bad) - best.literal:
        raise DataError(
            f"most lines do not have the {len(best.dialect.columns)} fields of the first",
            expected=", ".join(best.dialect.columns),
            found=best.example,
            fix="quote fields that hold the separator",
        )
    return best.dialect


@dataclass
class _Trial:
    """A sample as a dialect reads it: how many rows with URLs, which other lines, and what is wrong with the first.

    ``literal``: how many of the others are rows, with quotes that could not be understood.
    """

    dialect: Dialect
    rows: int
    literal: int
    bad: set[int]
    example: str


def _best_quoting(
    lines: Sequence[Row | MalformedRow], first: Row, separator: str, quotings: Sequence[Quoting]
) -> _Trial:
    """Try ``quotings`` and return the best. Raises DataError if two would each read many lines the other cannot."""
    trials = []
    for quoting in quotings:
        trials.append(_try(lines, _columns(lines, first, Dialect(separator, quoting))))
        if not trials[-1].bad:
            break
    best = max(trials, key=lambda trial: (trial.rows, -len(trial.bad)))  # the first of equals
    few = max(_FEW, _FEW_SHARE * len(lines))
    for trial in trials:
        if len(best.bad - trial.bad) > few:
            raise DataError(
                "the lines are quoted in two ways",
                expected=f"lines that are all {' or '.join(_QUOTINGS)}",
                found=f"{len(trial.bad - best.bad)} only if {best.dialect.quoting}, such as {trial.example}; "
                f"{len(best.bad - trial.bad)} only if {trial.dialect.quoting}, such as {best.example}",
                fix="set quoting to one of them",
            )
    return best


def _columns(lines: Sequence[Row | MalformedRow], first: Row, dialect: Dialect) -> Dialect:
    """Complete a dialect by its columns, and those of them of which most values are URLs."""
    fields = dialect.fields(first)
    if any(URL.match(value) for value in fields):  # CC3M and CC12M have no header
        dialect = dialect._replace(columns=_unnamed(fields))
    else:
        dialect = dialect._replace(columns=fields, header=first.number)
    rows = [row.value for row in records(lines[:200], dialect, Counter()) if isinstance(row, Row)]
    shares = {place: sum(URL.match(row[place]) is not None for row in rows) for place in range(len(fields))}
    return dialect._replace(urls=[place for place, count in shares.items() if 2 * count > len(rows)])


def _unnamed(fields: Sequence[str]) -> list[str]:
    """Name the columns of a list without a header; of two, the one that is no URL is the caption."""
    place = next(place for place, value in enumerate(fields) if URL.match(value))
    names = [f"column_{number}" for number in range(1, len(fields) + 1)]
    names[place] = "url"
    if len(fields) == 2:
        names[1 - place] = "caption"
    return names


def _try(lines: Sequence[Row | MalformedRow], dialect: Dialect) -> _Trial:
    rows, literal, bad, example = 0, 0, set(), ""
    for item in records(lines, dialect, Counter()):
        if isinstance(item, Row) and not item.literal and dialect.is_row(item.value):
            rows += 1
            continue
        bad.add(item.number)
        literal += isinstance(item, Row) and item.literal
        detail = item.detail if isinstance(item, MalformedRow) else "no URL" if not item.literal else "a lone quote"
        text = item.text if isinstance(item, MalformedRow) else dialect.separator.join(item.value)
        example = example or f"line {item.number} ({detail}): {text[:100]!r}"
    return _Trial(dialect, rows, literal, bad, example)


def _or_one_column(best: _Trial, lines: Sequence[Row | MalformedRow], usual: str) -> _Trial:
    """Decide between ``best`` and URLs with commas, where there is no header. Raises DataError if both would do."""
    texts = [line for line in lines if isinstance(line, Row) and line.value.strip()]
    alone = sum(_ONLY_URL.fullmatch(line.value) is not None for line in texts)
    if alone == best.rows and best.dialect.separator == usual:
        raise DataError(
            "it is unclear whether its lines are URLs with commas, or URLs and further columns",
            found=texts[0].value[:200],
            fix="give it a header, such as a line url",
        )
    if alone < best.rows:
        return best
    return _try(lines, Dialect(NO_SEPARATOR, best.dialect.quoting, ["url"], urls=[0]))
