"""Clusters: all rows that pairs of duplicates join, however many steps lie between them.

Who stays is decided pair by pair (:mod:`.leaders`), so rows that both stay, or go for different ones, may each be like
a third. A *cluster* is a connected component of all pairs: equal URLs, equal files, near duplicates. Between two
clusters there is no pair, so of a test set chosen by clusters nothing has a copy on the other side.

Components are found by turning edges into stars (Kiveris et al., "Connected Components in MapReduce and Beyond", 2014).
By turns all that a row is tied to before it is tied to the first of these (*small star*), and every edge moves from its
first row to the first that this one is tied to (*large star*). Neither joins or cuts components, nor makes more edges
than there were. When both change nothing, each row has one edge, to the first row of its component.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.exchange import DOWN, UP, Exchange, Task
from infra.store import Store
from pipelines.curate.dedup.homes import Homes
from pipelines.curate.dedup.verdicts import uids_at_home

__all__ = ["EDGES", "NAMES", "all_rounds", "edges_of", "find_clusters", "send_edges"]

Array = NDArray[Any]

EDGES = pa.schema(
    [
        *(("first", pa.int64()), ("second", pa.int64())),
        *(("first_preference", pa.int64()), ("second_preference", pa.int64())),
    ]
)
"""Two rows of one cluster, that which is preferred first."""
NAMES = pa.schema([("row", pa.int64()), ("cluster", pa.string())])


def edges_of(rows: pa.Table, originals: Array) -> pa.Table:
    """Edges between ``rows``, with columns ``row`` and ``preference``, and others: their ``originals``, by place."""
    gone = np.flatnonzero(originals != np.arange(rows.num_rows))
    row, preference = rows["row"].to_numpy(), rows["preference"].to_numpy()
    first = originals[gone]
    return pa.table([row[first], row[gone], preference[first], preference[gone]], schema=EDGES)


def send_edges(task: Task, stream: str, homes: Homes, edges: pa.Table) -> None:
    """Send ``edges`` to the homes of both their rows."""
    first, second = homes.of(edges["first"]), homes.of(edges["second"])
    apart = first != second
    task.send(stream, pa.concat_tables([edges, edges.filter(pa.array(apart))]), np.r_[first, second[apart]])


def find_clusters(
    exchange: Exchange, homes: Homes, selection: Store, lots: Sequence[Sequence[tuple[int, str]]], edges: Sequence[str]
) -> int:
    """Stream ``clusters``, to the rows' homes: of those that the streams ``edges`` join to one before them the name of
    their cluster, the uid of its first row. Returns the rows of the largest cluster."""
    streams, unchanged = list(edges), 0
    for number in count():
        stream = f"stars-{number}"
        star, end = ((small_star, "second"), (large_star, "first"))[number % 2]
        work = partial(_round, homes, star, end, stream)
        records = exchange.step(stream, lots, work, receives=streams, sends={stream: homes.count})
        streams = [stream]
        unchanged = 0 if any(record.facts["changed"] for record in records) else unchanged + 1
        if unchanged == 2 or (unchanged and homes.count == 1):
            break
    work = partial(_name, homes, selection)
    named = exchange.step("clusters", lots, work, receives=streams, sends={"clusters": homes.count})
    return max((record.facts["largest"] for record in named), default=0)


Star = Callable[[pa.Table, Array], tuple[pa.Table, int]]


def _round(homes: Homes, star: Star, end: str, stream: str, task: Task) -> None:
    """One round at one home, which turns the edges whose ``end`` is here; at the only home, all rounds."""
    edges = pa.concat_tables([task.receive(name) for name in task.inbox])
    if homes.count == 1:
        stars, changed = all_rounds(edges), 0
    else:
        stars, changed = star(edges, homes.of(edges[end]) == task.number)
    task.facts["changed"] = changed
    send_edges(task, stream, homes, stars)


def all_rounds(edges: pa.Table) -> pa.Table:
    """The stars that all of ``edges`` come to."""
    moved = changed = 1
    while moved or changed:
        edges, moved = small_star(edges, np.ones(edges.num_rows, bool))
        edges, changed = large_star(edges, np.ones(edges.num_rows, bool))
    return edges


def small_star(edges: pa.Table, ours: Array) -> tuple[pa.Table, int]:
    """Tie rows with a common second row to the first of them; what became of ``ours``, and how many changed.

    ``ours``: whose second row is here, with all its edges.
    """
    edges = _distinct(edges.filter(pa.array(ours)))
    begins = begins_run(edges["second"].to_numpy())
    firsts = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    others = np.flatnonzero(~begins)
    tied = edges.take(pa.array(others))
    best = edges.take(pa.array(firsts[others]))
    columns = [best["first"], tied["first"], best["first_preference"], tied["first_preference"]]
    return pa.concat_tables([edges.filter(pa.array(begins)), pa.table(columns, schema=EDGES)]), len(others)


def large_star(edges: pa.Table, ours: Array) -> tuple[pa.Table, int]:
    """Move edges to the first row that their first row is tied to; what became of ``ours``, and how many changed.

    ``ours``: whose first row is here. ``edges`` hold all of it.
    """
    best = _distinct(edges)
    best = best.filter(pa.array(begins_run(best["second"].to_numpy())))
    edges = _distinct(edges.filter(pa.array(ours)))
    nodes, first = best["second"].to_numpy(), edges["first"].to_numpy()
    place = np.minimum(np.searchsorted(nodes, first), len(nodes) - 1)
    moves = nodes[place] == first
    moved = best.take(pa.array(place[moves]))
    seconds = edges.filter(pa.array(moves))
    columns = [moved["first"], seconds["second"], moved["first_preference"], seconds["second_preference"]]
    stays = edges.filter(pa.array(~moves))
    return pa.concat_tables([stays, pa.table(columns, schema=EDGES)]), int(moves.sum())


def _distinct(edges: pa.Table) -> pa.Table:
    """Each edge once, by its second row; of these the first by preference."""
    edges = edges.sort_by([("second", UP), ("first_preference", DOWN), ("first", UP)])
    return edges.filter(pa.array(begins_run(edges["second"].to_numpy(), edges["first"].to_numpy())))


def _name(homes: Homes, selection: Store, task: Task) -> None:
    """Stream ``clusters``: the names of the clusters whose first row is at home here, to the homes of the others."""
    (stream,) = task.inbox
    stars = task.receive(stream)
    stars = stars.filter(pa.array(homes.of(stars["first"]) == task.number)).sort_by([("first", UP), ("second", UP)])
    begins = np.flatnonzero(begins_run(stars["first"].to_numpy()))
    task.facts["largest"] = 1 + int(np.diff(np.r_[begins, stars.num_rows]).max(initial=0))
    names = uids_at_home(selection, task, stars["first"])
    task.send("clusters", pa.table([stars["second"], names], schema=NAMES), homes.of(stars["second"]))
