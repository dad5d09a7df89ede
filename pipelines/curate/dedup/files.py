"""Equal URLs, equal files and placeholders: one part of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.exchange import DOWN, UP, Task
from infra.schema import Drop
from pipelines.curate.dedup.clusters import edges_of, send_edges
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.homes import Homes, part_of
from pipelines.curate.dedup.verdicts import PENDING

__all__ = ["equal_files", "firsts", "originals_at", "send_equal", "send_same_urls"]

Array = NDArray[Any]


def send_same_urls(config: Config, homes: Homes, parts: int, task: Task) -> None:
    """Of readable rows with one URL all but the best are duplicates: stream ``same-url``, to the original's home.

    Stream ``files``: all other rows, by the digest of their file.
    """
    rows = task.receive("urls", [("row", UP)])
    # Those that cannot be read equal none.
    known = np.flatnonzero(rows["readable"].to_numpy())
    names = ["url", "url_rest"]
    send_edges(task, "edges-of-urls", homes, edges_of(rows, originals_at(rows, known, names)))
    originals = originals_at(rows, known, [*names, *(["text"] if config.same_caption else [])])
    gone = originals != np.arange(rows.num_rows)
    reasons = np.full(int(gone.sum()), Drop.DUPLICATE_URL.value, object)
    same = _pending(rows, originals, gone, reasons)
    task.send("same-url", same, homes.of(same["original"]))
    left = rows.filter(pa.array(~gone))
    task.send("files", left, part_of(left["file"], parts))


def originals_at(rows: pa.Table, places: Array, names: Sequence[str]) -> Array:
    """For each row the place of the best of those at ``places`` with its values; for others its own: (n,) int64."""
    originals = np.arange(rows.num_rows)
    originals[places] = places[firsts(rows.take(pa.array(places)), names)]
    return originals


def firsts(rows: pa.Table, names: Sequence[str]) -> Array:
    """For each row the place of the best of those that have its values in the columns ``names``: (n,) int64."""
    values = [rows[name].to_numpy() for name in names]
    order = np.lexsort((rows["row"].to_numpy(), ~rows["preference"].to_numpy(), *values[::-1]))
    begins = begins_run(*(column[order] for column in values))
    firsts = np.empty(len(order), np.int64)
    firsts[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    return firsts


def _pending(rows: pa.Table, originals: Array, gone: Array, reasons: Array) -> pa.Table:
    """The verdicts on the rows that are ``gone``, by the places of their ``originals``."""
    row = rows["row"].to_numpy()
    return pa.table({"row": row[gone], "original": row[originals][gone], "reason": reasons}, PENDING)


def send_equal(config: Config, homes: Homes, looks: int, task: Task) -> None:
    """Of equal files all but the best are duplicates, of placeholders all. Streams ``equal``: (row, original, reason),
    to the original's home; ``images``: the readable rows that are left, to one of ``looks`` by what they look like."""
    order = [("file", UP), ("file_rest", UP), ("preference", DOWN), ("row", UP)]
    rows = task.receive("files", order)
    originals, placeholder = equal_files(rows, config.placeholder_names, same_caption=config.same_caption)
    gone = placeholder | (originals != np.arange(rows.num_rows))
    reasons = np.where(placeholder, Drop.PLACEHOLDER.value, Drop.DUPLICATE_BYTES.value)[gone]
    equal = _pending(rows, originals, gone, reasons.astype(object))
    task.send("equal", equal, homes.of(equal["original"]))
    if config.same_caption:
        # Under another caption a row stays, but is of the cluster.
        originals, _ = equal_files(rows, config.placeholder_names)
    send_edges(task, "edges-of-files", homes, edges_of(rows, originals))
    if not config.near:
        return
    left = rows.filter(pa.array(~gone & rows["readable"].to_numpy()))
    left = left.select(["look", "keys", "parts", "text", "preference", "row"])
    task.send("images", left, part_of(left["look"], looks))


def equal_files(rows: pa.Table, least: int, *, same_caption: bool = False) -> tuple[Array, Array]:
    """For each row the place of the one that stays of its file, (n,) int64, and whether the file is a placeholder.

    ``rows`` come by file, and within it by preference. A row that cannot be read equals none. ``same_caption``: one
    stays for each caption of the file.
    """
    count = rows.num_rows
    begins = np.flatnonzero(begins_run(rows["file"].to_numpy(), rows["file_rest"].to_numpy()))
    sizes = np.diff(np.r_[begins, count])
    readable = rows["readable"].to_numpy(zero_copy_only=False)

    names = ["file", "file_rest", *(["text"] if same_caption else [])]
    originals = originals_at(rows, np.flatnonzero(readable), names)
    placeholder = np.zeros(count, bool)
    for start, size in zip(begins.tolist(), sizes.tolist(), strict=True) if least else ():
        if size >= least and _is_placeholder(rows.slice(start, size), least):
            placeholder[start : start + size] = True
            originals[start : start + size] = np.arange(start, start + size)
    return originals, placeholder


def _is_placeholder(rows: pa.Table, least: int) -> bool:
    """True for a file that one host serves under ``least`` names or more, and under more than one caption.

    That is the picture of a shop that has none of an article, or a "not found" that calls itself a success. The same
    picture at many URLs under one caption is a logo, and under one file name one that each language of a manual has a
    copy of: of these one is kept.
    """
    hosts, names, texts = (rows[name].to_numpy() for name in ("host", "name", "text"))
    for host in np.unique(hosts):
        here = hosts == host
        if len(np.unique(names[here])) >= least and len(np.unique(texts[here])) > 1:
            return True
    return False
