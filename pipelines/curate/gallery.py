"""Pictures a data curator looks at: what a stage kept and, reason by reason, what it dropped.

The samples are drawn by a hash of the row's key, so they are the same on every run and fair to every shard.
"""

from __future__ import annotations

import heapq
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import ShardRecord
from pipelines.tables import Images, read_images, read_table

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    from infra.store import Store

__all__ = ["COUNT", "LOOK_AT", "Tile", "draw", "figure", "montage", "of_selection", "show"]

COUNT = 12
"""Samples in a gallery."""

LOOK_AT = 64
"""Shards that samples are drawn from: enough for a fair impression, and never a reason to read a billion rows."""

_SIDE, _GAP, _COLUMNS, _LINES = 208, 16, 4, 3
_PAPER, _INK, _SOFT, _MAT = "#ffffff", "#1f2328", "#6e7781", "#f3f4f6"


class Tile(NamedTuple):
    """``image`` encoded; ``note`` in small grey letters: a number, a reason."""

    image: bytes
    caption: str
    note: str = ""


def draw(tables: Iterable[pa.Table], count: int = COUNT) -> list[dict[str, Any]]:
    """``count`` rows from ``tables``, drawn evenly by a hash of ``uid`` and ``key``."""
    drawn: list[tuple[int, int, int, dict[str, Any]]] = []
    for place, table in enumerate(tables):
        names = zip(table["uid"].to_pylist(), table["key"].to_pylist(), strict=True)
        ranks = [(hash64(f"{uid}/{key}"), place, row) for row, (uid, key) in enumerate(names)]
        best = heapq.nsmallest(count, ranks)
        drawn = heapq.nsmallest(count, drawn + [(*rank, table.slice(rank[2], 1).to_pylist()[0]) for rank in best])
    return [row for *_, row in drawn]


def figure(context: Context, images: Images | Store, name: str, tables: Iterable[pa.Table]) -> None:
    """The figure ``name`` of samples from ``tables``, if they hold any."""
    if rows := draw(tables):
        show(context, images, name, rows)


def show(
    context: Context, images: Images | Store, name: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()
) -> None:
    """The figure ``name`` of just these rows; ``notes`` go before the size of each original, if given."""
    sizes = [f"{row['original_width']} x {row['original_height']}" for row in rows]
    notes = [f"{note}, {size}" for note, size in zip(notes, sizes, strict=True)] if notes else sizes
    tiles = list(map(Tile, read_images(images, rows), [row["caption"] or "" for row in rows], notes))
    title, _, reason = name.partition("_")
    context.figure(
        name, montage(f"{title.capitalize()}: {reason.replace('_', ' ')}" if reason else title.capitalize(), tiles)
    )


def of_selection(context: Context, images: Images, records: Sequence[ShardRecord]) -> None:
    """Figures ``kept`` and ``dropped_{reason}`` of the selection a stage has just written."""
    import pyarrow.compute as pc

    names = [record.shard for record in records[:LOOK_AT]]
    figure(context, images, "kept", [read_table(context.store, f"data/kept-{name}.parquet") for name in names])
    dropped = [read_table(context.store, f"data/dropped-{name}.parquet") for name in names]
    for reason in sorted({reason for table in dropped for reason in table["reason"].unique().to_pylist()}):
        figure(
            context, images, f"dropped_{reason}", [table.filter(pc.equal(table["reason"], reason)) for table in dropped]
        )


def montage(title: str, tiles: Sequence[Tile]) -> bytes:
    """The tiles in rows of four under a title, as PNG."""
    from PIL import Image, ImageDraw

    cell = (_SIDE + _GAP, _SIDE + _LINES * 18 + 26 + _GAP)
    columns, rows = min(_COLUMNS, len(tiles)), -(-len(tiles) // _COLUMNS)
    width = max(columns * cell[0] + _GAP, 2 * cell[0] + _GAP)
    page = Image.new("RGB", (width, 56 + rows * cell[1]), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_GAP, 16), title, _INK, _font(22))
    for index, tile in enumerate(tiles):
        left, top = _GAP + index % _COLUMNS * cell[0], 56 + index // _COLUMNS * cell[1]
        pen.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), _MAT)
        picture = _thumbnail(tile.image)
        page.paste(picture, (left + (_SIDE - picture.width) // 2, top + (_SIDE - picture.height) // 2))
        font = _font(14)
        lines = _wrapped(pen, tile.caption, font)
        for line, text in enumerate(lines):
            pen.text((left, top + _SIDE + 6 + 18 * line), text, _INK, font)
        if tile.note:
            pen.text((left, top + _SIDE + 8 + 18 * len(lines)), tile.note, _SOFT, _font(12))
    out = io.BytesIO()
    page.save(out, "PNG")
    return out.getvalue()


def _thumbnail(data: bytes) -> Image.Image:
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _wrapped(pen: ImageDraw, text: str, font: FreeTypeFont) -> list[str]:
    """``text`` in at most three lines of a tile's width, cut with an ellipsis; long words are broken anywhere."""
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        candidate = f"{lines[-1]} {word}".strip()
        if pen.textlength(candidate, font) <= _SIDE:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if pen.textlength(lines[-1] + letter, font) > _SIDE:
                lines.append("")
            lines[-1] += letter
        if len(lines) > _LINES:
            break
    if len(lines) > _LINES:
        last = lines[_LINES - 1]
        while last and pen.textlength(f"{last}…", font) > _SIDE:
            last = last[:-1]
        lines = [*lines[: _LINES - 1], f"{last.rstrip()}…"]
    return lines


@lru_cache
def _font(size: int) -> FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it has Latin, Greek, Cyrillic, Arabic and more in one file."""
    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")
    assert spec and spec.origin, "matplotlib is a dependency"
    return ImageFont.truetype(str(Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"), size)
