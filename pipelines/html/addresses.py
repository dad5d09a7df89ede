"""The URL of an image, chosen from all its markup offers.

Pages that load images lazily put a stand-in into ``src`` and the image into an attribute of any name: where ``src`` is
a stand-in, every attribute counts whose value is the URL of an image, as Mozilla's Readability has it.
Of several URLs the widest of ``srcset`` and ``<picture>`` is taken, else the densest, else the one a lazy loader would
load, else ``src``; but a stand-in, or a format that no download accepts, only if there is nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import pyarrow as pa
from selectolax.lexbor import LexborNode

from infra.images.formats import ACCEPTED, EXTENSIONS, MEDIA_TYPES, REFUSED
from pipelines.html.arrays import Array, matches, true
from pipelines.html.srcset import Offer, parse_srcset

__all__ = ["Addresses", "has_lazy_attributes", "is_placeholder", "is_stand_in", "placeholders"]

Attributes = Mapping[str, str | None]

# Attributes of lazy loaders, which count beside a proper src, too.
_LAZY = (
    *("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-src-large"),
    *("data-hi-res-src", "data-full-src", "data-image-src", "data-echo"),
)
_LAZY_SETS = ("srcset", "data-srcset", "data-lazy-srcset", "data-original-set")
# Attributes that never hold another URL of the image. Most images have no others.
_NOT_A_URL = (
    "alt title width height class id style border align loading decoding fetchpriority sizes role hspace vspace "
    "itemprop crossorigin referrerpolicy longdesc usemap ismap name layout tabindex itemid"
)
_PLAIN = frozenset({"src", *_NOT_A_URL.split()})
_MAX_SOURCES = 50  # of one picture

_EXTENSION = re.compile(r"\.([A-Za-z0-9]{2,5})(?=$|[?#;])")
_USUAL = frozenset({".jpg", ".png", ".gif"})
_OURS = "|".join(EXTENSIONS)
_SIMPLEST_FIRST = {form: place for place, form in enumerate(ACCEPTED)}
_IMAGE = re.compile(rf"\.(?:{_OURS})(?![A-Za-z0-9])", re.IGNORECASE)
_IMAGE_SET = re.compile(rf"\.(?:{_OURS})(?:\?\S{{0,500}}+)?\s{{1,20}}+\d", re.IGNORECASE)
_IN_NO_URL = re.compile(r"[\s\"'<>{}|]")
_MAX_VALUE = 4000  # characters of an attribute of which we do not know the name
_NO_URL = ("data:", "about:", "javascript:", "blob:", "file:", "#")
# "{width}", "{{ image.url }}", "<%= url %>", "[[url]]"; but a GUID may stand in braces.
_TEMPLATE = re.compile(r"(?:\{|%7[Bb])(?![0-9A-Fa-f]{8}-[0-9A-Fa-f-]{27}(?:\}|%7[Dd]))|<%|\[\[")

# A file name of one of these words, and otherwise of numbers and words that say nothing, is that of a placeholder.
_STANDS_IN = (
    "no blank spacer placeholder placeholders lazyload preloader loader spinner transparent noimage dummy missing 1x1 "
    "1px 0x0 2x2"
)
_STANDS_IN_DRAWN = "lazy loading pixel trans clear empty dot grey gray white black none null px shim fallback"
_SAYS_NOTHING = "image img photo pic picture default bg background ajax thumb small medium large svg gif png x px w h"
_ALWAYS = frozenset(_STANDS_IN.split())
_IF_DRAWN = _ALWAYS.union(_STANDS_IN_DRAWN.split())
_NOTHING = frozenset(_SAYS_NOTHING.split())
_FILE = re.compile(r"([^/?#;]{1,60})\.(gif|png|svg|jpe?g|webp|avif)(?=$|[?#;])", re.IGNORECASE)
_FIRST = re.compile("[0-9]|[A-Za-z]+")
_IN_NAMES = _IF_DRAWN | _NOTHING
_PARTS = re.compile(r"\d+x\d+|\d+px|\d+|[a-z]+|[^-_.\da-z]")
_SERVICES = ("//via.placeholder.com/", "//placehold.it/", "//placehold.co/", "//placeholder.com/", "//dummyimage.com/")
# What is found in every URL of a placeholder, and in few others: one of the words in the name of a file.
_MAY_STAND_IN = (
    rf"(?i)(?:{'|'.join(sorted(_IF_DRAWN))})[^/]*\.(?:gif|png|svg|jpe?g|webp|avif)(?:$|[?#;])"
    rf"|{'|'.join(map(re.escape, _SERVICES))}"
)

# By their names: attributes that hold something else than the image, a poor form of it, and its best form.
_ELSE = re.compile(r"on|aria-|.*?(?:href|link|title|caption|alt|error|fallback|placeholder|hover)")
_POOR = re.compile(r"lqip|blur|thumb|tiny|small|mini|icon|dark|light|logo|avatar|poster|low")
_BEST = re.compile(r"full|large|orig|zoom|big|max|hd|hi-?res|retina|2x|xl|desktop")


class Addresses:
    """Chooses the URLs of a page's images."""

    def __init__(self) -> None:
        self._pictures: dict[int, list[Offer]] = {}  # by node: a picture may have thousands of images

    def best(self, node: LexborNode, attributes: Attributes) -> str:
        """Return the image's best URL as written; empty if it has none.

        ``attributes``: those of ``node``, or what they were merged to.
        """
        parent = node.parent
        picture = parent if parent is not None and parent.tag == "picture" else None
        src = (attributes.get("src") or "").strip()
        if picture is None and _PLAIN.issuperset(attributes):  # there is nothing else
            return "" if _is_template(src) else src
        offers = list(self._offers(picture, src, attributes))
        best = _widest(offers)
        if not _is_proper(best):  # which is rare, so only now all are looked at
            usable = [offer for offer in offers if _is_usable(offer.url)]
            not_stand_in = [offer for offer in usable if not is_placeholder(offer.url)]
            proper = [offer for offer in not_stand_in if _is_proper(offer.url)]
            best = _widest(proper or not_stand_in or usable) or (src if src.startswith(_NO_URL) else "")
        return best

    def _offers(self, picture: LexborNode | None, src: str, attributes: Attributes) -> Iterator[Offer]:
        sets = [value for name in _LAZY_SETS if (value := attributes.get(name))]
        for name in _LAZY:
            if (value := attributes.get(name)) and _is_address(value := value.strip()):
                yield Offer(value, 0, 1)
        if is_stand_in(src) or _is_lazy(attributes):
            others = _others(attributes)
            yield from (Offer(value, 0, 1) for name, value in others if _is_image(name, value))
            sets += [value for _, value in others if _IMAGE_SET.search(value)]
        yield Offer(src, 0, 1)
        for value in sets:
            yield from parse_srcset(value)
        if picture is not None:
            if picture.mem_id not in self._pictures:
                self._pictures[picture.mem_id] = list(_of_picture(picture))
            yield from self._pictures[picture.mem_id]


