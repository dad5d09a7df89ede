"""The record of one shard: its files, the account of its rows, and facts that later steps need.

There may be millions, so they are msgspec's structs: checked when they are read, at a microsecond each.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from infra.errors import DataError

__all__ = ["File", "Funnel", "ShardRecord", "add_up", "encode", "parse"]

_T = TypeVar("_T", bound=msgspec.Struct)


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One file of an artifact; ``path`` is relative to the artifact's folder.

    An adopted file on an object store is known by the store's ``etag`` and has no ``sha256``.
    """

    path: str
    bytes: int
    sha256: str = ""
    etag: str = ""
    rows: int | None = None


class Funnel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of a stage's rows: every row that entered is kept or dropped for a named reason."""

    unit: str
    entered: int
    kept: int
    dropped: dict[str, int] = {}

    def __post_init__(self) -> None:
        """Raises DataError if a row is lost, or a count is below zero and could hide that."""
        lost = sum(self.dropped.values())
        if self.entered != self.kept + lost or min(self.kept, *self.dropped.values(), 0) < 0:
            raise DataError(
                f"{self.unit} are unaccounted for",
                expected=f"{self.entered} entered = kept + dropped, none of them below zero",
                found=f"{self.kept} kept + {lost} dropped {self.dropped}",
            )

    def __add__(self, other: Funnel) -> Funnel:
        if self.unit != other.unit:
            raise DataError("funnels of different units cannot be added", found=f"{self.unit} and {other.unit}")
        return add_up([self, other])[0]

    def to_json(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


def add_up(funnels: Iterable[Funnel]) -> list[Funnel]:
    """The sum of all ``funnels`` of each unit, by unit; reasons are sorted."""
    entered: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in funnels:
        entered[one.unit] += one.entered
        kept[one.unit] += one.kept
        reasons = dropped[one.unit]
        for reason, count in one.dropped.items():
            reasons[reason] += count
    return [Funnel(unit, entered[unit], kept[unit], dict(sorted(dropped[unit].items()))) for unit in sorted(entered)]


class ShardRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One committed shard: its files, its part of the funnel, and small JSON facts later steps need."""

    shard: str
    files: list[File] = []
    funnel: Funnel | None = None
    facts: dict[str, Any] = {}


def encode(value: object) -> bytes:
    """``value`` as JSON; numbers and texts of numpy become JSON's. Raises TypeError for what JSON has no form for."""
    return _ENCODER.encode(value)


def plain(value: object) -> Any:  # noqa: ANN401 - JSON
    """A number or text of numpy as one of Python. Raises TypeError."""
    item = getattr(value, "item", None)
    if not callable(item) or getattr(value, "shape", None) != ():
        raise TypeError(f"JSON has no form for {type(value).__name__}")
    return item()


_ENCODER = msgspec.json.Encoder(enc_hook=plain)


def parse(kind: type[_T], data: bytes, place: str = "") -> _T:
    """The ``kind`` of record that ``data`` is, in JSON. Raises DataError, naming ``place``, if it is none."""
    try:
        return msgspec.convert(json.loads(data), kind)  # not msgspec.json: metrics may be NaN
    except ValueError as error:
        raise unreadable(kind, place, error) from None


def unreadable(kind: type, place: str, error: Exception) -> DataError:
    """The error for a file that holds no ``kind`` of record."""
    return DataError(
        f"{place or 'this'} is not a {kind.__name__.lower()} this version of clipline can read",
        found=str(error),
        fix="if it was made by another version use that one, else remove it and run again",
    )
