"""Apply rules to the rows of a shard, and say clearly what is wrong with a rule that cannot be applied."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import CliplineError, DataError
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.store import Store
from pipelines.curate.filter.rules import Rule
from pipelines.layout import Images
from pipelines.tables import SELECTION_COLUMNS, image_columns, image_table, read_table, successes, write_selection

__all__ = ["filter_shard", "judge"]


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
        rows = _with_image_columns(read_table(selection, path), images, shard, needed)
        carried = rows.column_names
    return output.commit(write_selection(output, shard, rows.select(carried), judge(rows, rules)))


def judge(rows: pa.Table, rules: Sequence[Rule]) -> list[str | None]:
    """For each row the reason of the first rule it fails, or None. Each rule sees only rows that passed the others.

    Raises DataError for a rule that needs a column ``rows`` lack, fails, or does not return one answer per row.
    """
    reasons: list[str | None] = [None] * rows.num_rows
    passed = np.arange(rows.num_rows)
    for rule in rules:
        keeps = _answers(rule, _columns(rule, rows).take(passed))
        for row in passed[~keeps]:
            reasons[row] = rule.reason
        passed = passed[keeps]
    return reasons


def _with_image_columns(rows: pa.Table, images: Images, shard: int, names: Sequence[str]) -> pa.Table:
    """``rows`` of a selection, with those of the columns ``names`` they lack that the shard of images has."""
    lacking = [name for name in names if name not in rows.column_names]
    if not lacking or not (found := [name for name in image_columns(images, shard) if name in lacking]):
        return rows
    source = image_table(images, shard, ["key", *found])
    indices = pc.index_in(rows["key"], value_set=source["key"].combine_chunks())
    for name in found:
        rows = rows.append_column(name, source[name].take(indices))
    return rows


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


def _answers(rule: Rule, rows: pa.Table) -> NDArray[np.bool_]:
    """One boolean per row, null as False."""
    if not rows.num_rows:  # which many a computation cannot handle
        return np.zeros(0, np.bool_)
    try:
        answers: NDArray[Any] = np.asarray(rule.keeps(rows))
    except CliplineError:
        raise
    except Exception as error:
        # A rule of a user can raise anything: name the rule, and the line of keeps() it came from.
        frames = traceback.extract_tb(error.__traceback__)
        place = [frame for frame in frames if frame.filename != __file__][:1] or frames
        raise DataError(
            f"rule {rule.kind!r} failed",
            expected=f"one boolean per row, computed from the columns it lists: {', '.join(rows.column_names)}",
            found=f"{type(error).__name__}: {error} ({Path(place[0].filename).name}:{place[0].lineno})",
        ) from error
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