def _widest(offers: list[Offer]) -> str:
    """Return the URL of the widest offer, else of the densest, else of the first; of equals the simplest format."""
    if len(offers) < 2:
        return offers[0].url if offers else ""
    most = max(width for _, width, _ in offers)
    if most > 0:
        best = [url for url, width, _ in offers if width == most]
    else:
        most = max(density for _, _, density in offers)
        best = [url for url, _, density in offers if density == most] if most > 1 else [offers[0].url]
    return best[0] if len(best) == 1 else min(best, key=_place)


def _of_picture(picture: LexborNode) -> Iterator[Offer]:
    for source in islice(picture.iter(), _MAX_SOURCES):
        attributes = source.attributes
        if source.tag != "source" or not _is_accepted_type(attributes.get("type") or ""):
            continue
        for name, value in attributes.items():
            if value and (name in _LAZY_SETS or _IMAGE_SET.search(value[:_MAX_VALUE])):
                for url, width, density in parse_srcset(value):
                    # A source for some screens only is another crop of the image, so only its width counts.
                    yield Offer(url, width, 0.0 if attributes.get("media") else density)


# --- what an attribute holds ---


def has_lazy_attributes(attributes: Attributes) -> bool:
    """Return True if there is an attribute that lazy loaders use, or ``srcset``."""
    return any(name in attributes for name in (*_LAZY, *_LAZY_SETS))


