"""Image-text candidates of a page, from its HTML or its record in a WAT file.

A candidate is one (image, text, source); an image without any text is one candidate, too, so that it is counted.
A lazily loaded image and its fallback in ``<noscript>`` are one image, and one candidate. An image whose only URL is
that of a placeholder is dropped as one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from infra.schema import Drop
from pipelines.formats.wat import WatPage
from pipelines.html.addresses import Addresses, placeholders
from pipelines.html.fallbacks import fallbacks, merge_attributes
from pipelines.html.figures import Captions
from pipelines.html.jsonld import Described, described
from pipelines.html.labels import same_caption, unlabelled
from pipelines.html.page import Html
from pipelines.html.rendered import rendered
from pipelines.html.resolve import Base
from pipelines.html.text import captions, clean, has_words, shorten

__all__ = ["SOURCES", "Candidates", "ExtractOptions", "Source", "candidates", "candidates_of_wat"]

Source = Literal["alt", "figcaption", "title", "og", "twitter", "json-ld"]
Texts = Mapping[Source, Sequence[str | None]]
"""By source, one text per image."""
SOURCES: tuple[Source, ...] = ("alt", "figcaption", "title", "og", "twitter", "json-ld")
"""Sources of texts, best first; of texts of one image that say the same the first stays."""

_STYLE_PIXEL = re.compile(r"(?:^|[;\s])(width|height)\s*:\s*[01](?:px)?\s*(?:!important)?\s*(?:;|$)", re.IGNORECASE)
_MAX_RAW = 200  # characters of an invalid URL to record
_MAX_STEPS = 20  # headings, paragraphs and images between an image and the paragraph it goes with
_MAX_STYLE = 1000  # characters
_PROSE = "h1, h2, h3, h4, h5, h6, p, img"
_CARDS: tuple[tuple[Source, str], ...] = (("og", "og:"), ("twitter", "twitter:"))


class ExtractOptions(NamedTuple):
    """Sources of texts, and maximum lengths in characters. ``context`` 0: none."""

    sources: tuple[Source, ...] = SOURCES
    max_caption: int = 2000
    context: int = 0


@dataclass(slots=True)
class Candidates:
    """Candidates as columns. ``reasons``: why one is dropped; None for a pair.

    ``licenses``: by URL, of images that have a licence of their own.
    """

    urls: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    contexts: list[str | None] = field(default_factory=list)
    licenses: dict[str, str] = field(default_factory=dict)


def candidates(html: Html, options: ExtractOptions) -> Candidates:
    """Return all candidates of a page: its images in document order, then those of its cards and its JSON-LD."""
    page = _Page(Base(html.base), options)
    described = _json_ld_images(html) if "json-ld" in options.sources else []
    page.add_licenses(described)
    page.add(*_images(html, options))
    _shared(page, html.metas)
    if described:
        page.add([image.url for image in described], {"json-ld": [image.text for image in described]})
    return page.found


def _images(html: Html, options: ExtractOptions) -> tuple[list[str], Texts, list[bool], list[str | None]]:
    """Return the arguments of :meth:`_Page.add` for the images in a page's markup, in document order."""
    texts: dict[Source, list[str | None]] = {
        source: [] for source in options.sources if source in ("alt", "figcaption", "title")
    }
    urls: list[str] = []
    pixels: list[bool] = []
    around: list[str | None] = []
    figures = Captions(html) if "figcaption" in texts else None
    contexts = _contexts(html, options.context) if options.context and html.parts["img"] else {}
    partner, fallback = fallbacks(html.parts["noscript"])
    addresses = Addresses()
    for node in html.parts["img"]:
        identity = node.mem_id
        if identity in fallback:
            continue
        attributes = node.attributes
        if (other := partner.get(identity)) is not None:
            attributes = merge_attributes(attributes, other.attributes)
        for source, column in texts.items():
            if source == "figcaption":
                column.append(figures.of(node) if figures is not None else None)
            else:
                column.append(attributes.get(source))
        urls.append(addresses.best(node, attributes))
        pixels.append(_is_pixel(attributes))
        around.append(contexts.get(identity))
    return urls, texts, pixels, around


def candidates_of_wat(wat: WatPage, options: ExtractOptions) -> Candidates:
    """Return the candidates of a WAT record: it has ``src``, ``alt`` and ``title`` of images, and ``<meta>`` tags."""
    page = _Page(Base(wat.base), options)
    images = wat.images
    texts: Texts = {
        source: [getattr(image, source) for image in images] for source in options.sources if source in ("alt", "title")
    }
    page.add([image.url for image in images], texts)
    _shared(page, wat.metas)
    return page.found


_NO_TEXT, _BAD_URL = Drop.NO_TEXT.value, Drop.BAD_URL.value
_TRACKING_PIXEL, _PLACEHOLDER = Drop.TRACKING_PIXEL.value, Drop.PLACEHOLDER.value
_DUPLICATE_PAIR = Drop.DUPLICATE_PAIR.value


