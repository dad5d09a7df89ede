"""The global shuffle and the split into training and holdout, decided on rows alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from infra.hashing import hash64
from pipelines.curate.shard.config import Config

__all__ = ["Row", "shuffle_and_split"]

Row = dict[str, Any]


def shuffle_and_split(rows: Sequence[Row], config: Config) -> tuple[list[Row], list[list[Row]]]:
    """The training rows, shuffled, and the rows held out, shuffled and grouped by image.

    Both follow from hashes of the rows' ids, so neither their order nor their shards matter. An image is identified by
    the digest of its bytes: all its rows are on the same side.
    """
    train: list[Row] = []
    holdout: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (hash64(f"{config.seed}/order/{row['uid']}"), row["key"])):
        content = row["sha256"] or row["uid"]
        if hash64(f"{config.seed}/split/{content}") < config.holdout_fraction * 2**64:
            holdout[content].append(row)
        else:
            train.append(row)
    return train, list(holdout.values())