def _is_lazy(attributes: Attributes) -> bool:
    return "lazy" in (attributes.get("class") or "").lower()


def _others(attributes: Attributes) -> list[tuple[str, str]]:
    """Return the attributes of unknown names, those first that name themselves the image's best form."""
    found = [
        (name, value.strip())
        for name, value in attributes.items()
        if value
        and name not in _PLAIN
        and name not in _LAZY
        and name not in _LAZY_SETS
        and len(value) <= _MAX_VALUE
        and not _ELSE.match(name)
    ]
    return sorted(found, key=lambda item: (_POOR.search(item[0]) is not None, _BEST.search(item[0]) is None))


def _is_address(value: str) -> bool:
    """Return True for what a lazy loader would load: a path or a URL, not "true" nor JSON."""
    return value[:1] not in ("", "{", "[") and ("/" in value or "." in value) and len(value.split(None, 1)) == 1


def _is_image(name: str, value: str) -> bool:
    """Return True if the attribute is the URL of an image; one that has no folder may be a title, too."""
    is_url = ("/" in value or name.endswith("src")) and not _IN_NO_URL.search(value)
    return is_url and _IMAGE.search(value) is not None


# --- what a URL leads to ---


def is_stand_in(src: str) -> bool:
    """Return True for a ``src`` that is no image of its own: nothing, inline data, a template, a placeholder."""
    return not _is_usable(src) or is_placeholder(src)


def is_placeholder(url: str) -> bool:
    """Return True if the file has the name of a placeholder."""
    end = url.find("?")
    start = url.rfind("/", 0, end if end >= 0 else len(url)) + 1
    first = _FIRST.match(url, start)
    if first is None or (first[0][0] > "9" and first[0].lower() not in _IN_NAMES):  # as nearly all are
        return False
    if (file := _FILE.match(url, start)) is None:
        return url.startswith(_SERVICES, url.find("//"))
    parts = _PARTS.findall(file[1].lower())
    words = _ALWAYS if file[2][:1] in "jJwWaA" else _IF_DRAWN
    is_named = not words.isdisjoint(parts)
    return is_named and all(part in words or part in _NOTHING or part[0].isdigit() for part in parts)


def placeholders(urls: pa.StringArray) -> Array:
    """Return a mask of the canonical URLs of placeholders."""
    found = true(matches(urls, _MAY_STAND_IN))
    places = np.flatnonzero(found)
    found[places] = [is_placeholder(url) for url in urls.take(places).to_pylist()]
    return found


def _is_usable(url: str) -> bool:
    return bool(url) and not url.startswith(_NO_URL) and not _is_template(url)


def _is_template(url: str) -> bool:
    return ("{" in url or "%7" in url or "<%" in url or "[[" in url) and _TEMPLATE.search(url) is not None


def _is_proper(url: str) -> bool:
    return _is_usable(url) and not is_placeholder(url) and _extension(url) not in REFUSED


def _extension(url: str) -> str:
    """Return the first file extension of an image's format in a URL as written; empty if there is none."""
    if url[-4:] in _USUAL:
        return url[-3:]
    found = map(str.lower, _EXTENSION.findall(url[-_MAX_VALUE:]))
    return next((name for name in found if name in EXTENSIONS or name in REFUSED), "")


def _place(url: str) -> int:
    """Return the place of the URL's format among those accepted: the last are the most costly to decode."""
    form = EXTENSIONS.get(_extension(url))
    return _SIMPLEST_FIRST[form] if form else 0


def _is_accepted_type(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return not kind or kind in MEDIA_TYPES
