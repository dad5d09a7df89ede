"""Read the samples of shards, tar by tar, those of a subset as often as it lists them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import pyarrow as pa

from infra.errors import DataError
from infra.exchange import Task
from infra.formats.shards import IMAGE_EXTENSIONS, read_samples, shard_name, training_tars
from infra.run.manifest import Artifact, Funnel
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.filter.lists import times_in_subset
from pipelines.curate.shard.gather import Sample
from pipelines.curate.shard.sources import LOT_BYTES, in_lots
from pipelines.curate.shard.split import REPEATS

__all__ = ["lots_of", "samples_of"]

_SAMPLE = 8 << 10  # bytes that a sample has, about, if nobody has counted them
_UID = re.compile(r"([0-9a-f]{32})(?:-\d+)?")  # DataComp's keys number the repetitions

_DROPPED = pa.schema([(name, pa.string()) for name in ("uid", "key", "tar", "reason")])

Lot = Sequence[tuple[Store, str]]


def lots_of(artifacts: Sequence[Artifact]) -> tuple[Sequence[Lot], int]:
    """The tars in lots of about half a gigabyte, at least one; and the number of samples, about."""
    tars = [(artifact.store, file) for artifact in artifacts for file in training_tars(artifact)]
    lots = in_lots(((store, file.path), file.bytes / LOT_BYTES) for store, file in tars)
    return lots, sum(file.rows or file.bytes // _SAMPLE for _, file in tars)


def samples_of(subset: Artifact | None, task: Task) -> Iterator[Sample]:
    """The samples of a lot. Those without an image or with unreadable JSON, and those not in ``subset``, are written as
    dropped."""
    entered = 0
    dropped: list[dict[str, str | None]] = []
    for store, path in task.spec:
        place = store.locate(path)
        with store.open(path) as source:
            for sample in read_samples(source, place=place):
                entered += 1
                key = sample.pop("__key__")
                row, reason = _row(key, sample), None
                if row is None:
                    row, reason = {}, Drop.MALFORMED
                elif row["sha256"] is None:
                    reason = Drop.MISSING
                elif subset is not None and not (times := _times(row, subset, place)):
                    reason = Drop.SUBSET
                elif subset is not None:
                    row[REPEATS] = times
                if reason:
                    dropped.append({"uid": row.get("uid"), "key": key, "tar": path, "reason": str(reason)})
                else:
                    yield Sample(row, sample)
    if dropped:
        table = pa.Table.from_pylist(dropped, _DROPPED)
        task.output.write_table(f"data/dropped-{shard_name(task.number)}.parquet", table)
    reasons = dict(sorted(Counter(str(row["reason"]) for row in dropped).items()))
    task.funnel = Funnel(unit="samples", entered=entered, kept=entered - len(dropped), dropped=reasons)


def _row(key: str, members: Mapping[str, bytes]) -> dict[str, Any] | None:
    """Return the columns that place a sample in the new order: ``uid``, ``key``, ``sha256`` of its image, ``cluster``.

    None if its JSON cannot be read. A sample without a ``uid`` in it is known by all its bytes.
    """
    known: Any = {}
    if "json" in members:
        try:
            known = json.loads(members["json"])
        except (ValueError, RecursionError):
            return None
    known = known if isinstance(known, dict) else {}
    image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
    uid = known.get("uid")
    if not isinstance(uid, str):
        match = _UID.fullmatch(key.rpartition("/")[2])
        uid = match[1] if match else sha256(b"".join(members.values())).hexdigest()
    found = {"uid": uid, "key": key, "sha256": None if image is None else sha256(image).hexdigest()}
    return found | {"cluster": known.get("cluster")}


def _times(row: Mapping[str, Any], subset: Artifact, place: str) -> int:
    """Return the number of times that a sample is listed. Raises DataError for one without an id."""
    if len(row["uid"]) != 32:
        raise DataError(
            f"{place}: sample {row['key']!r} has no id",
            expected="a uid of 32 hex digits in its JSON, or as its key",
            fix="reshard without a subset",
        )
    return int(times_in_subset(pa.chunked_array([[row["uid"].lower()]]), (), subset)[0])
