"""Answers of the hosts of the embedded web.

Every answer is a pure function of the address: no state, no clock, no chance, so any order of requests, any number of
retries and any restart see the same web.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from workflows.demo.images import draw
from workflows.demo.pages import html
from workflows.demo.website import SMALL, Image, Page, Web

__all__ = ["Reply", "answer"]

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reply:
    """An HTTP answer. ``cut``: the body ends here although Content-Length says more; ``slow``: it never quite comes."""

    body: bytes = b""
    type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: Headers = ()
    cut: bool = False
    slow: bool = False


_ROBOTS = {
    "gallery.example": "User-agent: *\nDisallow: /private/\nCrawl-delay: 0\nSitemap: http://gallery.example/sitemap.xml\n",
    "cdn.example": "User-agent: *\nDisallow: /private/\n\nUser-agent: GPTBot\nDisallow: /untrained/\n",
    "untrained.example": "User-agent: GPTBot\nUser-agent: CCBot\nDisallow: /\n",
    "closed.example": "User-agent: *\nDisallow: /\n",
    "shop.example": "User-agent: *\nDisallow:\n",
}


def answer(web: Web, url: str) -> Reply:
    """The answer to ``http://host/path?query``."""
    host, _, path = url.removeprefix("http://").partition("/")
    if path == "robots.txt":
        return _robots(host)
    if (page := web.page(url)) is not None:
        return _page(page)
    if (image := web.images.get(url)) is not None:
        return _image(image)
    for ending in ("!", SMALL):
        if url.endswith(ending) and (image := web.images.get(url.removesuffix(ending))) is not None:
            return _file(image if ending == "!" else replace(image, kind="good", width=60, height=60))
    return Reply(b"<h1>Not found</h1>", status=404)


def _robots(host: str) -> Reply:
    if host == "down.example":
        return Reply(b"", "text/plain", 503)
    rules = _ROBOTS.get(host)
    return Reply(rules.encode(), "text/plain") if rules else Reply(b"", status=404)


def _redirect(url: str, status: int = 302) -> Reply:
    return Reply(status=status, headers=(("Location", url),))


def _page(page: Page) -> Reply:
    match page.kind:
        case "missing":
            return Reply(b"<h1>Not found</h1>", status=404)
        case "gone":
            return Reply(b"<h1>Gone</h1>", status=410)
        case "broken":
            return Reply(b"<h1>Internal error</h1>", status=500)
        case "moved":
            return _redirect(f"{page.url}/here", 301)
        case "loop":
            return _redirect(page.url)
        case "inside":
            return _redirect("http://169.254.169.254/latest/meta-data/")
        case "scheme":
            return _redirect("file:///etc/passwd")
        case "away":
            return _redirect("http://elsewhere.example/")
        case "pdf":
            return Reply(b"%PDF-1.7\n%%EOF\n", "application/pdf")
        case "json":
            return Reply(b'{"items": []}', "application/json")
        case "jpeg":
            return Reply(b"\xff\xd8\xff\xd9", "image/jpeg")
        case "endless":
            return Reply(_endless(), headers=(("Content-Encoding", "gzip"),))
        case "empty":
            return Reply(b"")
        case "cut":
            return Reply(html(page), cut=True)
        case "slow":
            return Reply(html(page), slow=True)
    headers: dict[str, Headers] = {
        "noai-header": (("X-Robots-Tag", "otherbot: nofollow"), ("X-Robots-Tag", "max-image-preview:large, noai")),
        "tdm-header": (("TDM-Reservation", "1"), ("TDM-Policy", "http://gallery.example/policy.json")),
    }
    charset, declared = page.charset
    kind = f"text/html; charset={charset}" if declared == "header" else "text/html"
    return Reply(html(page), kind, headers=headers.get(page.kind, ()))


def _endless() -> bytes:
    """32 MiB of nothing to see, in 32 kB."""
    squeeze = zlib.compressobj(9, wbits=31)
    return squeeze.compress(b"<p>" * ((32 << 20) // 3)) + squeeze.flush()


def _image(image: Image) -> Reply:
    match image.kind:
        case "missing":
            return Reply(b"<h1>Not found</h1>", status=404)
        case "gone":
            return Reply(b"<h1>Gone</h1>", status=410)
        case "broken":
            return Reply(b"<h1>Internal error</h1>", status=500)
        case "html":
            return Reply(b"<!doctype html><p>Please sign in to see this picture.", "image/jpeg")
        case "vector":
            return Reply(b'<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>', "image/svg+xml")
        case "pixel":
            return Reply(_PIXEL, "image/gif")
        case "moved":
            return _redirect(f"{image.url}!")
        case "loop":
            return _redirect(image.url)
        case "inside":
            return _redirect("http://127.0.0.1:9/camera.jpg")
        case "scheme":
            return _redirect("file:///etc/hostname")
        case "cut":
            return _file(image, cut=True)
        case "slow":
            return _file(image, slow=True)
    return _file(image)


_PIXEL = bytes.fromhex(  # a transparent GIF of 1 x 1
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b"
)
_TAGS: dict[str, Headers] = {
    "noai": (("X-Robots-Tag", "max-image-preview:large, noai"),),
    "noimageai": (("X-Robots-Tag", "noimageai"),),
    "noindex": (("X-Robots-Tag", "clipline: noindex, nofollow"),),
    "tdm": (("TDM-Reservation", "1"),),
    "index-ok": (("X-Robots-Tag", "otherbot: noai"), ("X-Robots-Tag", "max-image-preview: large")),
}


def _file(image: Image, *, cut: bool = False, slow: bool = False) -> Reply:
    kind = "application/octet-stream" if image.kind == "untyped" else f"image/{image.format}"
    return Reply(draw(image), kind, headers=_TAGS.get(image.kind, ()), cut=cut, slow=slow)
