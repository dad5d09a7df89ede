"""The embedded web as plain data: every page, every image, and what is odd about each.

The server (:mod:`workflows.demo.site`) turns this description into bytes, and tests into the outcome a correct pipeline
must reach; neither knows of the other. Four hosts show generated scenes in the markup such hosts use: a gallery, a shop
with lazy and responsive images, a blog with figures and Open Graph tags, a museum with a ``base`` and old charsets.
Among the good images are, in fixed numbers, the bad ones that a real crawl meets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

from workflows.demo.scenes import SEEN, Scene, captions, compose, label

__all__ = ["HOSTS", "MAX_DEPTH", "SEEDS", "SMALL", "TEST_SEEDS", "Image", "Page", "Shown", "Web", "build"]

SEEDS = ("http://gallery.example/", "http://shop.example/", "http://blog.example/", "http://museum.example/")
HOSTS = (
    *("gallery.example", "shop.example", "blog.example", "museum.example"),
    *("closed.example", "down.example", "untrained.example"),
)
MAX_DEPTH = 8  # links from a seed; only the calendar goes deeper, without end
SMALL = "&small=1"  # added to a shop image's address: the same at 60 pixels a side
TEST_SEEDS = 1_000_000  # scenes from here on never appear on the site


@dataclass(frozen=True)
class Image:
    """An image address and what answers there; ``kind`` is "good", a harmless :data:`TWISTS`, or an odd one."""

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
    """A page address and what answers there; ``links`` are absolute, ``charset`` is (encoding, declared in)."""

    url: str
    kind: str
    title: str = ""
    shown: tuple[Shown, ...] = ()
    links: tuple[str, ...] = ()
    charset: tuple[str, str] = ("utf-8", "header")


@dataclass(frozen=True, eq=False)
class Web:
    """The whole web. ``scenes``: number of different good images it holds."""

    scenes: int
    pages: dict[str, Page] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)

    def page(self, url: str) -> Page | None:
        """The page at ``url``; the calendar's are made on request."""
        return calendar(url) if url.startswith(CALENDAR) else self.pages.get(url)


# --- what is odd, and how often ---------------------------------------------------------------------------------------

# Harmless: a correct pipeline reads all of these. Per hundred good images.
TWISTS = {
    "rotated": 3.0,  # stored on its side, with the EXIF orientation to set it upright
    "progressive": 4.0,
    "cmyk": 1.0,
    "palette": 2.0,
    "alpha": 2.0,
    "moved": 3.0,  # behind a redirect
    "untyped": 2.0,  # declared as application/octet-stream
    "index-ok": 2.0,  # X-Robots-Tag that forbids nothing we do
}
ALTERED = ("rotated", "progressive", "cmyk", "palette", "alpha")  # of these, those that change the file
# Answers that end an image's way at its download. Per hundred good images; at least one each.
BAD_ANSWERS = {
    "missing": 2.0,  # 404
    "gone": 0.6,  # 410
    "broken": 0.15,  # 500 every time; few, for each is retried
    "html": 0.6,  # a web page declared as image/jpeg
    "vector": 0.6,  # SVG, declared so
    "corrupt": 1.0,  # noise after a JPEG's header
    "stub": 0.5,  # half a JPEG, served as the whole
    "cut": 0.2,  # the connection ends before the body does
    "slow": 0.1,  # half of it, and then nothing
    "loop": 0.2,
    "inside": 0.2,  # redirects to a private address
    "scheme": 0.2,  # redirects to file:///
    "noai": 1.0,
    "noimageai": 0.4,
    "noindex": 0.4,
    "tdm": 0.4,  # TDM-Reservation: 1
    "private": 1.0,  # below a path that the image host's robots.txt disallows
    "untrained": 0.5,  # below one that it disallows to crawlers for AI
    "icon": 2.0,  # 16 to 28 pixels a side
    "banner": 1.0,  # ten times as wide as high
    "bomb": 0.1,  # claims far more pixels than anybody should decode
}
# Texts and measures that end a pair's way at the filter. Per hundred good images; at least one each.
BAD_SIZES = {"thumbnail": 2.0, "panorama": 1.0}  # 48 pixels a side; four times as wide as high
BAD_TEXTS = {"junk": 4.0, "word": 1.5, "short": 2.0, "long": 1.0, "foreign": 4.0, "unspaced": 1.0}
# Texts that say nothing of the image, though a filter cannot know; they end at balancing, which knows the words.
VAGUE_TEXTS = {"vague": 2.0}
# Appearances that end at extraction, and copies that end at deduplication.
BAD_MARKUP = {"bare": 4.0, "pixel": 4.0, "inline": 1.0, "script": 0.5, "twice": 2.0}
COPIES = {"copy": 5.0, "twin": 5.0}  # the same bytes elsewhere; the same image smaller and in another format

