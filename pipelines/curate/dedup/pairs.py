"""Near duplicates, pair by pair: candidates by key, confirmed by thumbnails at the homes of both.

Keys are small and go to the exchange; thumbnails stay at home, and only those of candidates travel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.exchange import UP, Task
from pipelines.curate.dedup.alike import same
from pipelines.curate.dedup.candidates import candidates
from pipelines.curate.dedup.clusters import EDGES, send_edges
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.homes import Homes, column_at_home, part_of
from pipelines.curate.dedup.leaders import PAIRS
from pipelines.curate.dedup.looks import Search, sent
from pipelines.curate.dedup.rows import signatures_path
from pipelines.tables import read_table

__all__ = ["agree", "attach_first", "confirm", "distinct", "find_pairs", "in_any_order", "send_confirmed"]

Array = NDArray[Any]


def find_pairs(config: Config, homes: Homes, searches: Sequence[Search], task: Task) -> None:
    """Find pairs of keys within the distance of their search. Stream ``candidates``: to the first's home."""
    entries = task.receive("entries")
    blocks, keys, preference, rows = (column.to_numpy() for column in entries.columns)
    likely = [EDGES.empty_table()]
    oversized = largest = 0
    for number, (search, block) in enumerate(sent(searches)):
        places = np.flatnonzero(blocks == number)
        order = (rows[places], ~preference[places])
        found = candidates(keys[places], search.blocks, block, config.max_bucket, order)
        one, other = places[found.first], places[found.second]
        in_order = preference[one] > preference[other]
        in_order |= (preference[one] == preference[other]) & (rows[one] < rows[other])
        first, second = np.where(in_order, one, other), np.where(in_order, other, one)
        likely.append(pa.table([rows[first], rows[second], preference[first], preference[second]], schema=EDGES))
        oversized, largest = oversized + found.oversized, max(largest, found.largest)
    task.facts |= {"oversized": oversized, "largest": largest}
    pairs = distinct(pa.concat_tables(likely))
    task.facts["candidates"] = pairs.num_rows
    task.send("candidates", pairs, homes.of(pairs["first"]))


def distinct(pairs: pa.Table) -> pa.Table:
    """Each pair of different rows once, however many of their keys are near."""
    pairs = pairs.filter(pc.not_equal(pairs["first"], pairs["second"]))
    order = [("first", UP), ("second", UP)]
    pairs = pairs.sort_by(order)
    return pairs.filter(pa.array(begins_run(pairs["first"].to_numpy(), pairs["second"].to_numpy())))


def attach_first(homes: Homes, task: Task) -> None:
    """Stream ``half``: candidates with the thumbnail of their first image, to the home of the second."""
    pairs = distinct(task.receive("candidates"))
    pairs = pairs.append_column("thumbnail", _thumbnails(task, pairs["first"].to_numpy()))
    task.send("half", pairs, homes.of(pairs["second"]))


def confirm(config: Config, homes: Homes, parts: int, task: Task) -> None:
    """Streams of :func:`send_confirmed`: the candidates whose thumbnails agree."""
    pairs = task.receive("half", [("first", UP), ("second", UP)])
    ours, theirs = pairs["thumbnail"], in_any_order(pairs["second"].to_numpy(), partial(_thumbnails, task))
    agreed = np.zeros(pairs.num_rows, bool)
    firsts = pairs["first"].to_numpy()
    equal = pc.equal(pairs["first_preference"], pairs["second_preference"]).to_numpy()
    ends = np.flatnonzero(np.diff(firsts)) + 1
    for places in np.split(np.arange(len(firsts)), ends) if len(firsts) else []:
        others = theirs.take(pa.array(places)).to_pylist()
        agreed[places] = agree(ours[int(places[0])].as_py(), others, equal[places], mirrored=config.mirrored)
    send_confirmed(task, homes, parts, pairs.filter(pa.array(agreed)))


def agree(one: bytes, others: Sequence[bytes], equal: Array, *, mirrored: bool = False) -> Array:
    """True where thumbnails of ``others``, preferred less than ``one`` or ``equal`` to it, show the same: (n,) bool.

    A pair is looked at from the preferred image, and of equal ones from that whose bytes come first, as
    :func:`.alike.same` is not symmetric: so the order of rows does not decide who is a copy of whom.
    """
    turned = equal & np.array([other < one for other in others], bool)
    agreed = np.zeros(len(others), bool)
    agreed[~turned] = same(one, [*compress(others, ~turned)], mirrored=mirrored)
    for place in np.flatnonzero(turned).tolist():
        agreed[place] = same(others[place], [one], mirrored=mirrored)[0]
    return agreed


def send_confirmed(task: Task, homes: Homes, parts: int, pairs: pa.Table) -> None:
    """Streams ``same-waits``, ``same-tells``, ``edges-of-pairs``: the pairs that are duplicates. Their number is the
    fact ``pairs``."""
    news = pa.array(np.zeros(pairs.num_rows, np.int8))
    confirmed = pairs.select(EDGES.names).append_column("news", news).cast(PAIRS)
    task.facts["pairs"] = confirmed.num_rows
    task.send("same-waits", confirmed, part_of(confirmed["second"], parts))
    task.send("same-tells", confirmed, part_of(confirmed["first"], parts))
    send_edges(task, "edges-of-pairs", homes, confirmed.select(EDGES.names))


def in_any_order(rows: Array, read: Callable[[Array], pa.Array]) -> pa.Array:
    """The values of ``rows``, of this home, that ``read`` gives of rows in order: (n,)."""
    order = np.argsort(rows, kind="stable")
    places = np.empty(len(rows), np.int64)
    places[order] = np.arange(len(rows))
    return read(rows[order]).take(pa.array(places))


def _thumbnails(task: Task, rows: Array) -> pa.Array:
    """The thumbnails of ``rows``, of this home, which come in order: (n,) binary."""

    def read(shard: int, _: str) -> pa.Array:
        return read_table(task.output.store, signatures_path(shard), ["thumbnail"])["thumbnail"].combine_chunks()

    return column_at_home(task.spec, rows, read, pa.large_binary())
