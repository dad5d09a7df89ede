"""Apply rules to the rows of a shard, and say clearly what is wrong with a rule that cannot be applied.

Every rule sees every row, also those that another drops: what a rule finds does not depend on its place in the list,
which decides only whose reason a row gets. So the cost of a filter is the sum of its rules'.
"""

from __future__ import annotations

import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import CliplineError, DataError
from infra.formats.shards import shard_name
from infra.rows import counted, row_error, too_many
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.filter.measures import MEASURED, Measured, measured
from pipelines.curate.filter.rules import Rule
from pipelines.layout import Images
from pipelines.tables import (
    image_rows,
    read_table,
    with_column,
    with_image_columns,
    with_listed_columns,
    write_selection,
)

__all__ = ["SCRATCH", "Failures", "failures", "filter_shard", "judge", "rows_of", "scratch_table"]

SCRATCH = "scratch"

Failures = list[list[str]]
"""For each row the reasons of all the rules it fails, in their order. The first is the reason it is dropped for."""


def filter_shard(
    rules: Sequence[Rule],
    images: Images,
    selection: Store | None,
    scratch: Store | None,
    spec: tuple[int, str],
    output: ShardOutput,
) -> ShardRecord:
    """Write the selection of one shard: of the kept rows of ``selection``, or else of all images of the shard.

    Without any ``images`` it is pairs that are judged, and ``selection`` has their files.

    Both outputs have the columns of what was read and those that rules asked for; dropped rows have ``failed``, too,
    all the rules they fail. ``scratch``: has columns of the shard that were measured before. ``spec``: number of the
    shard and path of its table. Raises DataError.
    """
    shard, _ = spec
    rows, reasons, errors = rows_of(rules, images, selection, spec, scratch)
    found: Failures = [[str(reason)] if reason else [] for reason in reasons]
    for row, failed in zip(found, failures(rows, rules, errors, changed := _Changed(rows)), strict=True):
        row += failed
    rows = changed.rows
    firsts = [failed[0] if failed else None for failed in found]
    notes = {"failed": pa.array([failed or None for failed in found], pa.list_(pa.string()))}
    funnel = write_selection(output, shard, rows, firsts, notes, unit="images" if images.stores else "pairs")
    facts: dict[str, Any] = {"failed": _sorted(Counter(name for failed in found for name in set(failed)))}
    if changed.count:
        facts["rewritten"] = _sorted(changed.count)
    facts["languages"] = _by_language(rows["caption_language"].to_pylist(), firsts)
    return output.commit(funnel, facts | counted(errors))


def scratch_table(shard: int) -> str:
    """Path of the columns of a shard that were measured before."""
    return f"{SCRATCH}/measured-{shard_name(shard)}.parquet"


def rows_of(
    rules: Sequence[Rule],
    images: Images,
    selection: Store | None,
    spec: tuple[int, str],
    scratch: Store | None = None,
) -> Measured:
    """The rows that a filter judges, with all columns that rules need and images have."""
    shard, path = spec
    needed = _distinct(["caption_language", *(column for rule in rules for column in rule.needs())])
    if selection is None:
        rows = image_rows(images, shard)
    elif not images.stores:
        rows = with_listed_columns(read_table(selection, path), needed)
        needed = [name for name in needed if not name.startswith("image_")]  # which only an image tells
    else:
        rows = with_image_columns(read_table(selection, path), images, shard, needed)
    if scratch is None:
        return measured(rows, needed, images, shard)
    known = read_table(scratch, scratch_table(shard))
    for name in MEASURED:
        if name in known.column_names:
            rows = with_column(rows, name, known[name])
    return Measured(rows, [reason and Drop(reason) for reason in known["reason"].to_pylist()], [])


def judge(rows: pa.Table, rules: Sequence[Rule], errors: list[str] | None = None) -> list[str | None]:
    """For each row the reason of the first rule it fails, or None."""
    return [failed[0] if failed else None for failed in failures(rows, rules, errors)]


def failures(
    rows: pa.Table, rules: Sequence[Rule], errors: list[str] | None = None, changed: _Changed | None = None
) -> Failures:
    """The reasons of all the rules that each row fails.

    A row that a rule fails at fails as ``Drop.UNFORESEEN``; what happened is added to ``errors`` if it is dropped for
    that. ``changed``: gets the rows as rules rewrite them. Raises DataError for a rule that needs a column ``rows``
    lack, fails at every row not dropped before or at most of many, or does not return one answer per row.
    """
    found: Failures = [[] for _ in range(rows.num_rows)]
    passed = np.ones(rows.num_rows, np.bool_)
    changed = changed or _Changed(rows)
    for rule in rules:
        read = _columns(rule, changed.rows)
        answers = _Answers(rule, passed)
        keeps = answers.of(read)
        for row in np.flatnonzero(~keeps).tolist():
            found[row].append(Drop.UNFORESEEN.value if row in answers.failed else rule.name)
        if errors is not None:
            errors += [row_error(error) for row, error in answers.failed.items() if passed[row]]
        passed &= keeps
        changed.apply(rule, read)
    return found


