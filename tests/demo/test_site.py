"""The embedded web: as declared, always the same bytes, and stopped together with the process that started it."""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import cv2
import numpy as np
import pytest

from infra.errors import CliplineError
from workflows.demo import answers, images, oddities, scenes, site, website
from workflows.demo.translations import TRANSLATIONS

pytestmark = pytest.mark.long  # draws the whole site

SCENES = 60


@pytest.fixture(scope="module")
def web():
    return website.build(SCENES)


@pytest.fixture(scope="module")
def address():
    with site.serve(SCENES) as address:
        yield address


def get(address, url):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(
            "GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers={"Host": parts.netloc}
        )
        response = connection.getresponse()
        return response.status, sorted(response.getheaders()), response.read()
    finally:
        connection.close()


def finished(thing):
    return thing.kind not in ("slow", "cut")


def test_the_server_answers_what_the_plan_says_and_nothing_of_its_own(address, web):
    urls = [*web.pages, *web.images]
    for url in urls[::3]:
        if not finished(web.pages.get(url) or web.images[url]):
            continue
        status, headers, body = get(address, url)
        reply = answers.answer(web, url)
        assert (status, body) == (reply.status, reply.body), url
        assert {name for name, _ in headers} <= {
            *("Content-Type", "Content-Length", "Date", "Server", "Connection"),
            *(name for name, _ in reply.headers),
        }
        assert ("Date", "Thu, 01 Jan 2026 00:00:00 GMT") in headers


def test_another_server_gives_the_same_answers(address, web):
    urls = [url for url in (*web.pages, *web.images) if finished(web.pages.get(url) or web.images[url])][::7]
    with site.serve(SCENES) as other:
        assert other != address
        assert [get(other, url) for url in reversed(urls)] == [get(address, url) for url in urls][::-1]


def test_a_cut_answer_ends_early(address, web):
    url = next(image.url for image in web.images.values() if image.kind == "cut")
    with pytest.raises(http.client.IncompleteRead):
        get(address, url)


def test_the_server_ends_with_a_parent_that_is_killed():
    code = (
        "import sys\nfrom workflows.demo import site\n"
        "with site.serve(20) as address:\n    print(address, flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        address = parent.stdout.readline().strip()
        (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert get(address, website.SEEDS[0])[0] == 200
        handle = os.pidfd_open(int(child))
        try:
            parent.send_signal(signal.SIGKILL)
            assert select.select([handle], [], [], 20)[0], "the server outlived its parent"
        finally:
            os.close(handle)


def test_a_port_in_use_is_said_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CliplineError, match=str(port)), site.serve(SCENES, port):
            pass


def test_it_listens_where_a_cluster_reaches_it():
    with site.serve(SCENES, host="127.0.0.2") as address:
        assert address.startswith("127.0.0.2:")
        assert get(address, website.SEEDS[0])[0] == 200


class Hrefs(HTMLParser):
    """A parser of another kind than the pipeline's."""

    def __init__(self):
        super().__init__()
        self.found, self.base = [], ""

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "base":
            self.base = given["href"]
        if tag == "a":
            self.found.append(given["href"])


def test_pages_hold_the_declared_links(web):
    for page in web.pages.values():
        reply = answers.answer(web, page.url)
        if reply.status == 200 and page.kind in ("index", "section", "content") and page.charset[0] == "utf-8":
            hrefs = Hrefs()
            hrefs.feed(reply.body.decode())
            links = {urljoin(hrefs.base or page.url, href).partition("#")[0] for href in hrefs.found if href != "#top"}
            assert {link for link in links if link.startswith("http")} == set(page.links)
            assert all(web.page(link) for link in page.links)


@pytest.mark.parametrize(("charset", "declared"), [
    ("iso-8859-1", b"charset=iso-8859-1"), ("utf-16", b"\xff\xfe"), ("shift_jis", None), ("windows-1251", None),
])  # fmt: skip
def test_old_charsets_are_declared_and_decode(charset, declared):
    web = website.build(700)  # the museum needs four rooms for that
    (page,) = (page for page in web.pages.values() if page.charset[0] == charset)
    reply = answers.answer(web, page.url)
    assert declared in reply.body if declared else f"charset={charset}" in reply.type
    text = reply.body.decode(charset)
    assert "by Zoë" in text or "by Zo&#235;" in text
    assert {"shift_jis": "新しい", "windows-1251": "новые", "iso-8859-1": "Café"}.get(charset, "utf") in text + "utf"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_rooms_in_other_languages_say_the_same_of_their_scenes(language):
    """The words of a caption, by their place in the lists, are those of the scene's English names."""
    web, words = website.build(1000), TRANSLATIONS[language]
    pages = [page for page in web.pages.values() if page.language == language and page.shown]
    assert [page.charset[0] for page in pages] == [words.charset[0], "utf-8"]
    shown = [one for page in pages for one in page.shown]
    assert len(shown) == 20
    for one in shown:
        ((_, text),) = one.texts
        for ours, theirs, name in (
            (scenes.SHAPES, words.shapes, one.image.scene.shape),
            (scenes.COLOURS, words.colours, one.image.scene.colour),
        ):
            assert [english for english, word in zip(ours, theirs, strict=True) if word in text] == [name], text
    for page in pages:
        reply = answers.answer(web, page.url)
        text = reply.body.decode({"windows-874": "cp874"}.get(page.charset[0], page.charset[0]))
        assert f'<html lang="{language}">' in text
        assert page.charset[0] in text or page.charset[0] in reply.type
        assert all(one.texts[0][1] in text for one in page.shown)


def test_oddities_come_in_the_numbers_declared():
    web = website.build(1000)
    shown = Counter(shown.kind for page in web.pages.values() if page.kind == "content" for shown in page.shown)
    declared = {
        **oddities.TWISTS, **oddities.BAD_ANSWERS, **oddities.BAD_SIZES, **oddities.BAD_TEXTS, **oddities.VAGUE_TEXTS,
        **oddities.BAD_MARKUP, **oddities.COPIES,
    }  # fmt: skip
    for kind, per_hundred in declared.items():
        assert shown[kind] == max(1, round(10 * per_hundred)), kind
    assert shown["good"] == 1000 - sum(shown[kind] for kind in oddities.TWISTS)


def test_image_files_are_what_they_say(web):
    """By OpenCV, which reads headers and Exif for itself: same scene, upright, of the planned size."""
    for image in web.images.values():
        if image.kind in ("corrupt", "stub", "bomb"):
            continue
        data = images.draw(image)
        assert data.startswith({"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG", "webp": b"RIFF"}[image.format])
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape[:2] == (image.height, image.width)
        if image.width == image.height >= 96:
            file = images.encode(images.render(image.scene, image.width), "png")
            plain = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
            assert np.abs(pixels[8:-8, 8:-8].astype(int) - plain[8:-8, 8:-8]).mean() < 9, image
