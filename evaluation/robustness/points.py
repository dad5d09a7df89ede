"""Read accuracies of models measured elsewhere, which the line of effective robustness is fitted to."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.errors import DataError, UsageError

__all__ = ["read_points"]


def read_points(path: str, standard: str = "standard", shifted: str = "shifted") -> tuple[tuple[float, float], ...]:
    """The accuracies of each model on two test sets, shares of 1, from the columns of these names.

    A row for each model: of a CSV file with a header, or objects in a JSON list. There may be more columns, so that one
    file serves several shifts; a model that lacks one of the two is left out.

    Raises UsageError if there is no such file, DataError if it has no such columns or what is no accuracy.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"there is no file {path}", expected="a CSV or JSON file with a row for each model")
    rows = _rows(file)
    points = []
    for number, row in enumerate(rows, 1):
        given = [row.get(name) for name in (standard, shifted)]
        if None not in given and "" not in given:
            first, second = (_accuracy(value, f"row {number} of {path}") for value in given)
            points.append((first, second))
    if not points:
        raise DataError(
            f"{path} has no model with both accuracies",
            expected=f"columns {standard} and {shifted}",
            found=", ".join(rows[0]) if rows else "no row",
        )
    return tuple(points)


def _rows(file: Path) -> Sequence[Mapping[str, Any]]:
    try:
        text = file.read_text("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines())) if file.suffix.lower() != ".json" else json.loads(text)
    except ValueError as error:
        raise DataError(f"{file} cannot be read", expected="CSV, or a JSON list", found=str(error)) from None
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise DataError(f"{file} has no row for each model", expected="a list of objects", found=str(rows)[:80])
    return rows


def _accuracy(value: object, place: str) -> float:
    """A share that has a logit."""
    try:
        share = float(value) if isinstance(value, (str, int, float)) else -1.0
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise DataError(
            f"{place} has no accuracy", expected="a share between 0 and 1, no percentage", found=repr(value)
        )
    return share
