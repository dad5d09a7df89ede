"""Leaders: the images that stay, given all pairs of duplicates.

Images have an order of preference. One is dropped if it duplicates an image before it that stays; it names the most
preferred of those. So no chain of small steps ever joins two images that differ, and every dropped one has its like
among those that stay. This rule has one result for given pairs and order, the first maximal independent set, in
whatever parts and sequence it is worked out: whether an image stays depends on those before it only.

A part knows the pairs of its images: those in which they come second (whose first it waits for) and those in which they
come first (whose second waits for news). It decides what it can in order of preference, sends the news, and keeps the
rest for the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count, groupby
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

from infra.exchange import DOWN, UP, Exchange, Task
from pipelines.curate.dedup.homes import Homes, part_of

__all__ = ["FEW", "KINDS", "PAIRS", "rounds"]

FEW = 2_000_000  # pairs that one task decides to the end

PAIRS = pa.schema(
    [
        *(("first", pa.int64()), ("second", pa.int64())),
        *(("first_preference", pa.int64()), ("second_preference", pa.int64())),
        ("news", pa.int8()),  # of the first image
    ]
)
NEAR = pa.schema([("row", pa.int64()), ("original", pa.int64())])
UNKNOWN, STAYS, GOES = 0, 1, 2

KINDS = ("waits", "tells")
"""Streams of pairs: to the part of the second image, and to that of the first."""


def rounds(exchange: Exchange, homes: Homes, parts: int, pairs: Sequence[str]) -> list[str]:
    """Decide on all the confirmed ``pairs``; the names of the streams of dropped images, each with its original.

    ``pairs``: streams of both :data:`KINDS`, to ``parts`` receivers.
    """
    streams, decided, receivers, waiting = list(pairs), list[str](), parts, FEW + 1
    for number in count():
        # Few pairs are decided by one task, without more rounds.
        after = parts if waiting > FEW else 1
        news = {f"round-{number}-{kind}": after for kind in KINDS}
        near = f"near-{number}"
        work = partial(decide, homes, number, receivers, after)
        sends = {**news, near: homes.count}
        records = exchange.step(f"leaders-{number}", range(receivers), work, receives=streams, sends=sends)
        decided.append(near)
        waiting = sum(record.facts["waiting"] for record in records)
        if not waiting:
            break
        streams, receivers = list(news), after
    return decided


def decide(homes: Homes, number: int, receivers: int, parts: int, task: Task) -> None:
    """One round of one of ``receivers`` parts.

    Streams ``near-{number}``: (row, original) of dropped images, to the original's home; ``round-{number}-waits`` and
    ``-tells``: pairs that are left.
    """
    order = [("second_preference", DOWN), ("second", UP), ("first_preference", DOWN), ("first", UP), ("news", UP)]
    waits, tells = (pa.concat_tables([task.receive(s) for s in task.inbox if s.endswith(kind)]) for kind in KINDS)
    state, near, left = _decided(waits.sort_by(order), tells)

    known = pa.array([state.get(image, UNKNOWN) for image in tells["first"].to_pylist()], pa.int8())
    told = tells.set_column(4, "news", known).filter(pc.not_equal(known, UNKNOWN))
    untold = tells.filter(pc.equal(known, UNKNOWN))
    # Seconds of this part know already, and may have no other line.
    elsewhere = told.filter(pa.array(part_of(told["second"], receivers) != task.number))
    left = pa.concat_tables([left, elsewhere])
    task.send(f"round-{number}-waits", left, part_of(left["second"], parts))
    task.send(f"round-{number}-tells", untold, part_of(untold["first"], parts))
    task.send(f"near-{number}", near, homes.of(near["original"]))
    task.facts["waiting"] = left.num_rows + untold.num_rows


def _decided(incoming: pa.Table, outgoing: pa.Table) -> tuple[dict[int, int], pa.Table, pa.Table]:
    """News of images, the finished ones that go with their originals, and the pairs of the unfinished.

    ``incoming``: by preference of the second image, then of the first; of equal pairs, the one with news last.
    """
    seconds = incoming["second"].to_pylist()
    state: dict[int, int] = dict.fromkeys(set(outgoing["first"].to_pylist()) - set(seconds), STAYS)
    near: list[tuple[int, int]] = []
    left: list[tuple[int, int]] = []  # place among the incoming, news of the first
    lines = zip(seconds, incoming["first"].to_pylist(), incoming["news"].to_pylist(), range(len(seconds)), strict=True)
    for image, group in groupby(lines, key=itemgetter(0)):
        firsts = {first: (place, news or state.get(first, UNKNOWN)) for _, first, news, place in group}
        known = [news for _, news in firsts.values()]
        if STAYS in known:
            state[image] = GOES
        elif UNKNOWN not in known:
            state[image] = STAYS
        if UNKNOWN in known:
            left.extend(firsts.values())
        elif STAYS in known:
            near.append((image, list(firsts)[known.index(STAYS)]))
    kept = incoming.take(pa.array([place for place, _ in left], pa.int64()))
    kept = kept.set_column(4, "news", pa.array([news for _, news in left], pa.int8()))
    dropped = pa.table([[row for row, _ in near], [original for _, original in near]], schema=NEAR)
    return state, dropped, kept
