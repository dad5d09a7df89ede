"""The HTML of every page on the embedded web, in the markup that such hosts use, valid or not."""

from __future__ import annotations

from html import escape
from urllib.parse import unquote, urlsplit

from workflows.demo.translations import TRANSLATIONS
from workflows.demo.website import SMALL, Page, Shown

__all__ = ["html"]

_BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
_CODECS = {"windows-874": "cp874"}  # what Python calls a charset where it does not know the web's name for it
_DEAD_LINKS = (
    '<a href="#top">Top</a> <a href="mailto:desk@gallery.example">Mail</a> <a href="javascript:history.back()">Back</a>'
)
_PROSE = (
    "We put up new things every other week. If you would like to be told, leave your address at the desk.",
    "All prints are made by hand, so no two of them are quite alike. Please ask before you reuse one.",
    "The weather was kind to us this time, and half the street came by for coffee and a look around.",
    "Opening hours are ten to six, Tuesday to Sunday. On the first Monday of a month we count everything.",
)
_RUSSIAN = "Мы выставляем новые работы каждые две недели."


def html(page: Page) -> bytes:
    """The page's document in its charset; characters outside it become character references."""
    charset, declared = page.charset
    head = [f"<title>{escape(page.title)} - {urlsplit(page.url).hostname}</title>", *_head(page)]
    if declared == "meta":
        head.insert(0, f'<meta http-equiv="Content-Type" content="text/html; charset={charset}">')
    body = [_navigation(page), f"<h1>{escape(page.title)}</h1>", *_body(page), _footer(page)]
    start = f'<!doctype html>\n<html lang="{page.language}">\n'
    text = f"{start}<head>\n{_lines(head)}\n</head>\n<body>\n{_lines(body)}\n</body>\n"
    # Python's utf-16 writes the byte order mark that declares it.
    return text.encode(_CODECS.get(charset, charset), "xmlcharrefreplace")


def _lines(parts: list[str]) -> str:
    return "\n".join(part for part in parts if part)


def _head(page: Page) -> list[str]:
    head = []
    if urlsplit(page.url).hostname == "museum.example":
        head.append('<base href="http://museum.example/files/">')
        head.append('<link rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">')
    if page.kind == "noai-meta":
        head.append('<META NAME="Robots" CONTENT="noimageai, nofollow">')
    if page.kind == "tdm-meta":
        head.append('<meta name="tdm-reservation" content="1">')
    for shown in page.shown:
        if shown.markup == "og":
            (_, text), *_ = shown.texts
            head.append(f'<meta property="og:image" content="{escape(shown.image.url)}">')
            head.append(f'<meta property="og:image:alt" content="{escape(text)}">')
    return head


def _body(page: Page) -> list[str]:
    prose = _PROSE[len(page.url) % len(_PROSE)]
    extra = {"shift_jis": TRANSLATIONS["ja"].prose, "windows-1251": _RUSSIAN, "iso-8859-1": "Im Café nebenan: ½ Preis."}
    words = " ".join((prose, extra.get(page.charset[0], "")))
    if page.language in TRANSLATIONS:
        words = TRANSLATIONS[page.language].prose
    shown = [_shown(page, item) for item in page.shown if item.markup != "og"]
    if page.kind == "soup":
        # Unclosed, wrongly nested, upper case, stray brackets: what a browser mends without a word.
        return ["<DIV><p><B>1 < 2 & 3 > 2 <i></B>", *(f"<LI>{item}" for item in shown), "<table><tr></div><!-- the end"]
    return [f"<p>{escape(words)}</p>", *(f'<div class="card">{item}</div>' for item in shown)]


def _navigation(page: Page) -> str:
    """Every link of the page, in the usual spellings of links, among some that lead nowhere."""
    here = urlsplit(page.url)
    links = []
    for turn, url in enumerate(page.links):
        parts = urlsplit(url)
        address = url
        if parts.hostname == here.hostname:
            address = parts.path + (f"?{parts.query}" if parts.query else "")
            if turn % 4 == 1:
                address = f"/./x/..{address}"
            elif turn % 4 == 2:
                address += "#top"
        links.append(f'<a href="{escape(address)}">{escape(url)}</a>')
    return f"<nav>{' '.join(links)} {_DEAD_LINKS}</nav>"


def _footer(page: Page) -> str:
    return f'<footer>&copy; {urlsplit(page.url).hostname}. <a href="tel:+15550100">Call us</a></footer>'


def _shown(page: Page, shown: Shown) -> str:
    """One image in its markup. ``shown.texts`` are all that is said of it."""
    image = shown.image
    source = escape(_reference(page, image.url))
    size = f'width="{image.width}" height="{image.height}"'
    text = escape(shown.texts[0][1])
    match shown.markup:
        case "alt":
            return f'<img src="{source}" alt="{text}" {size}>'
        case "title":
            return f'<a href="#top"><img src="{source}" title="{text}"></a>'
        case "figure":
            return f'<figure><img src="{source}" {size}><figcaption>{text}</figcaption></figure>'
        case "both":
            below = f"<figcaption><b>{escape(shown.texts[1][1])}</b></figcaption>"
            return f'<figure><a href="#top"><img src="{source}" alt="{text}"></a>{below}</figure>'
        case "lazy":
            return f'<img class="lazy" src="{_BLANK}" data-src="{source}" alt="{text}">'
        case "srcset":
            small = escape(f"{image.url}{SMALL}")
            return f'<img src="{small}" srcset="{small} 60w, {source} {image.width}w" sizes="50vw" alt="{text}">'
        case "picture":
            small = escape(f"{image.url}{SMALL}")
            narrow = f'<source media="(max-width: 300px)" srcset="{small}">'
            return f'<picture>{narrow}<img src="{source}" alt="{text}"></picture>'
        case "bare":
            return f'<img src="{source}" {size}>'
        case "pixel":
            return f'<img src="{source}" width="1" height="1" alt="{text}">'
        case "inline":
            return f'<img src="{_BLANK}" alt="{text}">'
        case "script":
            return f'<img src="javascript:show({image.scene.seed})" alt="{text}">'
        case "twice":
            return f'<img src="{source}" alt="{text}"><p>Once more:</p><img src="{source}" alt="{text}">'
    raise ValueError(f"no markup {shown.markup!r}")


def _reference(page: Page, url: str) -> str:
    """The URL of an image as its page spells it: relative to the base, to the host or to the scheme."""
    here, there = urlsplit(page.url), urlsplit(url)
    if there.hostname != here.hostname:
        return url.removeprefix("http:") if here.hostname == "gallery.example" else url
    if here.hostname == "museum.example":
        return unquote(there.path.removeprefix("/files/"))  # the page has it with spaces
    return there.path
