"""Preference among the rows of one image, as a number for each: the greatest stays, and of equals the first."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import DataError
from infra.store import Store
from pipelines.curate.dedup.config import Staying
from pipelines.curate.filter.columns import numbers
from pipelines.tables import table_columns

__all__ = ["columns", "preference", "scores"]

_SIDES = ("original_width", "original_height")


def columns(config: Staying, selection: Store, path: str) -> list[str]:
    """The columns of the table at ``path`` that :func:`preference` needs and that are there."""
    known = table_columns(selection, path)
    needed = {"largest": _SIDES, "best": (config.score,), "earliest": ()}[config.stays]
    return [name for name in needed if name in known]


def preference(rows: pa.Table, config: Staying) -> NDArray[np.int64]:
    """Return the preference for each row: (n,) int64. Raises DataError if it has no such scores."""
    match config.stays:
        case "largest":
            sides = (pc.fill_null(rows[name], 0).cast(pa.int64()) for name in _SIDES)
            return np.asarray(pc.multiply(*sides).to_numpy(), np.int64)
        case "best":
            return scores(rows, config.score)
    return np.zeros(rows.num_rows, np.int64)


def scores(rows: pa.Table, name: str) -> NDArray[np.int64]:
    """Integers in the order of the column of numbers ``name``, those without a number least: (n,) int64.

    Raises DataError if there is no such column.
    """
    if name not in rows.column_names:
        raise DataError(
            f"the rows have no column {name!r}",
            expected="a column of scores, by which dedup.score chooses",
            fix="score the rows before dedup, or name another column",
        )
    try:
        values = numbers(rows[name])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"the column {name!r} is not one of numbers", found=str(error)) from error
    # The bits of floats are in their order, of negative ones in the opposite; -0.0 becomes 0.0.
    bits = (values + 0.0).view(np.int64)
    lowest = np.iinfo(np.int64)
    return np.where(np.isnan(values), lowest.min, np.where(bits < 0, bits ^ lowest.max, bits))
