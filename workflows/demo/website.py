"""The embedded web as plain data: every page, every image, and what is odd about each.

The server (:mod:`workflows.demo.answers`) turns this description into bytes, and tests into the outcome a correct
pipeline must reach; neither knows of the other. Four hosts show generated scenes in the markup such hosts use: a
gallery, a shop with lazy and responsive images, a blog with figures and Open Graph tags, a museum with a ``base`` and
old charsets. The gallery has rooms in Chinese, Japanese and Thai, too.
Among the good images are, in fixed numbers, the bad ones that a real crawl meets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

from workflows.demo.oddities import (
    AWAY,
    BAD_ANSWERS,
    BAD_MARKUP,
    BAD_SIZES,
    BAD_TEXTS,
    CALENDAR,
    CLOSED,
    COPIES,
    DOWN,
    ODD_PAGES,
    TEXTS,
    TWISTS,
    UNTRAINED,
    VAGUE_TEXTS,
)
from workflows.demo.scenes import SEEN, Scene, captions, compose, label
from workflows.demo.translations import TRANSLATIONS

__all__ = ["HOSTS", "MAX_DEPTH", "SEEDS", "SMALL", "TEST_SEEDS", "TRANSLATED", "Image", "Page", "Shown", "Web", "build"]

SEEDS = ("http://gallery.example/", "http://shop.example/", "http://blog.example/", "http://museum.example/")
HOSTS = (
    *("gallery.example", "shop.example", "blog.example", "museum.example"),
    *("closed.example", "down.example", "untrained.example"),
)
MAX_DEPTH = 8  # links from a seed; only the calendar goes deeper, without end
SMALL = "&small=1"  # appended to the URL of a shop image: the same at 60 pixels a side
TEST_SEEDS = 1_000_000  # scenes from here on never appear on the site


@dataclass(frozen=True)
class Image:
    """An image URL and what it serves; ``kind`` is "good", one of the harmless twists, or an oddity."""

    url: str
    kind: str
    scene: Scene
    width: int
    height: int
    format: str  # jpeg | png | webp
    original: int = 0  # side in pixels of the image this one was scaled down from; 0: it is the original


@dataclass(frozen=True)
class Shown:
    """An image on a page: its markup, and each (source, text) that goes with it, as an extractor should find them."""

    image: Image
    markup: str
    texts: tuple[tuple[str, str], ...]
    kind: str


@dataclass(frozen=True)
class Page:
    """A page URL and what it serves; ``links`` are absolute, ``charset`` is (encoding, declared in)."""

    url: str
    kind: str
    title: str = ""
    shown: tuple[Shown, ...] = ()
    links: tuple[str, ...] = ()
    charset: tuple[str, str] = ("utf-8", "header")
    language: str = "en"


@dataclass(frozen=True, eq=False)
class Web:
    """The whole web. ``scenes``: number of different good images it holds."""

    scenes: int
    pages: dict[str, Page] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)

    def page(self, url: str) -> Page | None:
        """The page at ``url``; the calendar's are made on request."""
        return calendar(url) if url.startswith(CALENDAR) else self.pages.get(url)


# The web shows some things more often than others: circles and all that is red come twice as often as the rest.
_SHOWN = (*SEEN, *(pair for word in ("circle", "red") for pair in SEEN if word in pair))
_SIDES = (112, 112, 128, 128, 128, 160, 160, 192, 192, 224, 256, 256, 320, 400)
_PER_PAGE = 10
_PER_SECTION = 5
_MARKUP = {  # how each host shows a good image
    "gallery.example": ("alt", "figure", "alt", "figure", "both"),
    "shop.example": ("alt", "lazy", "srcset", "picture"),
    "blog.example": ("figure", "both", "alt", "title", "og"),
    "museum.example": ("alt", "title", "alt"),
}
TRANSLATED = 2.0  # images with captions in each of the other languages, per hundred good ones
_CHARSETS = (("iso-8859-1", "meta"), ("utf-16", "bom"), ("shift_jis", "header"), ("windows-1251", "header"))
_OUTSIDE_UTF8 = " by Zoë"  # what captions on pages of an old charset end with, so that decoding shows


@lru_cache(maxsize=4)
def build(scenes: int) -> Web:
    """Describe a web with ``scenes`` different good images; about a fifth as many pages."""
    web = Web(scenes)
    items = list(_items(scenes))
    random.Random("deck").shuffle(items)
    groups = [items[start : start + _PER_PAGE] for start in range(0, len(items), _PER_PAGE)]
    for turn, host in enumerate(_MARKUP):
        for page in _host(host, groups[turn :: len(_MARKUP)]):
            web.pages[page.url] = page
            web.images.update({shown.image.url: shown.image for shown in page.shown})
    for page in (*_translated_pages(scenes), *_odd_pages()):
        web.pages[page.url] = page
        web.images.update({shown.image.url: shown.image for shown in page.shown})
    return web


