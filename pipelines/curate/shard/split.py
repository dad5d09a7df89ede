"""The global shuffle and the split into training and holdout, decided for each row by itself.

Both follow from hashes of the row's ids, so neither the order of the rows nor their shards matter, and nobody needs to
see all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from infra.errors import DataError
from infra.hashing import hash64
from pipelines.curate.shard.config import Config

__all__ = ["REPEATS", "Place", "place_of", "places_of"]

REPEATS = "repeats"
"""Column that says how many times a row shall be in training; a rule `subset` adds it where its list repeats ids."""


class Place(NamedTuple):
    """Position of a row in the order of all rows: compared field by field.

    ``sample``, ``second``: 64 bits each; rows held out that have both in common are one sample.
    """

    held_out: bool
    sample: int
    second: int
    within: int


def places_of(row: Mapping[str, Any], config: Config) -> list[Place]:
    """The place of a row, or the places in training of one that has ``repeats``.

    Raises DataError unless these are a count.
    """
    first, times = place_of(row, config), row.get(REPEATS)
    if times is not None and not (isinstance(times, int) and times >= 1):
        raise DataError(f"row {row['uid']} has {REPEATS} = {times!r}", expected="how often to train on it, from 1 on")
    if first.held_out or times is None:
        return [first]
    image = row.get("sha256") or row["uid"]
    again = ({**row, "sha256": image, "uid": f"{row['uid']}-{turn}"} for turn in range(1, times))
    return [first, *(place_of(one, config) for one in again)]


def place_of(row: Mapping[str, Any], config: Config) -> Place:
    """The place of a row, by its ``uid``, ``key``, ``sha256`` and ``cluster``.

    Rows of a ``cluster`` of near duplicates are on the same side, and without one those of the same image, which is
    identified by the digest of its bytes. In training each row is a sample; held out, each image is.
    """
    uid, image = row["uid"], row.get("sha256") or row["uid"]
    order = hash64(f"{config.seed}/order/{uid}")
    if hash64(f"{config.seed}/split/{row.get('cluster') or image}") >= config.holdout_fraction * 2**64:
        return Place(False, order, hash64(f"{row['key']}"), 0)
    return Place(True, hash64(f"{config.seed}/order/{image}"), hash64(image), order)
