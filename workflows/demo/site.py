"""HTTP server of the embedded web: many hosts on one port, distinguished by the Host header.

Every answer is a pure function of the address: no state, no clock, no chance, so any order of requests, any number of
retries and any restart see the same web. :func:`serve` runs it as a process of its own for as long as a recipe needs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infra.errors import CliplineError
from workflows.demo.pages import html
from workflows.demo.website import SMALL, Image, Page, Web, build

if TYPE_CHECKING:
    from aiohttp import web as http

__all__ = ["Reply", "answer", "serve"]

Headers = tuple[tuple[str, str], ...]

_SLOW_S = 60.0  # after which a slow answer ends, if the client still listens
_START_S = 30.0
_STOP = "stop"
_LINGER_S = 5.0


@contextmanager
def serve(scenes: int, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the web of ``scenes`` good images on ``host:port`` (0: any free one); yields "host:port".

    The server ends with the block, and also when this process is killed: it watches a pipe to it.
    Raises CliplineError if the port is taken.
    """
    command = [sys.executable, "-m", "workflows.demo.site", "--scenes", str(scenes), "--port", str(port)]
    command += ["--host", host]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        ready = process.stdout.readline().split()
        if ready[:1] != ["ready"]:
            raise CliplineError(
                f"the embedded web site cannot listen on {host}, port {port}",
                found=" ".join(ready) or "the server ended without a message",
                fix="use another port, as with --set port=8643",
            )
        yield ready[1]
    finally:
        process.stdin.write(_STOP)
        process.stdin.close()
        process.wait(timeout=_START_S)
        process.stdout.close()


# --- what an address answers ------------------------------------------------------------------------------------------


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
    from workflows.demo.images import draw

    kind = "application/octet-stream" if image.kind == "untyped" else f"image/{image.format}"
    return Reply(draw(image), kind, headers=_TAGS.get(image.kind, ()), cut=cut, slow=slow)


# --- the server process -----------------------------------------------------------------------------------------------


async def _run(web: Web, host: str, port: int) -> None:
    """Serve for ever."""
    from aiohttp import web as http

    async def handle(request: http.BaseRequest) -> http.StreamResponse:
        return await _send(request, answer(web, f"http://{request.host}{request.raw_path}"))

    try:
        listener = await _listen(host, port)
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")
        return
    runner = http.ServerRunner(http.Server(handle, access_log=None), shutdown_timeout=0)
    await runner.setup()
    await http.SockSite(runner, listener).start()
    sys.stdout.write(f"ready {host}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def _listen(host: str, port: int) -> socket.socket:
    for _ in range(int(2 * _LINGER_S / 0.1)):
        try:
            return socket.create_server((host, port), backlog=512)
        except OSError:
            await asyncio.sleep(0.1)  # the server of a recipe that was just killed lingers
    return socket.create_server((host, port), backlog=512)


async def _send(request: http.BaseRequest, reply: Reply) -> http.StreamResponse:
    from aiohttp import web as http

    # A fixed Date: the pages kept as WARC hold the headers, and equal runs must keep equal bytes.
    headers = [
        ("Content-Type", reply.type),
        ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("Server", "example"),
        *reply.headers,
    ]
    if not (reply.cut or reply.slow):
        return http.Response(status=reply.status, headers=headers, body=reply.body)
    response = http.StreamResponse(status=reply.status, headers=headers)
    response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    if reply.slow:
        await asyncio.sleep(_SLOW_S)
    if request.transport:
        request.transport.close()
    return response


def _end_with_stdin() -> None:
    """End this process when stdin closes, at any point: there is no state to save.

    If stdin closes without the stop word, the recipe was killed. Its workers live a moment longer and would record the
    site as unreachable, so the server lingers.
    """
    received = b""
    while data := os.read(0, 1024):
        received += data
    if received != _STOP.encode():
        time.sleep(_LINGER_S)
    os._exit(0)


def main() -> None:
    """``python -m workflows.demo.site``: serve until stdin closes."""
    parser = argparse.ArgumentParser(description="Serve the embedded web until stdin closes.")
    parser.add_argument("--scenes", type=int, default=2000, help="how many different good images it holds")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    options = parser.parse_args()
    # The process that started us decides when to stop; an interrupt meant for it reaches the whole terminal group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)
    asyncio.run(_run(build(options.scenes), options.host, options.port))


if __name__ == "__main__":
    main()
