"""Image-text candidates of a page, from its HTML or its record in a WAT file.

A candidate is one (image, text, source); an image without any text is one candidate, too, so that it is counted.
A lazily loaded image and its fallback in ``<noscript>`` are one image, and one candidate.
Of several URLs of an image the widest of ``srcset`` and ``<picture>`` is taken, else the densest, else the one a lazy
loader would load, else ``src``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

from selectolax.lexbor import LexborNode

from infra.schema import Drop
from pipelines.formats.wat import WatPage
from pipelines.html.jsonld import Described, described
from pipelines.html.page import Html
from pipelines.html.resolve import Base
from pipelines.html.text import captions, clean, has_words, shorten

__all__ = ["SOURCES", "Candidates", "ExtractOptions", "Source", "candidates", "candidates_of_wat", "parse_srcset"]

Source = Literal["alt", "figcaption", "title", "og", "twitter", "json-ld"]
Offer = tuple[str, float, float]
"""A URL as written, its width in pixels or 0, and its pixel density."""
Texts = Mapping[Source, Sequence[str | None]]
"""By source, one text per image."""
SOURCES: tuple[Source, ...] = ("alt", "figcaption", "title", "og", "twitter", "json-ld")
"""Sources of texts, best first; of equal texts of one image the first stays."""

_LAZY = (
    *(
        "data-src",
        "data-original",
        "data-lazy-src",
        "data-lazy",
        "data-original-src",
        "data-src-large",
        "data-hi-res-src",
    ),
    *("data-full-src", "data-image-src", "data-echo", "data-url"),
)
_LAZY_SETS = ("srcset", "data-srcset", "data-lazy-srcset", "data-original-set")
_NOT_ONLY_SRC = frozenset({*_LAZY, *_LAZY_SETS})
_DECODABLE = frozenset({"", "image/jpeg", "image/jpg", "image/png", "image/webp", "image/gif"})
_STYLE_PIXEL = re.compile(r"(?:^|[;\s])(width|height)\s*:\s*[01](?:px)?\s*(?:!important)?\s*(?:;|$)", re.IGNORECASE)
_MAX_CLIMB = 30  # elements between an image and its figure; a hostile page may nest a million
_MAX_RAW = 200  # characters of an invalid URL to record
_MAX_CAPTIONS = 1 << 20  # characters of all captions of a page: nested captions repeat the inner ones
_CAPTION_COST = 500  # characters that a caption counts in addition to its text
_MAX_STEPS = 20  # headings, paragraphs and images between an image and the paragraph it goes with
_MAX_WRAPPING = 3  # elements between <noscript> and its image
_MAX_STYLE = 1000  # characters
_MAX_SOURCES = 50  # of one picture
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
    figures = _Captions(html) if "figcaption" in texts else None
    contexts = _contexts(html, options.context) if options.context and html.parts["img"] else {}
    partner, fallback = _fallbacks(html)
    pictures: dict[int, list[Offer]] = {}
    for node in html.parts["img"]:
        identity = node.mem_id
        if identity in fallback:
            continue
        attributes = node.attributes
        if (other := partner.get(identity)) is not None:
            attributes = _merge_attributes(attributes, other.attributes)
        for source, column in texts.items():
            if source == "figcaption":
                column.append(figures.of(node) if figures is not None else None)
            else:
                column.append(attributes.get(source))
        urls.append(_best_url(node, attributes, pictures))
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


_NO_TEXT, _BAD_URL, _TRACKING_PIXEL = Drop.NO_TEXT.value, Drop.BAD_URL.value, Drop.TRACKING_PIXEL.value


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
        found = self.found
        urls, taken, sources, reasons = found.urls, found.texts, found.sources, found.reasons
        columns = [(source, captions(column, self._longest)) for source, column in texts.items()]
        for number, url in enumerate(self._base.images(written)):
            reason = None
            if not url:
                url, reason = (written[number] or "").strip()[:_MAX_RAW], _BAD_URL
            elif pixels and pixels[number]:
                reason = _TRACKING_PIXEL
            before = len(urls)
            for source, column in columns:
                if text := column[number]:
                    urls.append(url)
                    taken.append(text)
                    sources.append(source)
                    reasons.append(reason)
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


# --- texts ---


class _Captions:
    """Captions of figures, as marked up in HTML 5, by WordPress and by DocBook."""

    def __init__(self, html: Html) -> None:
        self._of_figure: dict[int, LexborNode] = {}
        self._texts: dict[int, str] = {}
        self._room = _MAX_CAPTIONS
        for caption in html.parts["figcaption"]:
            self._assign(caption, lambda node: node.tag == "figure")
        for caption in html.parts["caption"]:
            figure = "wp-caption" if "wp-caption-text" in _classes(caption) else "figure"
            self._assign(caption, partial(_has_class, figure))

    def _assign(self, caption: LexborNode, is_figure: Callable[[LexborNode], bool]) -> None:
        """Assign a caption to the nearest figure around it; of several captions of a figure the first counts."""
        around = caption.parent
        for _ in range(_MAX_CLIMB):
            if around is None:
                return
            if is_figure(around):
                self._of_figure.setdefault(around.mem_id, caption)
                return
            around = around.parent

    def of(self, image: LexborNode) -> str | None:
        """Return the caption of the nearest figure around an image that has one."""
        around = image.parent if self._of_figure else None
        for _ in range(_MAX_CLIMB):
            if around is None:
                return None
            if (caption := self._of_figure.get(around.mem_id)) is not None:
                return self._text(caption)
            around = around.parent
        return None

    def _text(self, caption: LexborNode) -> str:
        text = self._texts.get(caption.mem_id)
        if text is None:
            text = _prose(caption) if self._room > 0 else ""
            self._room -= len(text) + _CAPTION_COST
            self._texts[caption.mem_id] = text
        return text


def _has_class(name: str, node: LexborNode) -> bool:
    return name in _classes(node)


def _classes(node: LexborNode) -> list[str]:
    return (node.attributes.get("class") or "").split()


def _prose(node: LexborNode) -> str:
    # Words of two blocks must not be joined, those of inline markup must not be split.
    blocks = node.css_first("br, p, div, li") is not None
    return node.text(separator=" " if blocks else "")


def _contexts(html: Html, length: int) -> dict[int, str]:
    """Return, by image node, the heading above it and the paragraph nearest to it, a line each."""
    nodes = html.tree.css(_PROSE)
    texts: dict[int, str] = {}

    def text_at(place: int) -> str:
        if place not in texts:
            text = clean(nodes[place].text()[: 4 * length])
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


# --- URLs ---


def _fallbacks(html: Html) -> tuple[dict[int, LexborNode], set[int]]:
    """Return, by node of a lazily loaded image, its fallback in ``<noscript>``; and the nodes of all fallbacks."""
    partner: dict[int, LexborNode] = {}
    fallback: set[int] = set()
    for noscript in html.parts["noscript"]:
        inside = _only_image(noscript)
        if inside is None:
            continue
        for neighbour in (_element(noscript, "prev"), _element(noscript, "next")):
            if neighbour is not None and neighbour.tag == "img" and neighbour.mem_id not in partner:
                ours, theirs = neighbour.attributes.get("alt"), inside.attributes.get("alt")
                if not ours or not theirs or ours == theirs:
                    partner[neighbour.mem_id] = inside
                    fallback.add(inside.mem_id)
                    break
    return partner, fallback


def _only_image(node: LexborNode) -> LexborNode | None:
    """Return the image in a node that holds nothing else, except a link or a ``<picture>`` around it."""
    for _ in range(_MAX_WRAPPING):
        children = list(islice(node.iter(), _MAX_SOURCES))
        if node.tag == "picture":
            children = [child for child in children if child.tag != "source"]
        if len(children) != 1:
            return None
        node = children[0]
        if node.tag == "img":
            return node
    return None


def _element(node: LexborNode, direction: Literal["prev", "next"]) -> LexborNode | None:
    """Return the adjacent element, if only white space is between."""
    sibling: LexborNode | None = getattr(node, direction)
    while sibling is not None and sibling.is_text_node and not (sibling.text_content or "").strip():
        sibling = getattr(sibling, direction)
    return sibling


def _merge_attributes(lazy: dict[str, str | None], fallback: dict[str, str | None]) -> dict[str, str | None]:
    """Merge a lazily loaded image with its fallback: the former's attributes win, except a placeholder ``src``."""
    is_placeholder = _NOT_ONLY_SRC.isdisjoint(lazy) and fallback.get("src")
    return {
        **fallback,
        **{name: value for name, value in lazy.items() if value and not (is_placeholder and name == "src")},
    }


