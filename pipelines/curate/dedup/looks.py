"""Images that look the same to the byte, and the entries of all others in the search for near duplicates.

Images that look the same are like the same others. So if any of them stays, it is the first, and if that goes, the
others go for what it goes for: they need not be compared with anything. A thousand white images are a thousand pairs,
not half a million.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.exchange import DOWN, UP, Task
from infra.schema import Drop
from pipelines.curate.dedup.clusters import edges_of, send_edges
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.files import originals_at
from pipelines.curate.dedup.homes import Homes, part_of
from pipelines.curate.dedup.searches import Search, sent
from pipelines.curate.dedup.verdicts import PENDING

__all__ = ["send_entries"]

Array = NDArray[Any]

ENTRIES = pa.schema([("block", pa.uint8()), ("key", pa.uint64()), ("preference", pa.int64()), ("row", pa.int64())])
"""An image in a search, once for each block of each of its keys; ``block``: the place in :func:`.searches.sent`."""


def send_entries(config: Config, homes: Homes, searches: Sequence[Search], parts: int, task: Task) -> None:
    """Of images of one look all but the best are near duplicates. Streams ``looks``: (row, original, reason), to the
    original's home; ``edges-of-looks``; ``entries``: the others, by blocks of their keys (:data:`ENTRIES`)."""
    rows = task.receive("images", [("preference", DOWN), ("row", UP)])
    key = pc.list_element(rows["keys"], 0)
    # If captions count, images under two captions do not look the same, nor are their keys near, but by an accident of
    # some four in 10^12: all bits are turned over by the caption.
    turned = np.uint64(config.same_caption) * rows["text"].to_numpy()
    rows = rows.append_column("key", key).set_column(0, "look", pa.array(rows["look"].to_numpy() ^ turned))
    originals = originals_at(rows, np.arange(rows.num_rows), ["look", "key"])
    gone = originals != np.arange(rows.num_rows)
    edges = edges_of(rows, originals)
    send_edges(task, "edges-of-looks", homes, edges)
    reasons = pa.array([Drop.NEAR_DUPLICATE.value] * edges.num_rows, pa.string())
    task.send("looks", pa.table([edges["second"], edges["first"], reasons], schema=PENDING), homes.of(edges["first"]))

    left = rows.filter(pa.array(~gone))
    keys = {search: _keys(left, search, turned[~gone]) for search in searches}
    entries, buckets = [], []
    for number, (search, block) in enumerate(sent(searches)):
        entries.append(keys[search].add_column(0, "block", pa.array(np.full(len(keys[search]), number, np.uint8))))
        # Number of each key's value in the block, different for each block.
        values = search.blocks.values(keys[search]["key"].to_numpy(), block)
        buckets.append(((number << 24) + values).astype(np.uint32))
    task.send("entries", pa.concat_tables(entries), part_of(np.concatenate(buckets), parts))


def _keys(images: pa.Table, search: Search, turned: Array) -> pa.Table:
    """The keys of ``images`` in a search, their bits ``turned`` over, and whose they are: :data:`ENTRIES` but for the
    block."""
    lists = [images[column].combine_chunks() for column in search.columns]
    owners = np.concatenate([pc.list_parent_indices(one).to_numpy() for one in lists])
    keys = np.concatenate([pc.list_flatten(one).to_numpy() for one in lists]) ^ turned[owners]
    return pa.table([keys, *(images[name].take(owners) for name in ("preference", "row"))], names=ENTRIES.names[1:])
