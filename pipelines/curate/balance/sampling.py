"""MetaCLIP's rule: the probability to keep each caption, and the random draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infra.figures import png
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Funnel
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.balance.config import Config
from pipelines.layout import funnel
from pipelines.tables import read_table, write_selection

__all__ = ["draw_rows", "keep_probabilities", "uniform"]


def draw_rows(
    config: Config,
    selection: Store,
    shards: Sequence[tuple[int, str]],
    matches: Sequence[pa.ChunkedArray],
    entries: int,
    context: Context,
) -> tuple[Funnel, dict[str, int]]:
    """Write the balanced selection and a figure; its funnel, in images, and facts about the entries.

    ``matches``: per shard the entries in each row's caption; ``entries``: number of entries.
    """
    before = sum((_counts(part, entries) for part in matches), np.zeros(entries, np.int64))
    after, total = np.zeros_like(before), funnel("images", [])
    for (shard, path), part in zip(shards, matches, strict=True):
        rows = read_table(selection, path)
        probabilities = keep_probabilities(part, before, config.t)
        reasons = _reasons(rows["uid"].to_pylist(), probabilities, config.seed)
        notes = {"keep_probability": pa.array(probabilities)}
        total += write_selection(context.output, shard, rows, reasons, notes)
        after += _counts(part.filter(pa.array([reason is None for reason in reasons], pa.bool_())), entries)
    if before.any():
        context.figure("entries", _figure(before, after, config.t))
    found, over = int((before > 0).sum()), int((before > config.t).sum())
    return total, {"entries": entries, "entries_found": found, "entries_over_t": over}


def _counts(matches: pa.ChunkedArray, entries: int) -> NDArray[np.int64]:
    """Number of captions that hold each entry: (entries,)."""
    return np.bincount(pc.list_flatten(matches).to_numpy(), minlength=entries).astype(np.int64)


def keep_probabilities(matches: pa.ChunkedArray, counts: NDArray[np.int64], t: int) -> NDArray[np.float64]:
    """Probability to keep each caption: 1 - prod(1 - p_e) over its entries e, p_e = t / max(count_e, t)."""
    p = t / np.maximum(counts, t)
    with np.errstate(divide="ignore"):  # log(0) for entries that keep everything: minus infinity is meant
        log_loss = np.log1p(-p)
    rows = pc.list_parent_indices(matches).to_numpy()
    entries = pc.list_flatten(matches).to_numpy()
    return np.asarray(-np.expm1(np.bincount(rows, log_loss[entries], minlength=len(matches))))


def _reasons(uids: Sequence[str], probabilities: NDArray[np.float64], seed: int) -> list[str | None]:
    return [
        (Drop.NO_MATCH.value if chance == 0 else None if uniform(seed, uid) < chance else Drop.BALANCED_AWAY.value)
        for uid, chance in zip(uids, probabilities.tolist(), strict=True)
    ]


def uniform(seed: int, uid: str) -> float:
    """A row's draw from [0, 1), the same in whichever shard and order it comes."""
    return hash64(f"{seed}/{uid}") / 2**64


def _figure(before: NDArray[np.int64], after: NDArray[np.int64], t: int) -> bytes:
    """Captions per entry over the entry's rank, both logarithmic, as PNG."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for counts, label, colour in ((before, "before", "#8c959f"), (after, "after", "#0969da")):
        ranked = np.sort(counts[counts > 0])[::-1]
        axes.loglog(np.arange(1, len(ranked) + 1), ranked, label=label, color=colour, linewidth=2)
    axes.axhline(t, color="#cf222e", linewidth=1, linestyle="--", label=f"t = {t:,}")
    axes.set(xlabel="entry, by rank", ylabel="captions", title="Captions per entry")
    axes.grid(alpha=0.2, which="both")
    axes.legend(frameon=False)
    return png(figure, dpi=110)