JUNK = (
    "IMG_2034.JPG",
    "DSC00417.jpg",
    "logo",
    "click here to enlarge",
    "untitled",
    "image",
    "d41d8cd98f00b204e9800998ecf8427e",
    "http://cdn.example/pictures/banner.png",
    "thumbnail",
    "photo-1.png",
    "spacer",
    "loading...",
)
WORD = ("star", "blue", "heart", "red")  # of fewer than six characters
SHORT = ("red circle", "green star", "two crosses", "yellow", "purple hearts")
FOREIGN = (
    "ein roter Kreis auf einem grauen Hintergrund",
    "Das Bild zeigt einen kleinen gelben Stern oben links",
    "un petit cercle rouge au milieu de la page",
    "Une grande étoile bleue avec des rayures sur un fond gris",
    "un círculo rojo y grande en la esquina de la imagen",
    "El corazón verde está pintado sobre un papel de color crema",
    "un cerchio rosso su uno sfondo grigio nella parte alta",
    "красный круг на сером фоне в левом углу",
    "большая синяя звезда в центре картины",
    "회색 배경에 그려진 빨간 원",
    "دائرة حمراء كبيرة على خلفية رمادية",
    "κόκκινος κύκλος σε γκρι φόντο",
    "een kleine rode cirkel op een grijze achtergrond",
    "um pequeno círculo vermelho no meio da página",
    "mały czerwony krąg na szarym tle w rogu obrazu",
)
UNSPACED = (  # in scripts that put no spaces between words
    "灰色背景上的一个红色圆圈",
    "左上角有一颗黄色的小星星",
    "灰色の背景に赤い丸が描かれています",
    "วงกลมสีแดงบนพื้นหลังสีเทา",
)
VAGUE = (
    "our favourite from last summer",
    "seen on the way home from work",
    "this one goes to my sister",
    "a present for her birthday",
    "my first try with the new brush",
)
_RAMBLE = (
    "and then we walked on along the river and talked about the weather, the price of bread and the people we had met "
)

_TEXTS = {
    "junk": JUNK,
    "word": WORD,
    "short": SHORT,
    "long": ((_RAMBLE * 14).strip(),),
    "foreign": FOREIGN,
    "unspaced": UNSPACED,
    "vague": VAGUE,
}

# Pages that are no content pages: path on the gallery's host -> kind.
ODD_PAGES = {
    **{f"/private/{number}": "private" for number in range(6)},
    **{f"/old/{number}": "missing" for number in range(5)},
    "/retired": "gone",
    "/error": "broken",
    "/moved": "moved",
    "/moved/here": "here",  # what /moved leads to; linked from nowhere else
    "/loop": "loop",
    "/inside": "inside",
    "/metadata": "inside",
    "/files": "scheme",
    "/partner": "away",
    "/catalogue.pdf": "pdf",
    "/feed.json": "json",
    "/poster": "jpeg",
    "/endless": "endless",  # far too long a page, compressed to little
    "/cut": "cut",
    "/slow": "slow",
    "/noai": "noai-header",
    "/noimageai": "noai-meta",
    "/reserved": "tdm-header",
    "/reserved/too": "tdm-meta",
    "/empty": "empty",
    "/tags": "soup",  # HTML that no validator would let pass
}
CLOSED = ("http://closed.example/", "http://closed.example/attic")  # robots.txt disallows all
DOWN = ("http://down.example/",)  # robots.txt answers 503: whoever cannot read the rules must stay out
UNTRAINED = ("http://untrained.example/",)  # robots.txt disallows all to crawlers for AI
AWAY = "http://elsewhere.example/"  # not ours to crawl
CALENDAR = "http://gallery.example/calendar/"

