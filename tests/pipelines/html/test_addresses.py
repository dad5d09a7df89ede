"""The URL of an image: found in any attribute, and never a stand-in, a template or a format nobody accepts."""

import time

import pytest

from pipelines.extract.config import Config
from pipelines.extract.shard import page_rows
from pipelines.formats.warc import Page
from pipelines.html.addresses import is_placeholder
from pipelines.html.srcset import parse_srcset

INLINE = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
GUID = "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}"


def rows(markup):
    found, _ = page_rows(Page("http://a.example/dir/page", [], f"<p>{markup}".encode()), Config())
    return [(row.url.removeprefix("http://a.example"), row.caption, row.reason) for row in found]


@pytest.mark.parametrize(
    ("markup", "wanted"),
    [
        # any attribute, where src is a stand-in
        (f'<img src="{INLINE}" data-cfsrc="/a.jpg" alt="x">', "/a.jpg"),
        ('<img data-any-name="https://b.example/a.jpg?w=1" alt="x">', "https://b.example/a.jpg?w=1"),
        ('<img src="/blank.gif" data-lazyload="/a.jpg" alt="x">', "/a.jpg"),
        ('<img src="/img/grey-1x1.png?v=2" lazysrc="a.webp" alt="x">', "/dir/a.webp"),
        ('<img src="//placehold.it/300x200" file="/a.png" alt="x">', "/a.png"),
        ('<img src="/thumb.jpg" class="b-lazy" data-zoom="/a.jpg" alt="x">', "/a.jpg"),
        ('<img src="{{ url }}" data-any="/a.jpg" alt="x">', "/a.jpg"),
        ('<img src="" data-sizes-set="/s.jpg 300w, /m.jpg 600w" alt="x">', "/m.jpg"),
        ('<img src="#" data-thumb="/t.jpg" data-any="/a.jpg" data-full-size="/f.jpg" alt="x">', "/f.jpg"),
        ('<img src="" data-thumb="/t.jpg" alt="x">', "/t.jpg"),
        # and not where it is an image, nor attributes that hold something else
        ('<img src="/s.jpg" data-share="/a.jpg" alt="x">', "/s.jpg"),
        ('<img src="/s.jpg" data-url="/product/1" data-lazy="true" data-original="1" alt="x">', "/s.jpg"),
        ('<img src="" onerror="this.src=\'/e.jpg\'" data-title="/t.jpg" data-any="/a.jpg" alt="x">', "/a.jpg"),
        ('<img src="" data-name="photo.jpg" data-json=\'["/j.jpg"]\' data-any="/a.jpg" alt="x">', "/a.jpg"),
        ('<img src="/s.jpg" data-src="/l.jpg" alt="x">', "/l.jpg"),
        # templates
        ('<img src="/a_300.jpg" data-src="/a_{width}.jpg" alt="x">', "/a_300.jpg"),
        ('<img src="/a.jpg" data-src="/%7Bw%7D/a.jpg" srcset="/<%=w%>.jpg 900w, /[[u]].jpg 800w" alt="x">', "/a.jpg"),
        (f'<img src="/{GUID}.jpg" alt="x">', "/%7B3F2504E0-4F89-11D3-9A0C-0305E82C3301%7D.jpg"),
        # invalid entries
        ('<img src="/s.jpg" srcset="/my fox.jpg 300w, /my fox big.jpg 900w" alt="x">', "/s.jpg"),
        ('<img src="/s.jpg" srcset="/a.jpg 300, /b.jpg 200w" alt="x">', "/b.jpg"),
        # formats
        ('<img src="/s.svg" data-src="/a.jpg" alt="x">', "/a.jpg"),
        ('<img src="/s.jpg" data-src="/a.svg" alt="x">', "/s.jpg"),
        ('<picture><source srcset="/a.jxl 9w"><source srcset="/a.webp 2w"><img src=/s alt=x></picture>', "/a.webp"),
        ('<picture><source srcset="/a 2x" type="image/jxl"><img src="/s.jpg" alt="x"></picture>', "/s.jpg"),
        ('<picture><source srcset="/a.webp 9w"><source srcset="/a.jpg 9w"><img src=/s alt=x></picture>', "/a.jpg"),
        ('<picture><source data-any="/a.jpg 900w"><img src="" alt="x"></picture>', "/a.jpg"),
        ('<img src="/only.svg" alt="x">', "/only.svg"),
        # AMP
        ('<amp-img src="/a.jpg" width=3 height=2 alt="x" layout=responsive></amp-img>', "/a.jpg"),
        ('<AMP-IMG src="/a.jpg" srcset="/b.jpg 900w" alt="x"></AMP-IMG>', "/b.jpg"),
        ('<amp-img src="/a.jpg" alt="x"><noscript><img src="/a.jpg" alt="x"></noscript></amp-img>', "/a.jpg"),
        # fallbacks
        ('<img src="/lazy.png" alt="x"><noscript><img src="/a.jpg" alt="x"></noscript>', "/a.jpg"),
        ('<img src="/lazy.png" data-src="/{w}.jpg" alt="x"> <noscript><img src="/a.jpg"></noscript>', "/a.jpg"),
    ],
)  # fmt: skip
def test_the_image_and_not_its_stand_in(markup, wanted):
    assert rows(markup) == [(wanted, "x", None)]