class _Page:
    """Collects candidates from URLs and texts of images in ``found``."""

    def __init__(self, base: Base, options: ExtractOptions) -> None:
        self.found = Candidates()
        self._base, self.sources, self._longest = base, options.sources, options.max_caption

    def add_licenses(self, images: list[Described]) -> None:
        for image in images:
            url, terms = self._base.resolve(image.url), self._base.resolve(image.license) if image.license else ""
            if url and terms:
                self.found.licenses.setdefault(url, terms)

    def add(
        self,
        written: Sequence[str | None],
        texts: Texts,
        pixels: Sequence[bool] = (),
        contexts: Sequence[str | None] = (),
    ) -> None:
        """Add the candidates of images, given their URLs and texts as written, and optionally whether the markup
        declares them to be tracking pixels, and their contexts. An image that is dropped has its first text only.

        This loop runs a hundred million times a day: hence columns, and one loop for all of a page's images.
        """
        found, resolved = self.found, self._base.images(written)
        columns = [(source, unlabelled(captions(column, self._longest))) for source, column in texts.items()]
        dropped = _dropped(written, resolved, pixels)
        if len(columns) == 1:  # of one text each
            source, column = columns[0]
            found.urls += resolved
            found.texts += column
            found.sources += [source if text else None for text in column]
            if dropped or "" in column:
                why = dropped or [None] * len(column)
                found.reasons += [
                    reason if text else reason or _NO_TEXT for reason, text in zip(why, column, strict=True)
                ]
            else:
                found.reasons += [None] * len(column)
            found.contexts += contexts or [None] * len(column)
            return
        urls, taken, sources, reasons = found.urls, found.texts, found.sources, found.reasons
        for number, url in enumerate(resolved):
            reason = dropped[number] if dropped else None
            before = len(urls)
            for source, column in columns:
                if text := column[number]:
                    again = len(urls) > before and any(same_caption(text, earlier) for earlier in taken[before:])
                    urls.append(url)
                    taken.append(text)
                    sources.append(source)
                    reasons.append(_DUPLICATE_PAIR if again else reason)
                    if reason:
                        break
            if len(urls) == before:
                urls.append(url)
                taken.append("")
                sources.append(None)
                reasons.append(reason or _NO_TEXT)
            if contexts:
                found.contexts += [contexts[number]] * (len(urls) - len(found.contexts))
        found.contexts += [None] * (len(urls) - len(found.contexts))


def _dropped(written: Sequence[str | None], resolved: list[str], pixels: Sequence[bool]) -> list[str | None]:
    """Return, for each image, the reason to drop it or None; empty if all stay.

    An invalid URL in ``resolved`` is replaced with what was ``written``.
    """
    reasons: list[str | None] = []
    if flags := placeholders(resolved):
        reasons = [_PLACEHOLDER if flag else None for flag in flags]
    if True in pixels:
        reasons = [
            _TRACKING_PIXEL if pixel else reason
            for pixel, reason in zip(pixels, reasons or [None] * len(pixels), strict=True)
        ]
    if "" in resolved:
        reasons = reasons or [None] * len(resolved)
        for number, url in enumerate(resolved):
            if not url:
                resolved[number], reasons[number] = (written[number] or "").strip()[:_MAX_RAW], _BAD_URL
    return reasons


# --- texts ---


def _contexts(html: Html, length: int) -> dict[int, str]:
    """Return, by image node, the heading above it and the paragraph nearest to it, a line each."""
    nodes = html.tree.css(_PROSE)
    texts: dict[int, str] = {}

    def text_at(place: int) -> str:
        if place not in texts:
            text = clean(rendered(nodes[place])[0][: 4 * length])
            texts[place] = text if has_words(text) else ""
        return texts[place]

    found: dict[int, str] = {}
    heading = -1
    for place, node in enumerate(nodes):
        tag = node.tag or ""
        if tag != "img":
            heading = heading if tag == "p" else place
            continue
        near = (place + step for distance in range(1, _MAX_STEPS) for step in (-distance, distance))
        paragraph = next(
            (text for at in near if 0 <= at < len(nodes) and nodes[at].tag == "p" and (text := text_at(at))), ""
        )
        lines = [line for line in (text_at(heading) if heading >= 0 else "", paragraph) if line]
        if lines:
            found[node.mem_id] = shorten("\n".join(lines), length)
    return found


def _shared(page: _Page, metas: list[tuple[str, str]]) -> None:
    """Add the images of Open Graph and Twitter cards, with their alt text, else the title, else the description."""
    cards = [(source, prefix) for source, prefix in _CARDS if source in page.sources]
    if not cards:
        return
    texts = {name: content for name, content in reversed(metas) if name.endswith((":title", ":description"))}
    for source, prefix in cards:
        images: list[list[str]] = []
        for name, content in metas:
            if not name.startswith(prefix) or not name.startswith("image", len(prefix)):
                continue
            part = name[len(prefix) + len("image") :]
            if part == "" or (part in (":url", ":src") and not images):
                images.append([content, ""])
            elif part == ":alt" and images:
                images[-1][1] = content
        kinds = (f"{prefix}title", "og:title", f"{prefix}description", "og:description")
        text = next((texts[kind] for kind in kinds if texts.get(kind)), "")
        if images:
            page.add([url for url, _ in images], {source: [alt or text for _, alt in images]})


def _json_ld_images(html: Html) -> list[Described]:
    return [image for script in html.parts["script"] for image in described(script.text())]


# --- images that are none ---


def _is_pixel(attributes: Mapping[str, str | None]) -> bool:
    """Return True if the markup declares a width and height of at most one pixel."""
    size = attributes.get("width"), attributes.get("height")
    if all(side and side.strip().lower().removesuffix("px") in ("0", "1") for side in size):
        return True
    style = attributes.get("style")
    return len({side.lower() for side in _STYLE_PIXEL.findall(style[:_MAX_STYLE])}) == 2 if style else False
