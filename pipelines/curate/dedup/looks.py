"""Images that look the same to the byte, and the entries of all others in the searches for near duplicates.

Images that look the same are like the same others. So if any of them stays, it is the first, and if that goes, the
others go for what it goes for: they need not be compared with anything. A thousand white images are a thousand pairs,
not half a million.

Of the whole picture there is a key or two, and a copy may have changed them by much; of its parts there are many, among
which one nearly always fits. So parts may differ in fewer bits, which makes their search several times as cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.exchange import DOWN, UP, Task
from infra.schema import Drop
from pipelines.curate.dedup.candidates import Blocks
from pipelines.curate.dedup.clusters import edges_of, send_edges
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.files import originals_at
from pipelines.curate.dedup.homes import Homes, part_of
from pipelines.curate.dedup.keys import FEW, MOST
from pipelines.curate.dedup.verdicts import PENDING

__all__ = ["Search", "entries", "searches", "send_entries", "sent"]

Array = NDArray[Any]

ENTRIES = pa.schema([("block", pa.uint8()), ("key", pa.uint64()), ("preference", pa.int64()), ("row", pa.int64())])
"""An image in a search, once for each block of each of its keys; ``block``: the place in :func:`sent`."""


class Search(NamedTuple):
    """A search among the keys in some columns of the images. Small; pickles."""

    columns: tuple[str, ...]
    blocks: Blocks


def searches(config: Config, images: int) -> list[Search]:
    """Those of ``config`` for so many images."""
    found = [Search(("keys",), Blocks.of(config.max_distance, FEW * images))]
    if config.crops:
        distance = min(config.max_distance_parts, config.max_distance)
        found.append(Search(("keys", "parts"), Blocks.of(distance, MOST * images)))
    return found


def sent(searches: Sequence[Search]) -> list[tuple[Search, int]]:
    """The searches and blocks by which keys are sent to the exchange; the place in it is an entry's ``block``."""
    return [(search, block) for search in searches for block in search.blocks.sent]


def entries(searches: Sequence[Search], images: int) -> int:
    """The entries of so many images, about."""
    return images * sum(len(search.blocks.sent) * (MOST if "parts" in search.columns else FEW) for search in searches)


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
    tables, buckets = [], []
    for number, (search, block) in enumerate(sent(searches)):
        tables.append(keys[search].add_column(0, "block", pa.array(np.full(len(keys[search]), number, np.uint8))))
        # Number of each key's value in the block, different for each block.
        values = search.blocks.values(keys[search]["key"].to_numpy(), block)
        buckets.append(((number << 24) + values).astype(np.uint32))
    task.send("entries", pa.concat_tables(tables), part_of(np.concatenate(buckets), parts))


def _keys(images: pa.Table, search: Search, turned: Array) -> pa.Table:
    """The keys of ``images`` in a search, their bits ``turned`` over, and whose they are: :data:`ENTRIES` but for the
    block."""
    lists = [images[column].combine_chunks() for column in search.columns]
    owners = np.concatenate([pc.list_parent_indices(one).to_numpy() for one in lists])
    keys = np.concatenate([pc.list_flatten(one).to_numpy() for one in lists]) ^ turned[owners]
    return pa.table([keys, *(images[name].take(owners) for name in ("preference", "row"))], names=ENTRIES.names[1:])