@dataclass(frozen=True)
class _Item:
    """An image before a page is chosen for it."""

    number: int
    kind: str
    scene: Scene
    text: str | None = None  # None: a caption of the scene


def _items(scenes: int) -> Iterator[_Item]:
    """Every image on content pages: plain good ones, harmless twists and oddities."""
    twists = [kind for kind, per_hundred in TWISTS.items() for _ in range(_count(per_hundred, scenes))]
    for number in range(scenes):
        yield _Item(number, twists[number] if number < len(twists) else "good", compose(number, _SHOWN))
    number = scenes
    for kind, per_hundred in {**BAD_ANSWERS, **BAD_SIZES, **BAD_TEXTS, **VAGUE_TEXTS, **BAD_MARKUP}.items():
        for turn in range(_count(per_hundred, scenes)):
            texts = TEXTS.get(kind)
            yield _Item(number, kind, compose(number, _SHOWN), texts[turn % len(texts)] if texts else None)
            number += 1
    for kind, per_hundred in COPIES.items():
        for turn in range(_count(per_hundred, scenes)):
            # Of plain good images only, each at most once per kind.
            yield _Item(number, kind, compose(scenes - 1 - turn, _SHOWN))
            number += 1


def _count(per_hundred: float, scenes: int) -> int:
    return max(1, round(per_hundred * scenes / 100))


def _image(item: _Item, host: str) -> Image:
    """The file for ``item`` under a URL as ``host`` writes them; its pixels depend on the scene alone."""
    draw = random.Random(f"picture {item.scene.seed}")
    side = draw.choice(_SIDES) if draw.random() > 0.01 else draw.choice((800, 1200))
    kind = draw.choices(("jpeg", "png", "webp"), (75, 12, 13))[0] if side < 300 else "jpeg"
    width, height, original = side, side, 0
    match item.kind:
        case "rotated" | "progressive" | "cmyk" | "corrupt" | "stub" | "cut" | "slow":
            kind = "jpeg"
        case "palette" | "alpha" | "bomb":
            kind = "png"
        case "icon":
            width = height = 16 + 4 * (item.number % 4)
        case "thumbnail":
            width = height = 48
        case "banner":
            width, height = 1000, 100
        case "panorama":
            width, height = 4 * side, side
        case "twin":
            width = height = max(96, round(0.9 * side))
            original, kind = side, "webp" if kind == "jpeg" else "jpeg"
    return Image(_url(item, host, width, kind), item.kind, item.scene, width, height, kind, original)


def _url(item: _Item, host: str, width: int, kind: str) -> str:
    extension = {"jpeg": "jpg"}.get(kind, kind)
    words = label(item.scene)
    if item.kind in ("private", "untrained"):
        return f"http://cdn.example/{item.kind}/{item.number}.{extension}"
    match host:
        case "shop.example":
            return f"http://cdn.example/resize?id={item.number}&w={width}&as={kind}"
        case "blog.example":
            return f"http://blog.example/media/{2010 + item.number % 15}/{item.number}.{extension}"
        case "museum.example":
            return f"http://museum.example/files/{quote(words)} {item.number}.{extension}".replace(" ", "%20")
        case _:
            return f"http://cdn.example/pictures/{item.number:05d}-{words.replace(' ', '-')}.{extension}"


def _show(item: _Item, host: str, ending: str = "") -> Shown:
    """``item`` in one of the host's markups, with as many texts as that takes; ``ending`` is appended to captions."""
    image = _image(item, host)
    draw = random.Random(f"show {item.number}")
    markup = item.kind if item.kind in BAD_MARKUP else draw.choice(_MARKUP[host])
    if markup == "srcset" and image.width < 100:
        markup = "alt"  # the small variant would be the larger one
    words = draw.sample(captions(item.scene), 2)
    if item.text is not None:
        markup = "alt" if markup == "both" else markup
        words, ending = [item.text], ""
    sources = {"both": ("alt", "figcaption"), "figure": ("figcaption",), "title": ("title",), "og": ("og",)}.get(
        markup, ("alt",)
    )
    texts = tuple((source, text + ending) for source, text in zip(sources, words, strict=False))
    return Shown(image, markup, texts, item.kind)


