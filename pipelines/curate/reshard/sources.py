"""Read the samples of shards, tar by tar, those of a subset as often as it lists them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import pyarrow as pa

from infra.exchange import Task
from infra.formats.shards import IMAGE_EXTENSIONS, read_samples, shard_name, training_tars
from infra.run.manifest import Artifact, Funnel
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.shard.gather import Sample
from pipelines.curate.shard.sources import LOT_BYTES, in_lots
from pipelines.curate.shard.split import REPEATS
from pipelines.curate.subset.ids import UID

__all__ = ["Known", "Lot", "known_samples", "lots_of", "samples_of"]

_SAMPLE = 8 << 10  # bytes that a sample has, about, if nobody has counted them
_UID = re.compile(rf"({UID})(?:-\d+)?")  # DataComp's keys number the repetitions

_DROPPED = pa.schema([(name, pa.string()) for name in ("uid", "key", "tar", "reason")])

Lot = Sequence[tuple[Store, str]]


class Known(NamedTuple):
    """A sample with what places it in the new order: ``uid``, ``key`` and ``cluster``; or why it cannot be written."""

    row: Mapping[str, Any]
    members: Mapping[str, bytes]
    reason: Drop | None
    tar: str


def lots_of(artifacts: Sequence[Artifact]) -> tuple[Sequence[Lot], int]:
    """The tars in lots of about half a gigabyte, at least one; and the number of samples, about."""
    tars = [(artifact.store, file) for artifact in artifacts for file in training_tars(artifact)]
    lots = in_lots(((store, file.path), file.bytes / LOT_BYTES) for store, file in tars)
    return lots, sum(file.rows or file.bytes // _SAMPLE for _, file in tars)


def known_samples(task: Task) -> Iterator[Known]:
    """All samples of a lot, in the order of its tars."""
    for store, path in task.spec:
        place = store.locate(path)
        with store.open(path) as source:
            for sample in read_samples(source, place=place):
                key = sample.pop("__key__")
                row, reason = _row(key, sample), None
                if row is None:
                    row, reason = {"key": key}, Drop.MALFORMED
                elif _image(sample) is None:
                    reason = Drop.MISSING
                yield Known(row, sample, reason, path)


def samples_of(stream: str | None, task: Task) -> Iterator[Sample]:
    """The samples of a lot, each as often as ``stream`` tells. All others are written as dropped, with the reason."""
    times: dict[int, int] = {}
    if stream:
        told = task.receive(stream)
        times = dict(zip(told["place"].to_pylist(), told["times"].to_pylist(), strict=True))
    entered = 0
    dropped: list[dict[str, str | None]] = []
    for place, (row, members, reason, tar) in enumerate(known_samples(task)):
        entered += 1
        why = reason or (Drop.SUBSET if stream and place not in times else None)
        if why:
            dropped.append({"uid": row.get("uid"), "key": row["key"], "tar": tar, "reason": str(why)})
            continue
        repeats = {REPEATS: times[place]} if stream else {}
        yield Sample({**row, **repeats, "sha256": sha256(_image(members) or b"").hexdigest()}, members)
    if dropped:
        table = pa.Table.from_pylist(dropped, _DROPPED)
        task.output.write_table(f"data/dropped-{shard_name(task.number)}.parquet", table)
    reasons = dict(sorted(Counter(str(row["reason"]) for row in dropped).items()))
    task.funnel = Funnel(unit="samples", entered=entered, kept=entered - len(dropped), dropped=reasons)


def _image(members: Mapping[str, bytes]) -> bytes | None:
    return next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)


def _row(key: str, members: Mapping[str, bytes]) -> dict[str, Any] | None:
    """Return the columns that place a sample in the new order, but for the digest of its image.

    None if its JSON cannot be read. A sample without a ``uid`` in it is known by all its bytes.
    """
    known: Any = {}
    if "json" in members:
        try:
            known = json.loads(members["json"])
        except (ValueError, RecursionError):
            return None
    known = known if isinstance(known, dict) else {}
    uid = known.get("uid")
    if not isinstance(uid, str):
        match = _UID.fullmatch(key.rpartition("/")[2])
        uid = match[1] if match else sha256(b"".join(members.values())).hexdigest()
    return {"uid": uid, "key": key, "cluster": known.get("cluster")}
