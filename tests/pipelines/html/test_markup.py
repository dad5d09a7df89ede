"""Bounded parsing: no page costs more than a second, and no ordinary page is cut."""

import time

import pytest
from selectolax.lexbor import LexborHTMLParser

from pipelines.extract.config import Config
from pipelines.extract.shard import page_rows
from pipelines.formats.warc import Page
from pipelines.html.jsonld import described
from pipelines.html.markup import bounded
from pipelines.html.page import Html

SIZE = 1 << 20


def many(text):
    return text * (SIZE // len(text))


ABUSE = {
    "nested": many("<div>"),
    "nested lists": many("<ul><li>"),
    "100,000 nested": "<div>" * 100_000,
    "attributes": "<p " + " ".join(f"a{n}" for n in range(150_000)) + ">",
    "attributes of body": "".join(f"<body a{n}=1>" for n in range(70_000)),
    "attributes of few bodies": ("<body " + " ".join(f"a{n}" for n in range(5_000)) + ">") * 20,
    "formatting": "".join(f"<font color={n}>" for n in range(60_000)),
    "formatting made again": "<p>" + "".join(f"<font a={n}>" for n in range(1_000)) + many("</p><p>x"),
    "adoption agency": many("<b><div></b>"),
    "foster parents": "<table>" + many("<div>"),
    "huge table": "<table>" + many("<tr><td>x"),
    "options": "<select>" + many("<option>x"),
    "hidden in comments": many("<div><!--</div>-->"),
    "hidden in attributes": many("<div a='></div>'>"),
    "hidden in scripts": many("<div><script></div></script>"),
    "end tags in the deep": "<div>" * 10_000 + many("</p>"),
    "figures": many("<figure><figcaption>x<img src=1 alt=y>"),
    "noscript": many("<noscript><img src=1>"),
    "pictures": "<picture>" + "<source srcset='a 1w'>" * 20_000 + "<img src=x alt=y>" * 5_000,
    "JSON-LD": many("<script type=application/ld+json>{'image'</script>"),
    "spaces in JSON-LD": "<script type=application/ld+json>image," + " " * 800_000 + "</script>",
    "images": many("<img src=1 alt=x>"),
    "quotes": many('<p a="'),
}


@pytest.mark.long
@pytest.mark.parametrize("name", ABUSE)
def test_hostile_markup_costs_a_second_at_most(name):
    start = time.thread_time()
    page_rows(Page("http://a.example/", [], ABUSE[name].encode()), Config(context=200))
    assert time.thread_time() - start < 3.0  # one on a quiet machine


def test_what_stands_before_the_abuse_is_read():
    rows, cut = page_rows(Page("http://a.example/", [], b"<img src=1 alt=x>" + b"<div>" * 100_000), Config())
    assert cut and [row.caption for row in rows] == ["x"]


MANY = " ".join(f"a{n}=1" for n in range(150_000))
IMAGE = "<img src={} alt='a {}'>"


@pytest.mark.parametrize(
    "abuse",
    [
        f"<p {MANY}>",
        f"<p {MANY}/>",
        f"<p {MANY.replace('=1', '')}>",
        f"<p {MANY.replace('1', chr(34) + '>' + chr(34))}>",
        f"<body {MANY}>",
        f"<div {MANY}><b {MANY}>x</b></div>",
        f"<p {MANY[:20_000]}>" * 60,
        f"<p {MANY[:8_000]}>" * 300,
        "".join(f"<body a{n}=1>" for n in range(70_000)),
    ],
)
def test_attributes_in_excess_are_lost_and_nothing_that_follows(abuse):
    """And what a tag says first stays."""
    html = f"<!doctype html>{IMAGE.format(1, 1)}{abuse}{IMAGE.format(2, 2)}<img src=3 alt='a 3' {MANY}>"
    html += "<p>x" * 10_000
    start = time.thread_time()
    rows, cut = page_rows(Page("http://a.example/", [], html.encode()), Config())
    assert time.thread_time() - start < 3.0
    assert cut and [row.caption for row in rows] == ["a 1", "a 2", "a 3"]


@pytest.mark.parametrize("count", [999, 1000, 1001, 5000])
def test_attributes_that_are_kept_are_those_a_browser_sees_first(count):
    """Against the parser itself, with the whole tag."""
    values = ["x", "'a > b'", '"c=d"', "''", "e/f", ' = "g"', "&amp;"]
    tag = " ".join(f"n{n:05}{values[n % 7] if n % 7 == 5 else '=' + values[n % 7]}" for n in range(count))
    html = f"<p {tag}>" + "<i>x</i>" * 9000
    kept = LexborHTMLParser(bounded(html)).css_first("p").attributes
    assert list(kept.items()) == list(LexborHTMLParser(html).css_first("p").attributes.items())[:1000]


@pytest.mark.parametrize(
    "html",
    [
        "<p>" * 50_000,
        "<div><p><b>x</b></p></div>" * 20_000,
        f"<div data-props='{'x=1 &quot;' * 40_000}'></div>" * 3,
        "<table>" + "<tr><td class=a><i class='fa fa-x'></i>x" * 20_000,
        "<svg>" + "<path d='M0 0'/>" * 40_000 + "</svg><p>x",
        "<script>" + "if (a<b) document.write('<div>');" * 20_000 + "</script><p>x",
        "<!--" + "<div>" * 50_000 + "--><p>x",
        "<div>" * 500 + "</div>" * 500 + "<p>x" * 1000,
    ],
)
def test_usual_markup_is_not_cut(html):
    assert bounded(html) == html
    assert not Html.parse("http://a.example/", [], html.encode()).cut


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ('{"@type":"ImageObject","contentUrl":"/a.jpg","caption":"A","license":"/cc"}', [("/a.jpg", "A", "/cc")]),
        (
            '{"@graph":[{"@type":["Thing","ImageObject"],"url":"/a","name":"N","acquireLicensePage":{"@id":"/l"}}]}',
            [("/a", "N", "/l")],
        ),
        (
            '{"@type":"Product","name":"Hat","image":["/1.jpg","/2.jpg"]}',
            [("/1.jpg", "Hat", ""), ("/2.jpg", "Hat", "")],
        ),
        ('{"headline":"H","image":{"@type":"ImageObject","url":"/i"}}', [("/i", "H", "")]),
        ('{"name":"P","image":{"url":"/i","caption":{"@value":"c","@language":"en"}}}', [("/i", "c", "")]),
        ('<!-- {"name":"a\nb","image":"/i",} -->', [("/i", "a\nb", "")]),
        ('//<![CDATA[\n{"name":"x","image":"/i"};\n//]]>', [("/i", "x", "")]),
        ('{"name":"x","image":', []),
        ('{"image":null,"photo":7}', []),
        ('{"image":' * 3000 + "1" + "}" * 3000, []),
        ('[{"image":' + '["x",' * 40 + "1" + "]" * 40 + "}]", [("x", "", "")] * 31),
    ],
)
def test_json_ld(script, wanted):
    assert described(script) == wanted