@pytest.mark.parametrize(
    ("markup", "reason"),
    [
        ('<img src="/img/blank.gif" alt="a red fox">', "placeholder_image"),
        ('<img src="/no-image.jpg" alt="a red fox">', "placeholder_image"),
        ('<img src="/blank.gif" data-title="/a.jpg" srcset="/spacer.png 2x" alt="a red fox">', "placeholder_image"),
        ('<img src="{{ image.url }}" alt="a red fox">', "bad_url"),
        ('<img src="" data-src="/a_{width}.jpg" alt="a red fox">', "bad_url"),
        (f'<img src="{INLINE}" data-json="{{}}" alt="a red fox">', "bad_url"),
    ],
)
def test_what_has_no_image(markup, reason):
    assert [why for *_, why in rows(markup)] == [reason]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *((name, True) for name in ("blank.gif", "1x1.png", "grey.gif?v=2", "placeholder-300x200.jpg", "No_Image.PNG")),
        *((name, True) for name in ("ajax-loader.gif", "missing-image.svg", "loading-32.gif", "transparent.png")),
        *((name, False) for name in ("pixel.jpg", "white-fox.png", "lazy-cat.gif", "loading-dock.jpg", "image1.jpg")),
        *((name, False) for name in ("blank", "blank.html", "noir.gif", "placeholder/fox.jpg", "clear-sky.png", "")),
    ],
)
def test_names_of_placeholders(name, wanted):
    assert is_placeholder(f"http://a.example/{name}") is wanted


# Of each value what Chromium 156 makes of it: the entries it knows, or none.
SRCSETS = [
    *(("a 1e99w", []), ("a 1x 2x", []), ("a 1w 1x", []), ("a 5h", []), ("a 5w 5h", ["a"]), ("a 5h 5w", ["a"])),
    *(("a 0w", []), ("a 0x", ["a"]), ("a -1x", []), ("a -0x", ["a"]), ("a +1x", []), ("a 1.x", []), ("a .5x", ["a"])),
    *(("a 1E1x", ["a"]), ("a 1.5w", []), ("a 007w", ["a"]), ("a 1 w", []), ("a foo", []), ("a 1X", []), ("a 1W", [])),
    *(("a,b 2x", ["a,b"]), ("a,,", ["a"]), ("a 1x(b,c)", []), ("a (1x, b", []), ("a\t1w\n", ["a"])),
    *(("a 1x\u00a0", []), ("a\u00a01x", ["a\u00a01x"]), ("a 1e400x", []), ("a NaNx", []), ("a \uff11w", [])),
    *(("a 5h 0w", []), ("a 0h 5w", []), (",a 1x 1x, b 2x", ["b"]), ("a 1w junk, b 1w", ["b"])),
]


@pytest.mark.parametrize(("value", "entries"), SRCSETS)
def test_srcset_as_a_browser_reads_it(value, entries):
    assert [offer.url for offer in parse_srcset(value)] == entries


@pytest.mark.parametrize("piece", ["a.jpg?", ".jpg", "1x1-", "{", "a (1x", "/", "data-", "no-"])
def test_values_of_any_size_are_read_at_once(piece):
    long = piece * (1_000_000 // len(piece))
    start = time.thread_time()
    rows(f'<img src="{long}" srcset="{long}" data-x="{long}" alt=x><img data-x="{long[:3990]} 1" alt=x>')
    assert time.thread_time() - start < 2
