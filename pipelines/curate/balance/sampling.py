"""MetaCLIP's rule: the probability to keep each row, and the random draws."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infra.figures import png
from infra.formats.shards import shard_name
from infra.hashing import hash64
from infra.run.context import Output, ShardOutput
from infra.run.manifest import ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.balance.counting import Totals, write_counts
from pipelines.curate.balance.matching import ENTRIES, read_hits
from pipelines.tables import read_table, with_column, write_selection

__all__ = ["Draw", "draw_shard", "figure", "keep_probabilities", "limits_by_language", "uniform"]


@dataclass(frozen=True)
class Draw:
    """Parameters of the draws.

    ``totals``: path of the table of rows per entry; ``limits``: of each t, of which one is drawn by, the limit of each
    language that holds an entry; ``drop``: leave out rows by the draw;
    ``keep_unmatched``: keep rows without an entry.
    """

    seed: int
    totals: str
    t: int
    limits: Mapping[int, Mapping[str, int]]
    drop: bool
    keep_unmatched: bool


def draw_shard(draw: Draw, selection: Store, own: Store, spec: tuple[int, str], output: ShardOutput) -> ShardRecord:
    """Write the balanced rows of a shard, and how many of those kept hold each entry."""
    shard, path = spec
    rows, hits = read_table(selection, path), read_hits(own, shard_name(shard))
    totals = _totals(own.read(draw.totals))
    codes, owners = totals.codes_of(hits["language"]), hits["row"].to_numpy()
    counts = totals.of(codes, hits["entry"].to_numpy())
    limits = {
        t: np.array([by_language[language] for language in totals.languages], np.int64)[codes]
        for t, by_language in draw.limits.items()
    }
    chances = {}
    for t, own_limits in limits.items():
        chances[t] = keep_probabilities(owners, counts, own_limits, rows.num_rows)
        if draw.keep_unmatched:
            chances[t][np.bincount(owners, minlength=rows.num_rows) == 0] = 1.0
    probabilities = chances[draw.t]
    notes = {"keep_probability": pa.array(probabilities)}
    if draw.drop:
        reasons = _reasons(rows["uid"].to_pylist(), probabilities, draw.seed)
    else:
        reasons = [None if chance else Drop.NO_MATCH.value for chance in probabilities.tolist()]
        ends = np.cumsum(np.bincount(owners, minlength=rows.num_rows), dtype=np.int32)
        loads = pa.ListArray.from_arrays(pa.array(np.r_[np.int32(0), ends]), _six_digits(counts / limits[draw.t]))
        held = _names(own.read(ENTRIES)).take(hits["entry"].combine_chunks())
        entries = pa.ListArray.from_arrays(loads.offsets, held)
        for name, values in {**notes, "entries": entries, "times_limit": loads}.items():
            rows = with_column(rows, name, values)
    kept = write_selection(output, shard, rows, reasons, notes)
    # Not through the output of the shard: the counts are no file of the artifact.
    stay = np.array([reason is None for reason in reasons], np.bool_)
    write_counts(Output(own), f"after-{shard_name(shard)}", hits.filter(pa.array(stay[owners])))
    return output.commit(kept, facts={"expected": {str(t): float(chances[t].sum()) for t in chances}})


@lru_cache(maxsize=1)
def _names(entries: bytes) -> pa.Array:
    """The entries by their numbers, through all languages."""
    by_language: Mapping[str, Sequence[str]] = json.loads(entries)
    return pa.array([entry for language in sorted(by_language) for entry in by_language[language]], pa.string())


def _six_digits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positive ``values`` to six digits, as they stand in a sample's JSON."""
    scale = 10.0 ** (5 - np.floor(np.log10(values)))
    return np.asarray(np.round(values * scale) / scale)


@lru_cache(maxsize=1)
def _totals(table: bytes) -> Totals:
    return Totals(pq.read_table(pa.BufferReader(table)))


def limits_by_language(totals: Totals, t: int, reference: str) -> dict[str, int]:
    """The limit of each language by MetaCLIP 2's rule (Chuang et al. 2025): the tail is the same share everywhere.

    The tail are the matches of entries with fewer than ``t`` captions. In each language the limit is the least count
    so that the tail's share of all matches is at most that of the tail of ``reference``, whose limit is ``t``. A
    reference without a match says nothing: then ``t`` is the limit of all.
    """
    counts = {name: np.sort(totals.captions[totals.codes == code]) for code, name in enumerate(totals.languages)}
    if reference not in counts:
        return dict.fromkeys(counts, t)
    known = counts[reference]
    tail = known[known < t].sum() / known.sum()
    limits = {}
    for name, own in counts.items():
        first = np.searchsorted(np.cumsum(own) / own.sum(), tail, side="right")  # the first entry beyond the tail
        limits[name] = int(own[min(first, len(own) - 1)])
    return {**limits, reference: t}


def keep_probabilities(
    rows: NDArray[np.int64], counts: NDArray[np.int64], t: int | NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    """Probability to keep each row: 1 - prod(1 - p_e) over its entries e, p_e = t / max(count_e, t): (size,).

    ``rows``, (hits,): a row that holds an entry; ``counts``: the rows in all that hold it; ``t``: the limit, or the
    limit of each.
    """
    p = t / np.maximum(counts, t)
    with np.errstate(divide="ignore"):  # log(0) for entries that keep everything: minus infinity is meant
        log_loss = np.log1p(-p)
    return np.asarray(-np.expm1(np.bincount(rows, log_loss, minlength=size)))


def _reasons(uids: Sequence[str], probabilities: NDArray[np.float64], seed: int) -> list[str | None]:
    return [
        (Drop.NO_MATCH.value if chance == 0 else None if uniform(seed, uid) < chance else Drop.BALANCED_AWAY.value)
        for uid, chance in zip(uids, probabilities.tolist(), strict=True)
    ]


def uniform(seed: int, uid: str) -> float:
    """A row's draw from [0, 1), the same in whichever shard and order it comes."""
    return hash64(f"{seed}/{uid}") / 2**64


def figure(before: NDArray[np.int64], after: NDArray[np.int64], t: int, title: str) -> bytes:
    """Captions per entry over the entry's rank, both logarithmic, as PNG."""
    drawing = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawing.subplots()
    for counts, label, colour in ((before, "before", "#8c959f"), (after, "after", "#0969da")):
        ranked = np.sort(counts[counts > 0])[::-1]
        axes.loglog(np.arange(1, len(ranked) + 1), ranked, label=label, color=colour, linewidth=2)
    axes.axhline(t, color="#cf222e", linewidth=1, linestyle="--", label=f"t = {t:,}")
    axes.set(xlabel="entry, by rank", ylabel="captions", title=title)
    axes.grid(alpha=0.2, which="both")
    axes.legend(frameon=False)
    return png(drawing, dpi=110)
