"""Images of a page with their texts, from its HTML or its record in a WAT file.

A lazily loaded image and its fallback in ``<noscript>`` are one image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pipelines.formats.wat import WatPage
from pipelines.html.addresses import Addresses
from pipelines.html.fallbacks import fallbacks, merge_attributes
from pipelines.html.figures import Captions
from pipelines.html.jsonld import described
from pipelines.html.page import Html
from pipelines.html.rendered import rendered
from pipelines.html.text import clean, has_words, shorten

__all__ = ["SOURCES", "ExtractOptions", "Images", "Source", "images_of_page", "images_of_wat"]

Source = Literal["alt", "figcaption", "title", "og", "twitter", "json-ld"]
SOURCES: tuple[Source, ...] = ("alt", "figcaption", "title", "og", "twitter", "json-ld")
"""Sources of texts, best first; of texts of one image that say the same the first stays."""

_STYLE_PIXEL = re.compile(r"(?:^|[;\s])(width|height)\s*:\s*[01](?:px)?\s*(?:!important)?\s*(?:;|$)", re.IGNORECASE)
_MAX_STEPS = 20  # headings, paragraphs and images between an image and the paragraph it goes with
_MAX_STYLE = 1000  # characters
_PROSE = "h1, h2, h3, h4, h5, h6, p, img"
_CARDS: tuple[tuple[Source, str], ...] = (("og", "og:"), ("twitter", "twitter:"))
_PREFIXES = tuple(prefix for _, prefix in _CARDS)


class ExtractOptions(NamedTuple):
    """Sources of texts, and maximum lengths in characters. ``context`` 0: none."""

    sources: tuple[Source, ...] = SOURCES
    max_caption: int = 2000
    context: int = 0


class Images:
    """Images of a page: in document order, then those of its cards and its JSON-LD.

    ``urls`` and ``texts``, by source, have an entry for each image, as written. ``pixels``: numbers of those that the
    markup declares to be tracking pixels. ``contexts``: by number. ``licenses``: by canonical URL, of images that have
    one of their own.
    """

    __slots__ = ("base", "contexts", "licenses", "pixels", "texts", "urls")

    def __init__(self, base: str, sources: Sequence[Source]) -> None:
        self.base = base
        self.urls: list[str | None] = []
        self.texts: dict[Source, list[str | None]] = {source: [] for source in sources}
        self.pixels: list[int] = []
        self.contexts: dict[int, str] = {}
        self.licenses: dict[str, str] = {}

    def add(self, urls: Sequence[str | None], texts: Mapping[Source, Sequence[str | None]]) -> None:
        """Add images with their texts by source."""
        nothing = [None] * len(urls)
        self.urls += urls
        for source, column in self.texts.items():
            column += texts.get(source, nothing)


def images_of_page(html: Html, options: ExtractOptions) -> Images:
    """Return all images of a page."""
    images = Images(html.base, options.sources)
    _add_markup(images, html, options)
    _add_cards(images, html.metas)
    if "json-ld" in images.texts and html.parts["json-ld"]:
        _add_json_ld(images, html)
    return images


def images_of_wat(wat: WatPage, options: ExtractOptions) -> Images:
    """Return the images of a WAT record: it has ``src``, ``alt`` and ``title`` of images, and ``<meta>`` tags."""
    images, found = Images(wat.base, options.sources), wat.images
    texts: dict[Source, list[str | None]] = {}
    if "alt" in images.texts:
        texts["alt"] = [image.alt for image in found]
    if "title" in images.texts:
        texts["title"] = [image.title for image in found]
    images.add([image.url for image in found], texts)
    _add_cards(images, wat.metas)
    return images


def _add_markup(images: Images, html: Html, options: ExtractOptions) -> None:
    urls = images.urls
    named = [(name, column) for name, column in images.texts.items() if name in ("alt", "title")]
    figures = Captions(html) if "figcaption" in images.texts else None
    contexts = _contexts(html, options.context) if options.context and html.parts["img"] else {}
    partner, fallback = fallbacks(html.parts["noscript"])
    addresses = Addresses()
    captions: list[str | None] = []
    for node in html.parts["img"]:
        identity = node.mem_id
        if identity in fallback:
            continue
        attributes = node.attributes
        if (other := partner.get(identity)) is not None:
            attributes = merge_attributes(attributes, other.attributes)
        for name, column in named:
            column.append(attributes.get(name))
        if figures is not None:
            captions.append(figures.of(node))
        if _is_pixel(attributes):
            images.pixels.append(len(urls))
        if identity in contexts:
            images.contexts[len(urls)] = contexts[identity]
        urls.append(addresses.best(node, attributes))
    for source, column in images.texts.items():
        if source == "figcaption":
            column += captions
        elif source not in ("alt", "title"):
            column += [None] * len(urls)


def _add_cards(images: Images, metas: list[tuple[str, str]]) -> None:
    """Add the images of Open Graph and Twitter cards, with their alt text, else the title, else the description."""
    cards = [(source, prefix) for source, prefix in _CARDS if source in images.texts]
    metas = [meta for meta in metas if meta[0].startswith(_PREFIXES)] if cards else []
    if not metas:
        return
    texts = {name: content for name, content in reversed(metas) if name.endswith((":title", ":description"))}
    for source, prefix in cards:
        found: list[list[str]] = []
        for name, content in metas:
            if not name.startswith(prefix) or not name.startswith("image", len(prefix)):
                continue
            part = name[len(prefix) + len("image") :]
            if part == "" or (part in (":url", ":src") and not found):
                found.append([content, ""])
            elif part == ":alt" and found:
                found[-1][1] = content
        kinds = (f"{prefix}title", "og:title", f"{prefix}description", "og:description")
        text = next((texts[kind] for kind in kinds if texts.get(kind)), "")
        if found:
            images.add([url for url, _ in found], {source: [alt or text for _, alt in found]})


def _add_json_ld(images: Images, html: Html) -> None:
    found = [image for script in html.parts["json-ld"] for image in described(script.text())]
    images.add([image.url for image in found], {"json-ld": [image.text for image in found]})
    for image in found:
        if image.license and (url := html.resolve(image.url)) and (terms := html.resolve(image.license)):
            images.licenses.setdefault(url, terms)


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


def _is_pixel(attributes: Mapping[str, str | None]) -> bool:
    """Return True if the markup declares a width and height of at most one pixel."""
    width, height = attributes.get("width"), attributes.get("height")
    if width and height and _is_tiny(width) and _is_tiny(height):
        return True
    style = attributes.get("style")
    return len({side.lower() for side in _STYLE_PIXEL.findall(style[:_MAX_STYLE])}) == 2 if style else False


def _is_tiny(side: str) -> bool:
    return side.strip().lower().removesuffix("px") in ("0", "1")
