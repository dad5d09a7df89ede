"""Figures of semdedup: duplicates with the image that stays, and how much would stay for another epsilon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from infra.figures import png
from infra.formats.shards import shard_name
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Artifact, ShardRecord
from infra.schema import Drop
from pipelines.curate import gallery
from pipelines.curate.dedup.homes import split_row
from pipelines.curate.embedded import input_rows
from pipelines.layout import Images
from pipelines.tables import read_table

__all__ = ["draw"]

_SHARDS = 64  # looked at: enough for an impression


def draw(
    context: Context,
    inputs: Mapping[str, Artifact],
    shards: Sequence[tuple[int, str, int]],
    records: Sequence[ShardRecord],
    limit: Mapping[str, Any],
) -> None:
    """Draw ``kept``, ``dropped_semantic_duplicate`` and ``kept_by_epsilon``."""
    names = [shard_name(number) for number, *_ in shards[:_SHARDS]]
    kept = (read_table(context.store, f"data/kept-{name}.parquet") for name in names)
    gallery.of_rows(context, Images.of(inputs), "kept", kept)

    samples = [one for record in records for one in record.facts.get("duplicates", ())]
    chosen = sorted(samples, key=lambda one: hash64(str(one[0])))[: gallery.COUNT // 2]
    paths = {number: path for number, path, _ in shards}
    if rows := [_row(inputs, paths, number) for dropped, stays, _ in chosen for number in (dropped, stays)]:
        notes = [note for *_, cosine in chosen for note in (f"dropped, cosine {cosine:.3f}", "kept")]
        gallery.draw(context, Images.of(inputs), f"dropped_{Drop.SEMANTIC_DUPLICATE.value}", rows, notes)
    if records and limit["kept"][0][1]:
        context.figure("kept_by_epsilon", _curve(limit["kept"], 1 - limit["limit"]))


def _row(inputs: Mapping[str, Artifact], paths: Mapping[int, str], number: int) -> dict[str, Any]:
    shard, place = split_row(number)
    row: dict[str, Any] = input_rows(inputs, shard, paths[shard]).slice(place, 1).to_pylist()[0]
    return row


def _curve(kept: Sequence[tuple[float, int]], epsilon: float) -> bytes:
    """Plot the rows that stay over epsilon, as PNG; a line marks the epsilon that was taken."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*kept, strict=True), color="#0969da")
    axes.axvline(epsilon, color="#cf222e", linewidth=1, linestyle="--", label=f"here: {epsilon:.3g}")
    axes.set(xlabel="epsilon", ylabel="images kept", xscale="log")
    axes.set_ylim(0)
    axes.legend(frameon=False)
    return png(figure, dpi=110)
