"""Apply rules to the rows of a shard, and say clearly what is wrong with a rule that cannot be applied."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import CliplineError, DataError
from infra.rows import counted, row_error
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.filter.rules import Rule
from pipelines.layout import Images
from pipelines.tables import (
    SELECTION_COLUMNS,
    image_table,
    read_table,
    successes,
    with_image_columns,
    write_selection,
)

__all__ = ["filter_shard", "judge"]

_FEW = 10  # rows that a rule may fail at, however few there are


def filter_shard(
    rules: Sequence[Rule], images: Images, selection: Store | None, spec: tuple[int, str], output: ShardOutput
) -> ShardRecord:
    """Write the selection of one shard: of the kept rows of ``selection``, or else of all images of the shard.

    Both outputs have the columns of a selection, those that ``selection`` has beyond these, and those the rules read.
    ``spec``: number of the shard and path of its table. Raises DataError.
    """
    shard, path = spec
    needed = _distinct(column for rule in rules for column in rule.needs())
    if selection is None:
        rows = successes(image_table(images, shard), shard)
        carried = [name for name in _distinct([*SELECTION_COLUMNS, *needed]) if name in rows.column_names]
    else:
        rows = with_image_columns(read_table(selection, path), images, shard, needed)
        carried = rows.column_names
    errors: list[str] = []
    selection_funnel = write_selection(output, shard, rows.select(carried), judge(rows, rules, errors))
    return output.commit(selection_funnel, counted(errors))


def judge(rows: pa.Table, rules: Sequence[Rule], errors: list[str] | None = None) -> list[str | None]:
    """For each row the reason of the first rule it fails, or None. Each rule sees only rows that passed the others.

    A row that a rule fails at is dropped as ``Drop.UNFORESEEN``, and what happened is added to ``errors``. Raises
    DataError for a rule that needs a column ``rows`` lack, fails at every row or at most of many, or does not return
    one answer per row.
    """
    reasons: list[str | None] = [None] * rows.num_rows
    passed = np.arange(rows.num_rows)
    for rule in rules:
        read = _columns(rule, rows).take(passed)
        failed: dict[int, Exception] = {}
        keeps = _answers(rule, read, failed)
        if len(failed) == len(passed) > 1:
            raise _broken(rule, read, failed[0]) from failed[0]
        for place in np.flatnonzero(~keeps).tolist():
            reasons[passed[place]] = Drop.UNFORESEEN.value if place in failed else rule.reason
        if errors is not None:
            errors += map(row_error, failed.values())
        passed = passed[keeps]
    return reasons


def _columns(rule: Rule, rows: pa.Table) -> pa.Table:
    """The columns that ``rule`` reads."""
    names = _distinct(rule.needs())
    if missing := [name for name in names if name not in rows.column_names]:
        raise DataError(
            f"rule {rule.kind!r} needs the column {missing[0]!r}, which these images do not have",
            expected=f"columns {', '.join(names)}",
            found=f"columns {', '.join(rows.column_names)}",
        )
    return rows.select(names)


def _answers(rule: Rule, rows: pa.Table, failed: dict[int, Exception], first: int = 0) -> NDArray[np.bool_]:
    """One boolean per row, null as False. ``failed``: gets what the rule raised at a row, counted from ``first``.

    If the rule fails, each half of the rows is asked for by itself, so that only the rows that it fails at are lost.
    """
    if not rows.num_rows:  # which many a computation cannot handle
        return np.zeros(0, np.bool_)
    try:
        return _ask(rule, rows)
    except CliplineError:
        raise
    except Exception as error:
        if rows.num_rows == 1:
            failed[first] = error
            if len(failed) > _FEW and len(failed) > first // 2:
                raise _broken(rule, rows, error) from error
            return np.zeros(1, np.bool_)
    half = rows.num_rows // 2
    return np.concatenate(
        [_answers(rule, rows[:half], failed, first), _answers(rule, rows[half:], failed, first + half)]
    )


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


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