# --- building ---------------------------------------------------------------------------------------------------------

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
_CHARSETS = (("iso-8859-1", "meta"), ("utf-16", "bom"), ("shift_jis", "header"), ("windows-1251", "header"))
_OUTSIDE_UTF8 = " by Zoë"  # what captions on pages of an old charset end with, so that decoding shows


@lru_cache(maxsize=4)
def build(scenes: int) -> Web:
    """Describe a web with ``scenes`` different good images; about a fifth as many pages."""
    web = Web(scenes)
    cards = list(_deck(scenes))
    random.Random("deck").shuffle(cards)
    hands = [cards[start : start + _PER_PAGE] for start in range(0, len(cards), _PER_PAGE)]
    for turn, host in enumerate(_MARKUP):
        for page in _host(host, hands[turn :: len(_MARKUP)]):
            web.pages[page.url] = page
            web.images.update({shown.image.url: shown.image for shown in page.shown})
    for page in _odd_pages():
        web.pages[page.url] = page
        web.images.update({shown.image.url: shown.image for shown in page.shown})
    return web


@dataclass(frozen=True)
class _Card:
    """An image before a page is chosen for it."""

    number: int
    kind: str
    scene: Scene
    text: str | None = None  # None: a caption of the scene


def _deck(scenes: int) -> Iterator[_Card]:
    """Every appearance on content pages: the good, the twisted and the odd."""
    twists = [kind for kind, per_hundred in TWISTS.items() for _ in range(_count(per_hundred, scenes))]
    for number in range(scenes):
        yield _Card(number, twists[number] if number < len(twists) else "good", compose(number, _SHOWN))
    number = scenes
    for kind, per_hundred in {**BAD_ANSWERS, **BAD_SIZES, **BAD_TEXTS, **VAGUE_TEXTS, **BAD_MARKUP}.items():
        for turn in range(_count(per_hundred, scenes)):
            texts = _TEXTS.get(kind)
            yield _Card(number, kind, compose(number, _SHOWN), texts[turn % len(texts)] if texts else None)
            number += 1
    for kind, per_hundred in COPIES.items():
        for turn in range(_count(per_hundred, scenes)):
            # Of plain good images only, each at most once per kind.
            yield _Card(number, kind, compose(scenes - 1 - turn, _SHOWN))
            number += 1


def _count(per_hundred: float, scenes: int) -> int:
    return max(1, round(per_hundred * scenes / 100))


def _image(card: _Card, host: str) -> Image:
    """The file for ``card`` under an address of the kind ``host`` uses; what it shows depends on the scene alone."""
    draw = random.Random(f"picture {card.scene.seed}")
    side = draw.choice(_SIDES) if draw.random() > 0.01 else draw.choice((800, 1200))
    kind = draw.choices(("jpeg", "png", "webp"), (75, 12, 13))[0] if side < 300 else "jpeg"
    width, height, original = side, side, 0
    match card.kind:
        case "rotated" | "progressive" | "cmyk" | "corrupt" | "stub" | "cut" | "slow":
            kind = "jpeg"
        case "palette" | "alpha" | "bomb":
            kind = "png"
        case "icon":
            width = height = 16 + 4 * (card.number % 4)
        case "thumbnail":
            width = height = 48
        case "banner":
            width, height = 1000, 100
        case "panorama":
            width, height = 4 * side, side
        case "twin":
            width = height = max(96, round(0.9 * side))
            original, kind = side, "webp" if kind == "jpeg" else "jpeg"
    return Image(_address(card, host, width, kind), card.kind, card.scene, width, height, kind, original)


def _address(card: _Card, host: str, width: int, kind: str) -> str:
    extension = {"jpeg": "jpg"}.get(kind, kind)
    words = label(card.scene)
    if card.kind in ("private", "untrained"):
        return f"http://cdn.example/{card.kind}/{card.number}.{extension}"
    match host:
        case "shop.example":
            return f"http://cdn.example/resize?id={card.number}&w={width}&as={kind}"
        case "blog.example":
            return f"http://blog.example/media/{2010 + card.number % 15}/{card.number}.{extension}"
        case "museum.example":
            return f"http://museum.example/files/{quote(words)} {card.number}.{extension}".replace(" ", "%20")
        case _:
            return f"http://cdn.example/pictures/{card.number:05d}-{words.replace(' ', '-')}.{extension}"


