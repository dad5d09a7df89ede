"""The pictures of a page and the texts that go with them.

A candidate is one (image, text, source); an image without any text is one candidate too, so that it can be counted.
Which of an image's addresses is taken: the widest of ``srcset`` and ``<picture>``, else the densest, else the one a
lazy loader would load, else ``src``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from selectolax.lexbor import LexborNode

from infra.schema import Drop
from pipelines.page import Html, attribute
from pipelines.text import clean, has_words, shorten
from pipelines.urls import BadUrlError, canonical

__all__ = ["SOURCES", "Candidate", "Source", "candidates", "license_of", "parse_srcset"]

Source = Literal["alt", "figcaption", "title", "og"]
SOURCES: tuple[Source, ...] = ("alt", "figcaption", "title", "og")
"""Where texts come from, best first; of equal texts of one image the first stays."""

_CAPTIONED = (  # what groups a picture with its caption, in HTML 5, WordPress, and DocBook's HTML
    ("figure", "figcaption"),
    (".wp-caption", ".wp-caption-text"),
    ("div.figure", ".title, .caption"),
)
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
_READABLE = frozenset({"", "image/jpeg", "image/jpg", "image/png", "image/webp", "image/gif"})
_STYLE_PIXEL = re.compile(r"(?:^|[;\s])(width|height)\s*:\s*[01](?:px)?\s*(?:!important)?\s*(?:;|$)", re.IGNORECASE)
_MAX_CLIMB = 30  # elements between an image and its figure; a page may nest a million
_MAX_RAW = 200  # characters of a bad address worth keeping


class Candidate(NamedTuple):
    """``reason`` says why it goes no further; None: it is a pair."""

    url: str
    text: str
    source: str
    reason: Drop | None = None


def candidates(html: Html, sources: tuple[Source, ...], max_length: int) -> Iterator[Candidate]:
    """Every candidate of a page: its images in document order, then what it shows when it is shared (Open Graph)."""
    captions = _captions(html) if "figcaption" in sources else {}
    for node in html.tree.css("img"):
        attributes = node.attributes
        texts = {
            "alt": attributes.get("alt"),
            "figcaption": _caption(node, captions),
            "title": attributes.get("title"),
        }
        given = [(source, texts[source]) for source in sources if source in texts]
        pixel = _is_pixel(attributes)
        yield from _of_image(html, _address(node, attributes), given, pixel, max_length)
    if "og" in sources:
        for address, text in _shared(html):
            yield from _of_image(html, address, [("og", text)], False, max_length)


def _of_image(
    html: Html, address: str, given: list[tuple[Source, str | None]], pixel: bool, max_length: int
) -> Iterator[Candidate]:
    texts = [(source, shorten(text, max_length)) for source, raw in given if raw and has_words(text := clean(raw))]
    try:
        url = canonical(address, html.base) if address and address[0] != "#" else ""
    except BadUrlError:
        url = ""
    reason = Drop.BAD_URL if not url else Drop.TRACKING_PIXEL if pixel else None
    if reason is not None or not texts:
        source, text = texts[0] if texts else ("", "")
        yield Candidate(url or address[:_MAX_RAW], text, source, reason or Drop.NO_TEXT)
        return
    for source, text in texts:
        yield Candidate(url, text, source)


def _captions(html: Html) -> dict[int, str]:
    """The caption of each figure that has one, by node."""
    found: dict[int, str] = {}
    claimed: set[int] = set()
    for group, caption_in in _CAPTIONED:
        for figure in reversed(html.tree.css(group)):  # inner figures before those around them
            caption = next((node for node in figure.css(caption_in) if node.mem_id not in claimed), None)
            if caption is None:
                continue
            claimed.add(caption.mem_id)
            # Words of two blocks must not run together, those of inline markup must not fall apart.
            blocks = caption.css_first("br, p, div, li") is not None
            found[figure.mem_id] = caption.text(separator=" " if blocks else "")
    return found


def _caption(node: LexborNode, captions: Mapping[int, str]) -> str | None:
    """The caption of the nearest figure around an image that has one."""
    around = node.parent if captions else None
    for _ in range(_MAX_CLIMB):
        if around is None:
            break
        if (caption := captions.get(around.mem_id)) is not None:
            return caption
        around = around.parent
    return None


def _address(node: LexborNode, attributes: Mapping[str, str | None]) -> str:
    """The image's best address as it is written; empty if it has none."""
    offers: list[tuple[str, float, float]] = []  # address, width, density
    for name in _LAZY_SETS:
        if given := attributes.get(name):
            offers += parse_srcset(given)
    parent = node.parent
    if parent is not None and parent.tag == "picture":
        for source in parent.css("source"):
            of_source = source.attributes
            if (of_source.get("type") or "").strip().lower() not in _READABLE:
                continue
            for name in _LAZY_SETS:
                for address, width, density in parse_srcset(of_source.get(name) or ""):
                    # A source for some screens only is the same picture cut differently, unless its width says it all.
                    offers.append((address, width, 0.0 if of_source.get("media") else density))
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
    source_address = (attributes.get("src") or "").strip()
    if (not source_address or source_address.startswith("data:")) and densest:
        return densest[0]
    return source_address


_OFFER = re.compile(r"[\s,]*(\S+)")


def parse_srcset(value: str) -> list[tuple[str, float, float]]:
    """(address, width or 0, density) of each entry of a ``srcset`` (HTML Standard, 4.8.4.2.2)."""
    offers: list[tuple[str, float, float]] = []
    position = 0
    while match := _OFFER.match(value, position):
        address = match[1]
        position = match.end()
        descriptors = ""
        if address.endswith(","):
            address = address.rstrip(",")
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
        if address:
            offers.append((address, width, density))
    return offers


def _is_pixel(attributes: Mapping[str, str | None]) -> bool:
    """Whether the markup declares an image of at most one pixel a side."""
    sides = [(attributes.get(name) or "").strip().lower().removesuffix("px") for name in ("width", "height")]
    if all(side in ("0", "1") for side in sides):
        return True
    return len({side.lower() for side in _STYLE_PIXEL.findall(attributes.get("style") or "")}) == 2


def _shared(html: Html) -> list[tuple[str, str]]:
    """(address, text) of each ``og:image``; its own alt text, else the title, else the description."""
    images: list[list[str]] = []
    page: dict[str, str] = {}
    for name, content in html.metas:
        if name in ("og:image", "og:image:url") and not (name.endswith(":url") and images):
            images.append([content.strip(), ""])
        elif name == "og:image:alt" and images:
            images[-1][1] = content
        elif name in ("og:title", "og:description"):
            page.setdefault(name, content)
    text = page.get("og:title") or page.get("og:description") or ""
    return [(address, alt or text) for address, alt in images]


def license_of(html: Html) -> str:
    """The address of the licence the page names; empty if it names none."""
    for node in html.tree.css('[rel~="license" i][href]'):
        try:
            return canonical(attribute(node, "href"), html.base)
        except BadUrlError:
            continue
    return ""
