"""Figures of a filter: what each rule drops first and in all, what is kept of each language, and by rule a histogram of
what it compares with its thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from infra.figures import png
from infra.run.context import Context
from infra.run.manifest import ShardRecord
from pipelines.curate.filter.columns import numbers
from pipelines.curate.filter.rules import Range, Rule, Score
from pipelines.tables import concatenated, read_table

__all__ = ["draw"]

_ROWS = 200_000  # of the first shards: a histogram of more looks the same
_KEPT, _DROPPED, _FIRST, _LIMIT = "#1f6f8b", "#e08f4a", "#b4470f", "#cf222e"
_LANGUAGES, _BINS = 24, 60


def draw(
    context: Context, rules: Sequence[Rule], records: Sequence[ShardRecord], facts: Mapping[str, Mapping[str, Any]]
) -> None:
    """Draw ``rules``, ``languages`` and ``histogram_{rule}``; none of what there is nothing of."""
    first: Counter[str] = Counter()
    for record in records:
        first.update(record.funnel.dropped if record.funnel else {})
    if facts["failed"]:
        context.figure("rules", _rules(facts["failed"], first))
    if set(facts["languages"]) - {""}:
        context.figure("languages", _languages(facts["languages"]))
    compared = [rule for rule in rules if isinstance(rule, (Range, Score))]
    rows = _sample(context, records, sorted({name for rule in compared for name in rule.needs()}))
    names: Counter[str] = Counter()
    for rule in compared:
        names[rule.name] += 1
        values = numbers(rule.value(rows)) if rows.num_rows else np.zeros(0)
        if np.isfinite(values).any():
            number = f"_{names[rule.name]}" if names[rule.name] > 1 else ""
            context.figure(f"histogram_{rule.name}{number}", _histogram(rule, values))


def _sample(context: Context, records: Sequence[ShardRecord], names: Sequence[str]) -> pa.Table:
    """The columns ``names`` of the rows, kept and dropped, of the first shards."""
    tables: list[pa.Table] = []
    for record in records:
        if sum(table.num_rows for table in tables) > _ROWS or not names:
            break
        tables += [
            read_table(context.store, f"data/{part}-{record.shard}.parquet", names) for part in ("kept", "dropped")
        ]
    return concatenated(tables) if tables else pa.table({})


def _rules(failed: Mapping[str, int], first: Mapping[str, int]) -> bytes:
    """A bar for each reason: rows that fail it at all, and those that fail nothing before it."""
    names = sorted(failed, key=lambda name: (failed[name], name))
    figure = Figure(figsize=(7, 1.2 + 0.34 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.barh(places, [failed[name] for name in names], 0.7, color=_DROPPED, label="fail it")
    axes.barh(places, [first.get(name, 0) for name in names], 0.35, color=_FIRST, label="dropped for it")
    axes.set_yticks(places, [name.replace("_", " ") for name in names])
    axes.set(title="Rows dropped, by rule")
    _plain(axes)
    axes.legend(frameon=False, loc="lower right")
    return png(figure, dpi=110)


def _languages(languages: Mapping[str, Mapping[str, int]]) -> bytes:
    """A bar for each of the most frequent languages: rows kept, rows dropped."""
    total = {name: sum(counts.values()) for name, counts in languages.items()}
    names = sorted(total, key=lambda name: (total[name], name))[-_LANGUAGES:]
    kept = [languages[name].get("", 0) for name in names]
    dropped = [total[name] - part for name, part in zip(names, kept, strict=True)]
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.barh(places, kept, 0.7, color=_KEPT, label="kept")
    axes.barh(places, dropped, 0.7, left=kept, color=_DROPPED, label="dropped")
    axes.set_yticks(places, [name or "unknown" for name in names])
    axes.set(title="Rows by the language of their captions")
    _plain(axes)
    axes.legend(frameon=False, loc="lower right")
    return png(figure, dpi=110)


def _histogram(rule: Range | Score, values: NDArray[np.float64]) -> bytes:
    """Rows by the number that ``rule`` compares, with its thresholds; the rarest 0.5% at each end share a bin."""
    values = values[np.isfinite(values)]
    limits = [limit for limit in rule.bounds() if limit is not None]
    low, high = np.quantile(values, [0.005, 0.995]).tolist()
    shown = [limit for limit in limits if limit <= 3 * abs(high) + 1]  # a limit far beyond all rows would hide them
    low, high = min([low, *shown]), max([high, *shown])
    high = high if high > low else low + 1
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.hist(np.clip(values, low, high), bins=_BINS, range=(low, high), color=_KEPT)
    for limit in shown:
        axes.axvline(limit, color=_LIMIT, linewidth=1.5, linestyle="--", label=f"{limit:g}")
    least, most = rule.bounds()
    kept = (values >= (-np.inf if least is None else least)) & (values <= (np.inf if most is None else most))
    axes.set(title=f"{rule.name.replace('_', ' ')}: {kept.mean():.1%} of {len(values):,} rows pass", ylabel="rows")
    axes.grid(alpha=0.2)
    axes.margins(x=0.02)
    if shown:
        axes.legend(frameon=False, title="threshold")
    return png(figure, dpi=110)


def _plain(axes: Any) -> None:  # noqa: ANN401 - matplotlib's Axes
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="x", alpha=0.2)
