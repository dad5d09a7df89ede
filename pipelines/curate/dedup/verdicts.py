"""The way back of what was decided: from originals to those that they stand for, and to each row's home."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from infra.exchange import UP, Task
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.dedup.homes import Homes, column_at_home
from pipelines.tables import read_table

__all__ = ["DUPLICATES", "PENDING", "follow", "name_originals", "uids_at_home"]

_OF_IMAGES = (Drop.DUPLICATE_URL, Drop.DUPLICATE_BYTES, Drop.NEAR_DUPLICATE)
DUPLICATES = frozenset(reason.value for reason in (*_OF_IMAGES, Drop.DUPLICATE_TEXT, Drop.NEAR_DUPLICATE_TEXT))
PENDING = pa.schema([("row", pa.int64()), ("original", pa.int64()), ("reason", pa.string())])
VERDICTS = pa.schema([("row", pa.int64()), ("original", pa.int64()), ("uid", pa.string()), ("reason", pa.string())])


def name_originals(selection: Store, homes: Homes, near: Sequence[str], reason: str, task: Task) -> None:
    """Stream ``named``: verdicts on near duplicates, for ``reason``, with the ``uid`` of originals at home here."""
    rows = pa.concat_tables([task.receive(stream) for stream in near]).sort_by([("original", UP), ("row", UP)])
    uids = uids_at_home(selection, task, rows["original"])
    reasons = pa.array([reason] * rows.num_rows, pa.string())
    named = pa.table([rows["row"], rows["original"], uids, reasons], schema=VERDICTS)
    task.send("named", named, homes.of(named["row"]))


def follow(selection: Store, homes: Homes, pending: str, known: str, settled: str, task: Task) -> None:
    """Send verdicts (stream ``settled``) on the rows of ``pending`` whose original is in this partition.

    An original may itself be dropped: then what stays instead of it stays instead of them, too, and if it is a
    placeholder, so are they. The ``known`` verdicts on rows of this home go along.
    """
    rows = task.receive(pending, [("original", UP), ("row", UP)])
    before = task.receive(known, [("row", UP)]) if known in task.inbox else VERDICTS.empty_table()
    columns = (before[name].to_pylist() for name in VERDICTS.names)
    replaced = {row: (original, uid, why) for row, original, uid, why in zip(*columns, strict=True)}
    uids = uids_at_home(selection, task, rows["original"]).to_pylist()
    own = zip(rows["original"].to_pylist(), uids, rows["reason"].to_pylist(), strict=True)
    found = [_followed(replaced.get(original), (original, uid, reason)) for original, uid, reason in own]
    followed = [
        dict(zip(VERDICTS.names, (row, *verdict), strict=True))
        for row, verdict in zip(rows["row"].to_pylist(), found, strict=True)
    ]
    verdicts = pa.concat_tables([before, pa.Table.from_pylist(followed, VERDICTS)])
    task.send(settled, verdicts, homes.of(verdicts["row"]))


Verdict = tuple[int, str, str]  # original, its uid, reason


def _followed(of_original: Verdict | None, verdict: Verdict) -> Verdict:
    """The verdict on a row, given that on its original, if there is one."""
    if of_original is None:
        return verdict
    original, uid, why = of_original
    return original, uid, why if why == Drop.PLACEHOLDER else verdict[2]


def uids_at_home(selection: Store, task: Task, rows: pa.ChunkedArray) -> pa.Array:
    """The ``uid`` of each of ``rows``, of this home, which come in order."""

    def read(_: int, path: str) -> pa.Array:
        return read_table(selection, path, ["uid"])["uid"].combine_chunks()

    return column_at_home(task.spec, rows.to_numpy(), read, pa.string())
