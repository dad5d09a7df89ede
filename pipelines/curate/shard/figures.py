"""Figures of shard: galleries, and a page of samples to read through.

The shards are shuffled, so that the first samples are as good a choice as any; they are read as training reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from itertools import count, islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from infra.formats.shards import IMAGE_EXTENSIONS, read_samples
from infra.run.context import Context
from infra.store import Store
from pipelines.curate import gallery
from pipelines.curate.shard.write import shard_path

__all__ = ["SAMPLES", "draw_figures"]

SAMPLES = "figures/samples.html"

_COUNT = 200
_SIDE = 192  # of an image, in pixels

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Samples</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #1f2328; background: #fff; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({side}px, 1fr)); gap: 1.2rem; }}
figure {{ margin: 0; overflow-wrap: anywhere; }}
.image {{ height: {side}px; display: flex; align-items: center; justify-content: center; background: #f3f4f6; }}
small {{ display: block; color: #59636e; }}
</style>
<h1>Samples</h1>
<p>The first {shown} of {samples} training samples, which come in random order.</p>
<main>
{figures}
</main>
</html>
"""
_FIGURE = """<figure><div class="image">{image}</div>
<figcaption dir="auto">{caption}<small>{host}</small><small>{uid}</small></figcaption></figure>"""


class _Shown(NamedTuple):
    image: bytes
    known: dict[str, Any]
    caption: str


def draw_figures(context: Context, train: int, holdout: int) -> None:
    """Draw the figures ``train`` and ``holdout``, and the page :data:`SAMPLES` of training samples."""
    for held_out, samples in ((False, train), (True, holdout)):
        shown = list(islice(_samples(context.store, held_out), min(samples, gallery.COUNT if held_out else _COUNT)))
        if not shown:
            continue
        name = "holdout" if held_out else "train"
        tiles = [gallery.Tile(one.image, one.caption, _size(one.known)) for one in shown[: gallery.COUNT]]
        context.figure(name, gallery.montage(name.capitalize(), tiles))
        if not held_out:
            figures = "\n".join(map(_figure, shown))
            page = _PAGE.format(side=_SIDE, shown=len(shown), samples=f"{samples:,}", figures=figures)
            context.output.write(SAMPLES, page.encode())


def _samples(store: Store, held_out: bool) -> Iterator[_Shown]:
    """The samples of one side, in order, to be taken as many as there are."""
    for number in count():
        with store.open(shard_path(held_out, number)) as source:
            for sample in read_samples(source):
                image = next(sample[extension] for extension in IMAGE_EXTENSIONS if extension in sample)
                known = json.loads(sample.get("json", b"{}"))
                known = next(iter(known["pairs"]), {}) if held_out else known
                caption, *_ = sample.get("txt", b"").decode("utf-8", "replace").split("\n")
                yield _Shown(image, known if isinstance(known, dict) else {}, caption)


def _size(known: dict[str, Any]) -> str:
    width, height = known.get("original_width"), known.get("original_height")
    return f"{width} x {height}" if width and height else ""


def _figure(one: _Shown) -> str:
    return _FIGURE.format(
        image=f'<img alt="" src="{gallery.data_uri(one.image, _SIDE)}">',
        caption=escape(one.caption),
        host=escape(_host(one.known)),
        uid=escape(str(one.known.get("uid", ""))),
    )


def _host(known: dict[str, Any]) -> str:
    """The host of the page that the image was on, or of the image itself."""
    try:
        return urlsplit(str(known.get("page_url") or known.get("url") or "")).hostname or ""
    except ValueError:  # no URL
        return ""