class _Changed:
    """Rows as rules rewrite them, and by rule how many it changed."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows
        self.count: Counter[str] = Counter()

    def apply(self, rule: Rule, read: pa.Table) -> None:
        for name, values in rule.rewrites(read).items():
            before = self.rows[name].combine_chunks() if name in self.rows.column_names else None
            self.rows = with_column(self.rows, name, values)
            if before is not None:
                other = pc.fill_null(pc.not_equal(before, self.rows[name].combine_chunks()), False)
                self.count[rule.name] += pc.sum(other).as_py() or 0


def _columns(rule: Rule, rows: pa.Table) -> pa.Table:
    """The columns that ``rule`` reads."""
    names = _distinct(rule.needs())
    if absent := [name for name in names if name not in rows.column_names]:
        lacking = "images" if "key" in rows.column_names else "pairs, which are not downloaded yet,"
        raise DataError(
            f"rule {rule.kind!r} needs the column {absent[0]!r}, which these {lacking} do not have",
            expected=f"columns {', '.join(names)}",
            found=f"columns {', '.join(rows.column_names)}",
        )
    return rows.select(names)


class _Answers:
    """Answers of one rule for the rows of a table, also if it fails at some of them.

    ``passed``: rows that no rule before drops; a rule is broken only if it fails at these. ``failed``: what it raised,
    by row.
    """

    def __init__(self, rule: Rule, passed: NDArray[np.bool_]) -> None:
        self._rule, self._passed = rule, passed
        self._lost = 0  # of the rows that passed before
        self.failed: dict[int, Exception] = {}

    def of(self, rows: pa.Table) -> NDArray[np.bool_]:
        """One boolean per row, null as False."""
        keeps = self._asked(rows, 0)
        if self._lost == self._passed.sum() > 1:
            first = next(error for row, error in self.failed.items() if self._passed[row])
            raise _broken(self._rule, rows, first) from first
        return keeps

    def _asked(self, rows: pa.Table, first: int) -> NDArray[np.bool_]:
        """:meth:`of` for the rows from number ``first`` on.

        If the rule fails, each half of the rows is asked for by itself, so that only the rows that it fails at are
        lost.
        """
        if not rows.num_rows:  # which many a computation cannot handle
            return np.zeros(0, np.bool_)
        try:
            return _ask(self._rule, rows)
        except CliplineError:
            raise
        except Exception as error:
            if rows.num_rows == 1:
                self.failed[first] = error
                self._lost += int(self._passed[first])
                if self._passed[first] and too_many(self._lost, int(self._passed[:first].sum()), 0.5):
                    raise _broken(self._rule, rows, error) from error
                return np.zeros(1, np.bool_)
        half = rows.num_rows // 2
        return np.concatenate([self._asked(rows[:half], first), self._asked(rows[half:], first + half)])


def _broken(rule: Rule, rows: pa.Table, error: Exception) -> DataError:
    """The error of a rule that failed: names the rule, and the line of keeps() it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = [frame for frame in frames if frame.filename != __file__][:1] or frames
    return DataError(
        f"rule {rule.kind!r} failed",
        expected=f"one boolean per row, computed from the columns it lists: {', '.join(rows.column_names)}",
        found=f"{type(error).__name__}: {error} ({Path(place[0].filename).name}:{place[0].lineno})",
    )


def _ask(rule: Rule, rows: pa.Table) -> NDArray[np.bool_]:
    answers: NDArray[Any] = np.asarray(rule.keeps(rows))
    if answers.shape != (rows.num_rows,) or not _is_boolean(answers):
        raise DataError(
            f"rule {rule.kind!r} did not return one boolean per row",
            expected=f"{rows.num_rows} booleans",
            found=f"an array of shape {answers.shape} and type {answers.dtype}",
        )
    return answers.astype(np.bool_)


def _is_boolean(answers: NDArray[Any]) -> bool:
    """True for booleans, and for booleans and nulls, which are an array of objects."""
    if answers.dtype == np.object_:
        return all(answer is None or isinstance(answer, (bool, np.bool_)) for answer in answers)
    return answers.dtype == np.bool_


def _by_language(languages: Sequence[str | None], reasons: Sequence[str | None]) -> dict[str, dict[str, int]]:
    """Rows by language and by what became of them; ``kept`` is none of the reasons."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for language, reason in zip(languages, reasons, strict=True):
        counts[language or ""][reason or ""] += 1
    return {language: _sorted(counts[language]) for language in sorted(counts)}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