def _show(card: _Card, host: str, ending: str = "") -> Shown:
    """``card`` in one of the host's markups, with as many texts as that takes; ``ending`` is put after captions."""
    image = _image(card, host)
    draw = random.Random(f"show {card.number}")
    markup = card.kind if card.kind in BAD_MARKUP else draw.choice(_MARKUP[host])
    if markup == "srcset" and image.width < 100:
        markup = "alt"  # the small variant would be the larger one
    words = draw.sample(captions(card.scene), 2)
    if card.text is not None:
        markup = "alt" if markup == "both" else markup
        words, ending = [card.text], ""
    sources = {"both": ("alt", "figcaption"), "figure": ("figcaption",), "title": ("title",), "og": ("og",)}.get(
        markup, ("alt",)
    )
    texts = tuple((source, text + ending) for source, text in zip(sources, words, strict=False))
    return Shown(image, markup, texts, card.kind)


def _host(host: str, hands: list[list[_Card]]) -> Iterator[Page]:
    """The index of a host, its sections, and their pages, ``hands`` being what each page shows."""
    root = f"http://{host}/"
    sections = [hands[start : start + _PER_SECTION] for start in range(0, len(hands), _PER_SECTION)]
    odd = tuple(f"{root}{path[1:]}" for path in ODD_PAGES if path != "/moved/here")
    more = (*odd, *CLOSED, *DOWN, *UNTRAINED, AWAY, f"{CALENDAR}2001-01") if root == SEEDS[0] else ()
    yield Page(root, "index", f"Welcome to {host}", (), (*(_section(host, n) for n in range(len(sections))), *more))
    for number, section in enumerate(sections):
        address = _section(host, number)
        pages = [_content(host, number, turn) for turn in range(len(section))]
        chained = host in ("gallery.example", "shop.example")
        yield Page(address, "section", f"Section {number + 1}", (), (root, *(pages[:1] if chained else pages)))
        for turn, hand in enumerate(section):
            around = (*pages[turn + 1 : turn + 2], *pages[max(0, turn - 1) : turn])
            charset, ending = ("utf-8", "header"), ""
            if host == "museum.example" and turn == 0 and number < len(_CHARSETS):
                charset, ending = _CHARSETS[number], _OUTSIDE_UTF8
            shown = tuple(_show(card, host, ending) for card in hand)
            yield Page(pages[turn], "content", f"Page {turn + 1}", shown, (root, address, *around), charset)


def _section(host: str, number: int) -> str:
    path = {"gallery": "collection/{}/", "shop": "category/{}", "blog": "{}/", "museum": "room/{}/"}[host.split(".")[0]]
    return f"http://{host}/" + path.format(2001 + number if host == "blog.example" else number + 1)


def _content(host: str, section: int, turn: int) -> str:
    path = {"gallery": "page/{}", "shop": "?page={}", "blog": "post-{}.html", "museum": "{}.html"}[host.split(".")[0]]
    return _section(host, section) + path.format(turn + 1)


def _odd_pages() -> Iterator[Page]:
    """Pages by address whose answer matters more than their content; those that may hold images do."""
    number = 900_000
    for path, kind in ODD_PAGES.items():
        hand = [_Card(number + turn, "good", compose(number + turn, _SHOWN)) for turn in range(2)]
        number += len(hand)
        shown = tuple(_show(card, "gallery.example") for card in hand) if kind in _WITH_IMAGES else ()
        yield Page(f"http://gallery.example{path}", kind, kind.capitalize(), shown, (SEEDS[0],))
    for url in (*CLOSED, *DOWN, *UNTRAINED, AWAY):
        yield Page(url, "good", "Elsewhere")


_WITH_IMAGES = ("private", "here", "noai-header", "noai-meta", "tdm-header", "tdm-meta", "soup")


def calendar(url: str) -> Page | None:
    """A month of a calendar that never ends: each page leads to the next."""
    year, dash, month = url.removeprefix(CALENDAR).partition("-")
    if not (dash and year.isdigit() and month.isdigit()):
        return None
    next_year, next_month = divmod(int(year) * 12 + int(month), 12)
    return Page(url, "calendar", f"Nothing on in {url[-7:]}", (), (f"{CALENDAR}{next_year:04d}-{next_month + 1:02d}",))