def _best_url(node: LexborNode, attributes: Mapping[str, str | None], pictures: dict[int, list[Offer]]) -> str:
    """Return the image's best URL as written; empty if it has none. ``pictures``: cache of ``<picture>``, by node."""
    parent = node.parent
    picture = parent if parent is not None and parent.tag == "picture" else None
    if picture is None and _NOT_ONLY_SRC.isdisjoint(attributes):
        return (attributes.get("src") or "").strip()
    offers: list[Offer] = []
    for name in _LAZY_SETS:
        if given := attributes.get(name):
            offers += parse_srcset(given)
    if picture is not None:
        if picture.mem_id not in pictures:
            pictures[picture.mem_id] = list(_of_picture(picture))
        offers += pictures[picture.mem_id]
    offers = [offer for offer in offers if not offer[0].startswith("data:")]
    widest = max(offers, key=lambda offer: offer[1], default=None)
    if widest and widest[1] > 0:
        return widest[0]
    densest = max(offers, key=lambda offer: offer[2], default=None)
    if densest and densest[2] > 1:
        return densest[0]
    for name in _LAZY:
        given = (attributes.get(name) or "").strip()
        if given and not given.startswith(("data:", "{", "[")):
            return given
    src = (attributes.get("src") or "").strip()
    if (not src or src.startswith("data:")) and densest:
        return densest[0]
    return src


