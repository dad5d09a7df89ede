"""Galleries of sample images: what a stage kept and, reason by reason, what it dropped.

Samples are drawn by a hash of the row's id and key, so they are the same on every run and fair to every shard.
"""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import ShardRecord
from infra.store import Store
from pipelines.curate.fonts import clusters, draw_text, text_length
from pipelines.layout import Images, read_images
from pipelines.tables import read_table, selected

__all__ = ["COUNT", "Tile", "data_uri", "draw", "montage", "of_downloads", "of_rows", "of_selection", "sample"]

COUNT = 12
"""Samples in a gallery."""

_SHARDS = 64  # sampled: enough for a fair impression without reading a billion rows

_SIDE, _GAP, _COLUMNS, _LINES, _TEXT = 208, 16, 4, 3, 14
_PAPER, _INK, _SOFT, _MAT = "#ffffff", "#1f2328", "#6e7781", "#f3f4f6"


class Tile(NamedTuple):
    """One image of a gallery. ``image``: encoded, or None; ``note``: small grey text below the caption, such as a
    size."""

    image: bytes | None
    caption: str
    note: str = ""


# --- which rows -------------------------------------------------------------------------------------------------------


def of_downloads(context: Context, records: Sequence[ShardRecord]) -> None:
    """Draw the figure ``downloaded`` of the images a download has just written."""
    shards = [record.shard for record in records[:_SHARDS]]
    tables = [selected(read_table(context.store, f"data/{shard}.parquet"), int(shard)) for shard in shards]
    of_rows(context, context.store, "downloaded", tables)


def of_selection(
    context: Context,
    images: Images,
    records: Sequence[ShardRecord],
    hiding: Mapping[str, Callable[[str], str]] | None = None,
) -> None:
    """Draw the figures ``kept`` and ``dropped_{reason}`` of the selection a stage has just written.

    ``hiding``: by reason, what makes of a caption one that can be shown.
    """
    shards = [record.shard for record in records[:_SHARDS]]
    of_rows(context, images, "kept", [read_table(context.store, f"data/kept-{shard}.parquet") for shard in shards])
    dropped = [read_table(context.store, f"data/dropped-{shard}.parquet") for shard in shards]
    for reason in sorted({reason for table in dropped for reason in table["reason"].unique().to_pylist()}):
        tables = [table.filter(pc.equal(table["reason"], reason)) for table in dropped]
        if rows := sample(tables):
            hide = (hiding or {}).get(reason, str)
            shown = [{**row, "caption": hide(row["caption"] or "")} for row in rows]
            draw(context, images, f"dropped_{reason}", shown)


def of_rows(context: Context, images: Images | Store, name: str, tables: Iterable[pa.Table]) -> None:
    """Draw the figure ``name`` of samples from ``tables``; none if they are empty."""
    if rows := sample(tables):
        draw(context, images, name, rows)


def sample(tables: Iterable[pa.Table], count: int = COUNT) -> list[dict[str, Any]]:
    """``count`` rows of ``tables``, drawn evenly by a hash of ``uid`` and ``key``."""
    drawn: list[tuple[int, int, int, dict[str, Any]]] = []
    for place, table in enumerate(tables):
        names = zip(table["uid"].to_pylist(), table["key"].to_pylist(), strict=True)
        ranks = [(hash64(f"{uid}/{key}"), place, row) for row, (uid, key) in enumerate(names)]
        best = heapq.nsmallest(count, ranks)
        drawn = heapq.nsmallest(count, drawn + [(*rank, table.slice(rank[2], 1).to_pylist()[0]) for rank in best])
    return [row for *_, row in drawn]


def draw(
    context: Context, images: Images | Store, name: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()
) -> None:
    """Draw the figure ``name`` of exactly these rows; ``notes`` go before the size of each original, if given."""
    sizes = [f"{row['original_width']} x {row['original_height']}" for row in rows]
    notes = [f"{note}, {size}" for note, size in zip(notes, sizes, strict=True)] if notes else sizes
    tiles = list(map(Tile, read_images(images, rows), [row["caption"] or "" for row in rows], notes))
    title, _, reason = name.partition("_")
    title = f"{title.capitalize()}: {reason.replace('_', ' ')}" if reason else title.capitalize()
    context.figure(name, montage(title, tiles))


# --- the figure -------------------------------------------------------------------------------------------------------


def montage(title: str, tiles: Sequence[Tile]) -> bytes:
    """The tiles in rows of four under a title, as PNG."""
    cell = (_SIDE + _GAP, _SIDE + _LINES * 18 + 26 + _GAP)
    columns, rows = min(_COLUMNS, len(tiles)), -(-len(tiles) // _COLUMNS)
    width = max(columns * cell[0] + _GAP, 2 * cell[0] + _GAP)
    page = Image.new("RGB", (width, 56 + rows * cell[1]), _PAPER)
    pen = ImageDraw.Draw(page)
    draw_text(pen, (_GAP, 16), title, _INK, 22)
    for index, tile in enumerate(tiles):
        left, top = _GAP + index % _COLUMNS * cell[0], 56 + index // _COLUMNS * cell[1]
        pen.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), _MAT)
        image = _thumbnail(tile.image)
        page.paste(image, (left + (_SIDE - image.width) // 2, top + (_SIDE - image.height) // 2))
        lines = _wrapped(tile.caption)
        for line, text in enumerate(lines):
            draw_text(pen, (left, top + _SIDE + 6 + 18 * line), text, _INK, _TEXT)
        if tile.note:
            draw_text(pen, (left, top + _SIDE + 8 + 18 * len(lines)), tile.note, _SOFT, 12)
    out = io.BytesIO()
    page.save(out, "PNG")
    return out.getvalue()


def data_uri(data: bytes, side: int) -> str:
    """The image, with a longer side of ``side`` pixels, as a URI that a page can hold."""
    out = io.BytesIO()
    _thumbnail(data, side).save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _thumbnail(data: bytes | None, side: int = _SIDE) -> Image.Image:
    """The image, small; grey if there is none, or none that Pillow can read."""
    try:
        image = Image.open(io.BytesIO(data or b"")).convert("RGB")
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the other images can be shown
        image = Image.new("RGB", (side, side), _SOFT)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _wrapped(text: str) -> list[str]:
    """``text`` in at most three lines of a tile's width, then an ellipsis; longer words are broken anywhere."""
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        candidate = f"{lines[-1]} {word}".strip()
        if text_length(candidate, _TEXT) <= _SIDE:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for letter in clusters(word):
            if text_length(lines[-1] + letter, _TEXT) > _SIDE:
                lines.append("")
            lines[-1] += letter
        if len(lines) > _LINES:
            break
    if len(lines) > _LINES:
        last = lines[_LINES - 1]
        while last and text_length(f"{last}…", _TEXT) > _SIDE:
            last = last[:-1]
        lines = [*lines[: _LINES - 1], f"{last.rstrip()}…"]
    return lines
