"""Functions on columns of numbers and addresses, for rules: pyarrow arrays in, pyarrow or numpy arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipelines.curate.filter.rules import Score

__all__ = ["aspect", "numbers", "ratio", "scored", "shorter_side", "within"]


def within(values: Any, least: float | None, most: float | None) -> NDArray[np.bool_]:  # noqa: ANN401 - any array
    """True where ``values`` lie between the two, both included; False for null and NaN."""
    found = numbers(values)
    keeps = ~np.isnan(found)
    if least is not None:
        keeps &= found >= least
    if most is not None:
        keeps &= found <= most
    return keeps


def numbers(values: Any) -> NDArray[np.float64]:  # noqa: ANN401 - any array
    """``values`` as float64, null as NaN."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return np.asarray(pc.fill_null(pc.cast(values, pa.float64(), safe=False), np.nan).to_numpy(), np.float64)
    return np.asarray(values, np.float64)


def shorter_side(rows: pa.Table) -> pa.ChunkedArray:
    """Pixels of the shorter side of the originals."""
    return pc.min_element_wise(rows["original_width"], rows["original_height"], skip_nulls=False)


def aspect(rows: pa.Table) -> NDArray[np.float64]:
    """Longer by shorter side of the originals."""
    width, height = (numbers(rows[name]) for name in ("original_width", "original_height"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.maximum(width, height) / np.minimum(width, height))


def ratio(values: Any, width: Any, height: Any) -> NDArray[np.float64]:  # noqa: ANN401 - any arrays
    """``values`` over width times height."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numbers(values) / (numbers(width) * numbers(height)))


def scored(rule: Score, rows: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the rows within the limits of ``rule`` for their language, and of those without a score."""
    values = rule.value(rows)
    if not (rule.by_language or rule.min_by_language):
        return within(values, *rule.bounds()), np.isnan(values)
    keeps = np.zeros(len(values), np.bool_)
    languages = np.array(pc.fill_null(rows["caption_language"], "").to_pylist(), np.object_)
    for language in sorted(set(languages)):
        own = languages == language
        keeps[own] = within(values[own], *rule.bounds(language))
    return keeps, np.isnan(values)