def _of_picture(picture: LexborNode) -> Iterator[Offer]:
    for source in islice(picture.iter(), _MAX_SOURCES):
        attributes = source.attributes
        if source.tag != "source" or (attributes.get("type") or "").strip().lower() not in _DECODABLE:
            continue
        for name in _LAZY_SETS:
            for url, width, density in parse_srcset(attributes.get(name) or ""):
                # A source for some screens only is another crop of the image, so only its width counts.
                yield url, width, 0.0 if attributes.get("media") else density


_OFFER = re.compile(r"[\s,]*(\S+)")


def parse_srcset(value: str) -> list[Offer]:
    """Parse a ``srcset`` to (URL, width or 0, density) per entry (HTML Standard, 4.8.4.2.2)."""
    offers: list[Offer] = []
    position = 0
    while match := _OFFER.match(value, position):
        url = match[1]
        position = match.end()
        descriptors = ""
        if url.endswith(","):
            url = url.rstrip(",")
        else:
            end = value.find(",", position)
            end = len(value) if end < 0 else end
            descriptors, position = value[position:end], end + 1
        width, density = 0.0, 1.0
        for part in descriptors.split():
            number = part[:-1]
            if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", number):
                continue
            if part[-1] == "w":
                width = float(number)
            elif part[-1] == "x":
                density = float(number)
        if url:
            offers.append((url, width, density))
    return offers


def _is_pixel(attributes: Mapping[str, str | None]) -> bool:
    """Return True if the markup declares a width and height of at most one pixel."""
    size = attributes.get("width"), attributes.get("height")
    if all(side and side.strip().lower().removesuffix("px") in ("0", "1") for side in size):
        return True
    style = attributes.get("style")
    return len({side.lower() for side in _STYLE_PIXEL.findall(style[:_MAX_STYLE])}) == 2 if style else False
