"""Image-text candidates of many pages at once: their URLs resolved, their texts cleaned, and why some are dropped.

A candidate is one (image, text, source); an image without any text is one candidate, too, so that it is counted. An
image whose only URL is that of a placeholder is dropped as one.

Thousands of images at once, as Arrow arrays: what few images need is done in Python, what all need is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.schema import Drop
from pipelines.html.addresses import placeholders
from pipelines.html.arrays import Array, strings, true
from pipelines.html.images import ExtractOptions, Images
from pipelines.html.labels import same_caption, unlabelled
from pipelines.html.resolve import resolved
from pipelines.html.text import captions

__all__ = ["Candidates", "candidates"]

_MAX_RAW = 200  # characters of an invalid URL to record


class Candidates(NamedTuple):
    """Candidates as columns, in order of pages, images and sources. ``page``: number of the page.

    ``reasons``: why one is dropped; null for a pair.
    """

    page: Array
    urls: pa.StringArray
    texts: pa.StringArray
    sources: pa.StringArray
    reasons: pa.StringArray
    contexts: pa.StringArray


def candidates(pages: Sequence[Images], options: ExtractOptions) -> Candidates:
    """Return all candidates of pages. An image that is dropped has its first text only."""
    counts = np.array([len(images.urls) for images in pages], dtype=np.int64)
    page, firsts = np.repeat(np.arange(len(pages)), counts), (np.cumsum(counts) - counts).tolist()
    written = strings(chain.from_iterable(images.urls for images in pages))
    urls = resolved(written, [images.base for images in pages], page)
    pixels = [first + number for first, images in zip(firsts, pages, strict=True) for number in images.pixels]
    why = _why_dropped(urls, pixels)
    columns = chain.from_iterable(images.texts[source] for source in options.sources for images in pages)
    texts = unlabelled(captions(strings(columns), options.max_caption))

    image, source = _rows(true(texts.is_valid()).reshape(len(options.sources), len(urls)), why != _KEPT)
    texts = pa.concat_arrays([texts, pa.nulls(len(urls), pa.string())]).take(pa.array(source * len(urls) + image))
    again = _says_again(image, texts)
    why = np.where(again, _AGAIN, why[image])
    why = np.where((why == _KEPT) & (source == len(options.sources)), _NO_TEXT, why)
    return Candidates(
        page[image],
        _or_as_written(urls, written).take(pa.array(image)),
        texts.fill_null(""),
        strings([*options.sources, None]).take(pa.array(source)),
        _REASONS.take(pa.array(why)),
        _contexts(pages, firsts, len(urls)).take(pa.array(image)),
    )


# Reasons by number.
_KEPT, _PLACEHOLDER, _PIXEL, _BAD_URL, _AGAIN, _NO_TEXT = range(6)
_REASONS = strings([None, Drop.PLACEHOLDER, Drop.TRACKING_PIXEL, Drop.BAD_URL, Drop.DUPLICATE_PAIR, Drop.NO_TEXT])


def _why_dropped(urls: pa.StringArray, pixels: Sequence[int]) -> Array:
    """Return, for each image, the number of the reason to drop it. ``pixels``: numbers of tracking pixels."""
    why = np.where(placeholders(urls), _PLACEHOLDER, _KEPT)
    why[pixels] = _PIXEL
    why[true(urls.is_null())] = _BAD_URL
    return why


def _or_as_written(urls: pa.StringArray, written: pa.StringArray) -> pa.StringArray:
    """Return ``urls``, with what was written where they are null."""
    bad = urls.is_null()
    if not bad.true_count:
        return urls
    return pc.replace_with_mask(
        urls, bad, strings([(text or "").strip()[:_MAX_RAW] for text in written.filter(bad).to_pylist()])
    )


def _contexts(pages: Sequence[Images], firsts: Sequence[int], count: int) -> pa.StringArray:
    found = {
        first + number: text
        for first, images in zip(firsts, pages, strict=True)
        for number, text in images.contexts.items()
    }
    return strings(map(found.get, range(count))) if found else pa.nulls(count, pa.string())


def _rows(has_text: Array, is_dropped: Array) -> tuple[Array, Array]:
    """Return the candidates as numbers of images and sources; of an image without a text the number behind the last.

    ``has_text``: by source and image.
    """
    has_text = has_text & (~is_dropped | (np.cumsum(has_text, axis=0) == 1))
    image, source = np.nonzero(np.vstack([has_text, ~has_text.any(axis=0)]).T)
    return image, source


def _says_again(image: Array, texts: pa.StringArray) -> Array:
    """Return, for each candidate, whether an earlier text of its image says the same."""
    again = np.zeros(len(image), dtype=bool)
    followed = np.flatnonzero(image[1:] == image[:-1])
    places = np.union1d(followed, followed + 1)
    said = dict(zip(places.tolist(), texts.take(pa.array(places)).to_pylist(), strict=True))
    for place in (followed + 1).tolist():
        earlier = place - 1
        while not again[place] and earlier in said and image[earlier] == image[place]:
            again[place] = same_caption(said[place], said[earlier])
            earlier -= 1
    return again