def _host(host: str, groups: list[list[_Item]]) -> Iterator[Page]:
    """The index of a host, its sections, and their pages; ``groups`` holds the items of each page."""
    root = f"http://{host}/"
    sections = [groups[start : start + _PER_SECTION] for start in range(0, len(groups), _PER_SECTION)]
    odd = tuple(f"{root}{path[1:]}" for path in ODD_PAGES if path != "/moved/here")
    rooms = tuple(f"{root}{language}/" for language in TRANSLATIONS)
    more = (*odd, *CLOSED, *DOWN, *UNTRAINED, AWAY, f"{CALENDAR}2001-01", *rooms) if root == SEEDS[0] else ()
    yield Page(root, "index", f"Welcome to {host}", (), (*(_section(host, n) for n in range(len(sections))), *more))
    for number, section in enumerate(sections):
        address = _section(host, number)
        pages = [_content(host, number, turn) for turn in range(len(section))]
        chained = host in ("gallery.example", "shop.example")
        yield Page(address, "section", f"Section {number + 1}", (), (root, *(pages[:1] if chained else pages)))
        for turn, group in enumerate(section):
            around = (*pages[turn + 1 : turn + 2], *pages[max(0, turn - 1) : turn])
            charset, ending = ("utf-8", "header"), ""
            if host == "museum.example" and turn == 0 and number < len(_CHARSETS):
                charset, ending = _CHARSETS[number], _OUTSIDE_UTF8
            shown = tuple(_show(item, host, ending) for item in group)
            yield Page(pages[turn], "content", f"Page {turn + 1}", shown, (root, address, *around), charset)


def _section(host: str, number: int) -> str:
    path = {"gallery": "collection/{}/", "shop": "category/{}", "blog": "{}/", "museum": "room/{}/"}[host.split(".")[0]]
    return f"http://{host}/" + path.format(2001 + number if host == "blog.example" else number + 1)


def _content(host: str, section: int, turn: int) -> str:
    path = {"gallery": "page/{}", "shop": "?page={}", "blog": "post-{}.html", "museum": "{}.html"}[host.split(".")[0]]
    return _section(host, section) + path.format(turn + 1)


def _translated_pages(scenes: int) -> Iterator[Page]:
    """The gallery's rooms in other languages, and their pages; the first page of a room is in an old charset."""
    number = 800_000
    for language, words in TRANSLATIONS.items():
        root = f"{SEEDS[0]}{language}/"
        items = [
            _Item(number + turn, language, scene := compose(number + turn, _SHOWN), words.captions(scene)[turn % 4])
            for turn in range(_count(TRANSLATED, scenes))
        ]
        number += len(items)
        groups = [items[start : start + _PER_PAGE] for start in range(0, len(items), _PER_PAGE)]
        pages = [f"{root}{turn + 1}" for turn in range(len(groups))]
        yield Page(root, "section", language, (), (SEEDS[0], *pages), language=language)
        for turn, (url, group) in enumerate(zip(pages, groups, strict=True)):
            shown = tuple(_show(item, "gallery.example") for item in group)
            charset = ("utf-8", "header") if turn else words.charset
            yield Page(url, "content", words.page.format(turn + 1), shown, (SEEDS[0], root), charset, language)


def _odd_pages() -> Iterator[Page]:
    """Pages whose response is odd, whatever their content; those that may hold images do."""
    number = 900_000
    for path, kind in ODD_PAGES.items():
        group = [_Item(number + turn, "good", compose(number + turn, _SHOWN)) for turn in range(2)]
        number += len(group)
        shown = tuple(_show(item, "gallery.example") for item in group) if kind in _WITH_IMAGES else ()
        yield Page(f"http://gallery.example{path}", kind, kind.capitalize(), shown, (SEEDS[0],))
    for url in (*CLOSED, *DOWN, *UNTRAINED, AWAY):
        yield Page(url, "good", "Elsewhere")


_WITH_IMAGES = ("private", "here", "noai-header", "noai-meta", "tdm-header", "tdm-meta", "soup")


def calendar(url: str) -> Page | None:
    """A month of a calendar that never ends: each page links to the next."""
    year, dash, month = url.removeprefix(CALENDAR).partition("-")
    if not (dash and year.isdigit() and month.isdigit()):
        return None
    next_year, next_month = divmod(int(year) * 12 + int(month), 12)
    return Page(url, "calendar", f"Nothing on in {url[-7:]}", (), (f"{CALENDAR}{next_year:04d}-{next_month + 1:02d}",))
