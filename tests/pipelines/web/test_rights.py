"""Every signal of docs/rights.md, from the server's bytes to the decision, with the site's own words."""

import asyncio
import io
import re
import struct
import zlib
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Site, answer, serving
from PIL import Image

from infra.run.context import Context, ShardOutput
from infra.schema import Drop
from infra.store.spool import Spool
from pipelines import crawl, download, extract
from pipelines.crawl.frontier_tables import Due
from pipelines.crawl.shard import Shard, work
from pipelines.download.shard import Downloader
from pipelines.extract.shard import page_rows
from pipelines.formats.warc import Page, Reader
from pipelines.web import FetchError, Web
from pipelines.web.fetcher import Fetcher
from pipelines.web.policy.opt_outs import CRAWLED, quoted
from pipelines.web.policy.robots import RobotsRules
from pipelines.web.policy.rsl import Terms
from pipelines.web.policy.site_files import AiTxt, TrustTxt
from pipelines.web.policy.usage import withholds_training

TABLE = Path(__file__).parents[3] / "docs" / "rights.md"
URL = "http://a.example/art/1.jpg"


async def fetched(routes, url=URL, kind="image", **changes):
    """(reason, words) of a fetch that obeys, checked to be the words of one that only records."""
    async with Site({"/art/1.jpg": answer(b"img", Content_Type="image/jpeg"), **routes}) as site:
        options = {"connect_to": {"*.example": f"127.0.0.1:{site.port}"}, "retries": 0, **changes}
        async with Fetcher(Web(**options, obey_opt_out=False)) as fetcher:
            try:
                recorded = (await fetcher.get(url, kind)).opt_out
            except FetchError as error:
                return error.reason, error.detail
        async with Fetcher(Web(**options)) as fetcher:
            try:
                assert not recorded, await fetcher.get(url, kind)
            except FetchError as error:
                assert (error.reason, error.detail) == (Drop.OPT_OUT, recorded)
            return (Drop.OPT_OUT, recorded) if recorded else (None, "")


def robots(*lines):
    return {"/robots.txt": answer("\n".join(lines).encode(), Content_Type="text/plain")}


def image(**headers):
    return {"/art/1.jpg": answer(b"img", Content_Type="image/jpeg", **headers)}


def rsl(*elements, url="/"):
    terms = "".join(elements)
    body = f'<rsl xmlns="https://rslstandard.org/rsl"><content url="{url}"><license>{terms}</license></content></rsl>'
    return {**robots("License: http://b.example/license.xml"), "b.example/license.xml": answer(body.encode())}


OUT = Drop.OPT_OUT
LICENSE = "robots.txt: License: http://b.example/license.xml"
FREE = (None, "")
SIGNALS = {
    1: [
        (robots("User-agent: *", "Disallow: /art/"), (Drop.ROBOTS, "robots.txt")),
        (robots("User-agent: *", "Disallow: /other/"), FREE),
    ],
    2: [
        (robots("User-agent: Google-Extended", "Disallow: /art"), (OUT, "robots.txt: User-agent: Google-Extended")),
        (robots("User-agent: GPTBot", "User-agent: x", "Disallow: /"), (OUT, "robots.txt: User-agent: GPTBot")),
        (robots("User-agent: Bingbot", "Disallow: /"), FREE),
    ],
    3: [
        (
            robots("User-Agent: *", "Content-Signal: search=yes,ai-train=no,use=reference", "Allow: /"),
            (OUT, "robots.txt: Content-Signal: search=yes,ai-train=no,use=reference"),
        ),
        (robots("content-signal : AI-Train = NO  # ours"), (OUT, "robots.txt: content-signal: AI-Train = NO")),
        (robots("User-agent: *", "Content-Signal: ai-train=yes, search=no"), FREE),
        (robots("User-agent: Bingbot", "Content-Signal: ai-train=no"), FREE),
    ],
    4: [
        (image(Content_Signal="ai-train=no, search=yes"), (OUT, "Content-Signal: ai-train=no, search=yes")),
        (image(Content_Signal="ai-train=yes, search=yes, ai-input=yes"), FREE),
    ],
    5: [
        (robots("User-agent: *", "Content-Usage: train-ai=n"), (OUT, "robots.txt: Content-Usage: train-ai=n")),
        (
            robots("User-agent: *", "Content-Usage: train-ai=y", "Content-Usage: /art train-ai=n"),
            (OUT, "robots.txt: Content-Usage: /art train-ai=n"),
        ),
        (robots("User-agent: *", "Content-Usage: train-ai=n", "Content-Usage: /art/ train-ai=y"), FREE),
        (
            robots("User-agent: *", "Content-Usage: /art/*.jpg train-ai=y", "Content-Usage: /art/*.jpg train-ai=n"),
            (OUT, "robots.txt: Content-Usage: /art/*.jpg train-ai=n"),
        ),
        (
            robots("User-agent: CCBot", "Content-Usage: train-ai=n", "User-agent: *", "Content-Usage: train-ai=y"),
            (OUT, "robots.txt: Content-Usage: train-ai=n"),
        ),
        (
            robots("User-agent: clipline", "Content-Usage: train-ai=y", "User-agent: *", "Content-Usage: train-ai=n"),
            FREE,
        ),
        (robots("User-agent: *", "Content-Usage: search=n"), FREE),
    ],
    6: [
        (image(Content_Usage="train-ai=n;level=2, search=y"), (OUT, "Content-Usage: train-ai=n;level=2, search=y")),
        (image(Content_Usage="train-ai=y, train-ai=n"), (OUT, "Content-Usage: train-ai=y, train-ai=n")),
        (image(Content_Usage="train-ai=y"), FREE),
    ],
    7: [
        (rsl('<prohibits type="usage">ai-train</prohibits>'), (OUT, f"{LICENSE} (prohibits ai-train)")),
        (rsl("<prohibits>search, train-ai</prohibits>"), (OUT, f"{LICENSE} (prohibits train-ai)")),
        (rsl('<permits type="usage">search</permits>'), (OUT, f"{LICENSE} (permits search)")),
        (
            rsl('<permits type="usage">ai-all</permits><payment type="subscription"><custom>x</custom></payment>'),
            (OUT, f"{LICENSE} (payment subscription)"),
        ),
        (rsl('<permits type="usage">ai-train search</permits><payment type="free"/>'), FREE),
        (rsl("<prohibits>ai-train</prohibits>", url="/news/"), FREE),
        (rsl('<permits type="user">non-commercial</permits>'), (OUT, f"{LICENSE} (permits user)")),
        (
            robots("License: http://b.example/gone.xml"),
            (OUT, "robots.txt: License: http://b.example/gone.xml (not readable: 404)"),
        ),
    ],
    9: [
        (
            image(Link='</terms.xml>; rel="license"; type="application/rsl+xml"'),
            (OUT, 'Link: </terms.xml>; rel="license"; type="application/rsl+xml'),
        ),
        (image(Link='<https://creativecommons.org/licenses/by/4.0/>; rel="license"'), FREE),
    ],
    10: [
        (image(X_Robots_Tag="max-image-preview:large, NoAI"), (OUT, "X-Robots-Tag: max-image-preview:large, NoAI")),
        (image(X_Robots_Tag=["all", "gptbot: noimageai"]), (OUT, "X-Robots-Tag: gptbot: noimageai")),
        (image(X_Robots_Tag="otherbot: noindex, noarchive"), FREE),
    ],
    12: [
        (image(TDM_Reservation="1", TDM_Policy="/policy.json"), (OUT, "TDM-Reservation: 1")),
        (image(TDM_Reservation="0"), FREE),
    ],
    14: [
        (
            {"/.well-known/tdmrep.json": answer(b'[{"location": "/art/*", "tdm-reservation": 1}]')},
            (OUT, "tdmrep.json: tdm-reservation: 1"),
        ),
        ({"/.well-known/tdmrep.json": answer(b'[{"location": "/b/", "tdm-reservation": 1}]')}, FREE),
    ],
    15: [
        (
            {
                "/ai.txt": answer(
                    b"# Spawning\nUser-Agent: *\nAllow: *.txt\nDisallow: *.jpg\n", Content_Type="text/plain"
                )
            },
            (OUT, "ai.txt: Disallow: *.jpg"),
        ),
        ({"/ai.txt": answer(b"User-Agent: *\nDisallow: *.mp3\nAllow: /\n")}, FREE),
        ({"/ai.txt": answer(b"<html>\nDisallow: /\n")}, FREE),
    ],
    16: [
        (
            {"/trust.txt": answer(b"member=https://a.example/\nDataTrainingAllowed = no\n")},
            (OUT, "trust.txt: DataTrainingAllowed = no"),
        ),
        ({"/trust.txt": answer(b"datatrainingallowed=yes\n# datatrainingallowed=no\n")}, FREE),
    ],
}


@pytest.mark.parametrize(
    ("routes", "wanted"), [pytest.param(*case, id=f"{row}") for row, cases in SIGNALS.items() for case in cases]
)
async def test_a_signal_reaches_the_one_who_asks(routes, wanted):
    assert await fetched(routes, rights_files=["tdmrep.json", "ai.txt", "trust.txt"]) == wanted


RSL = '<link rel="license" type="application/rsl+xml" href="/license.xml">'
PAGES = {
    4: [("", [("Content-Signal", "ai-train=no")], "Content-Signal: ai-train=no")],
    6: [("", [("content-usage", "train-ai=n")], "content-usage: train-ai=n")],
    8: [
        (RSL, [], "rel=license, application/rsl+xml: http://a.example/license.xml"),
        (
            '<script type="application/rsl+xml"><rsl/></script>',
            [],
            "rel=license, application/rsl+xml: http://a.example/p",
        ),
        ('<link rel=license href="/by"><p>We like application/rsl+xml', [], None),
    ],
    9: [
        (
            "",
            [("Link", "<l.xml>; rel=license; type=application/rsl+xml")],
            "Link: <l.xml>; rel=license; type=application/rsl+xml",
        )
    ],
    10: [("", [("X-Robots-Tag", "noimageai"), ("X-Robots-Tag", "all")], "X-Robots-Tag: noimageai")],
    11: [
        ('<META NAME="Robots" CONTENT="NoAI,\n index">', [], "meta robots: NoAI, index"),
        ('<meta name="gptbot" content="noindex">', [], "meta gptbot: noindex"),
        ('<meta name="robots" content="index, max-image-preview:large">', [], None),
    ],
    12: [("", [("TDM-Reservation", "1")], "TDM-Reservation: 1")],
    13: [
        ('<meta name="tdm-reservation" content="1">', [], "meta tdm-reservation: 1"),
        ('<meta name="tdm-reservation" content="0">', [("Content-Usage", "train-ai=y")], None),
    ],
    # Contradictions: the stricter holds, and is what the row says.
    0: [
        (
            '<meta name="robots" content="noai">',
            [("Content-Signal", "ai-train=yes"), ("Content-Usage", "train-ai=n")],
            "Content-Usage: train-ai=n; meta robots: noai",
        ),
        ("", [(CRAWLED, "robots.txt: Content-Signal: ai-train=no")], "robots.txt: Content-Signal: ai-train=no"),
    ],
}


@pytest.mark.parametrize(
    ("head", "headers", "words"), [pytest.param(*case, id=f"{row}") for row, cases in PAGES.items() for case in cases]
)
def test_a_signal_reaches_the_rows_of_a_page(head, headers, words):
    page = Page("http://a.example/p", headers, f"{head}<img src=1 alt=one>".encode())
    (obeyed,), _ = page_rows(page, extract.Config())
    (recorded,), _ = page_rows(page, extract.Config(obey_opt_out=False))
    assert (obeyed.opt_out, obeyed.reason) == (words, "opt_out" if words else None)
    assert (recorded.opt_out, recorded.reason) == (words, None)


def xmp(attribute):
    spaces = 'xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" xmlns:tdm="http://www.w3.org/ns/tdmrep/"'
    rdf = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    return {"xmp": f"<rdf:RDF {rdf}><rdf:Description {spaces} {attribute}/></rdf:RDF>".encode()}


def manifest(label, content):
    def box(kind, inside):
        return struct.pack(">I", len(inside) + 8) + kind + inside

    def labelled(name, inside):
        return box(b"jumb", box(b"jumd", b"c2pa" + bytes(12) + b"\x03" + name + b"\0") + inside)

    return labelled(b"c2pa", labelled(label.encode(), box(b"cbor", cbor2.dumps(content))))


MINING = manifest("c2pa.training-mining", {"entries": {"c2pa.ai_training": {"use": "constrained"}}})
IMAGES = {
    17: [
        (
            xmp('plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-GENAIMLTRAINING"'),
            "XMP plus:DataMining: DMI-PROHIBITED-GENAIMLTRAINING",
        ),
        (xmp('plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-UNSPECIFIED"'), None),
    ],
    18: [(xmp('tdm:reservation="1"'), "XMP tdm:reservation: 1"), (xmp('tdm:reservation="0"'), None)],
    19: [(MINING, "C2PA c2pa.training-mining: c2pa.ai_training=constrained")],
}


@pytest.mark.parametrize(
    ("said", "words"), [pytest.param(*case, id=f"{row}") for row, cases in IMAGES.items() for case in cases]
)
async def test_a_signal_in_an_image_reaches_its_row(said, words):
    out = io.BytesIO()
    picture = Image.new("RGB", (90, 60))
    if isinstance(said, bytes):
        picture.save(out, "PNG")
        chunk = struct.pack(">I", len(said)) + b"caBX" + said + struct.pack(">I", zlib.crc32(b"caBX" + said))
        body = out.getvalue()[:33] + chunk + out.getvalue()[33:]
    else:
        picture.save(out, "JPEG", **said)
        body = out.getvalue()
    async with Site({"/art/1.jpg": answer(body, Content_Type="image/jpeg")}) as site:
        for obey in (True, False):
            reach = Web(connect_to={"*.example": f"127.0.0.1:{site.port}"}, obey_opt_out=obey)
            with Spool() as spool:
                async with Downloader(download.Config(web=reach)) as downloader:
                    outcome = await (await downloader.start([URL], spool))[0]
            wanted = (OUT, f"opt_out: {words}") if words and obey else (None, None)
            assert (outcome.reason, outcome.message) == wanted
            assert outcome.image_opt_out == words


def test_the_documented_signals_are_the_tested_ones():
    documented = {int(row) for row in re.findall(r"^\| (\d+) \|", TABLE.read_text(), re.MULTILINE)}
    assert documented == (set(SIGNALS) | set(PAGES) | set(IMAGES)) - {0}
    assert len(documented) >= 12


async def test_the_words_of_the_host_go_with_a_page_that_only_records():
    """A redirect counts twice: what both hosts say."""
    routes = {
        "a.example/robots.txt": answer(b"Content-Signal: ai-train=no"),
        "b.example/robots.txt": answer(b"User-agent: CCBot\nDisallow: /"),
        "a.example/p": answer(b"", "302 Found", Location="http://b.example/p"),
        "b.example/p": answer(b"<p>", Content_Usage="train-ai=n"),
    }
    async with Site(routes) as site:
        options = Web(connect_to={"*.example": f"127.0.0.1:{site.port}"}, obey_opt_out=False)
        async with Fetcher(options) as fetcher:
            assert (await fetcher.get("http://a.example/p")).opt_out == (
                "robots.txt: Content-Signal: ai-train=no; robots.txt: User-agent: CCBot; Content-Usage: train-ai=n"
            )
            assert (await fetcher.get("http://a.example/robots.txt", "sitemap")).status == 200  # nothing is kept of it


def test_from_crawl_to_images_nothing_that_was_said_is_lost(tmp_path):
    """Crawl stores what the host says, extract reads it from the WARC, download adds what the image's host says."""
    picture = io.BytesIO()
    Image.new("RGB", (90, 60)).save(picture, "PNG")
    shown = answer(picture.getvalue(), Content_Type="image/png", Content_Usage="train-ai=n")
    routes = {
        "a.example/robots.txt": answer(b"User-agent: *\nContent-Signal: search=yes, ai-train=no"),
        "a.example/p": answer(
            b'<meta name=robots content=noimageai><img src="//b.example/1.png" alt="a red fox">',
            X_Crawl_Opt_Out="a forged one",
        ),
        "b.example/1.png": shown,
    }
    with serving(routes) as site:
        reach = Web(connect_to={"*.example": f"127.0.0.1:{site.port}"}, obey_opt_out=False)
        output = ShardOutput(Context(tmp_path).store, "00000")
        crawling = crawl.Config(seeds=["http://a.example/p"], web=reach)
        work(Shard("00000", [(0, Due("http://a.example/p", 0))], crawling), output)
        (page,) = Reader(io.BytesIO((tmp_path / "data/00000.warc.gz").read_bytes()), 1 << 20)
        (row,), _ = page_rows(page, extract.Config(obey_opt_out=False))

        async def outcome():
            with Spool() as spool:
                async with Downloader(download.Config(web=reach)) as downloader:
                    return await (await downloader.start([row.url], spool))[0]

        found = asyncio.run(outcome())
    assert row.opt_out == "robots.txt: Content-Signal: search=yes, ai-train=no; meta robots: noimageai"
    assert (found.reason, found.image_opt_out) == (None, "Content-Usage: train-ai=n")


@pytest.mark.parametrize(
    ("value", "withheld"),
    [
        ("train-ai=n", True),
        ("train-ai=?0", True),
        ('train-ai="n"', True),
        ("search=y , TRAIN-AI = N", True),
        ("ai-train=no;search=yes", True),
        ("use=reference", True),
        ("tdm=n", True),
        ("train-genai=n", True),
        ("ai-input=no", False),
        ("search=n", False),
        ("train-ai", False),
        ("train-ai=maybe", False),
        ("use=full, ai-train=yes", False),
        ("", False),
    ],
)
def test_preferences(value, withheld):
    assert withholds_training(value) is withheld


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ("<rsl/>", ""),
        ("<html><body>Not found</body></html>", "not readable: no RSL"),
        ("License: none", "not readable: no RSL"),
        ("", "not readable: no RSL"),
        ('<!DOCTYPE rsl [<!ENTITY a "b">]><rsl/>', "not readable: no RSL"),
        ("<rsl>" + "<a>" * 50, "not readable: no RSL"),
        ('<r:rsl xmlns:r="https://rslstandard.org/rsl"><r:content url="/"><r:license>'
         '<r:prohibits type="usage">all</r:prohibits></r:license></r:content></r:rsl>', "prohibits all"),
        ('<rsl><content url="/" server="https://l.example/"><license/></content></rsl>', "a licence server"),
        # Either of two licences may be chosen, and one is free.
        ('<rsl><content url="/"><license><payment type="crawl"/></license><license><permits>ai-train</permits>'
         "</license></content></rsl>", ""),
        # The longest path holds, as in robots.txt; addresses in full are matched as such.
        ('<rsl><content url="/"><license><prohibits>ai-all</prohibits></license></content>'
         '<content url="/art/"><license><permits>ai-train</permits></license></content></rsl>', ""),
        ('<rsl><content url="http://a.example/art/*"><license><payment type="use"/></license></content></rsl>',
         "payment use"),
        ('<rsl><content url="http://b.example/*"><license><payment type="use"/></license></content></rsl>', ""),
    ],
)  # fmt: skip
def test_terms(terms, why):
    assert Terms.parse(200, terms.encode()).refusal(URL) == why


SNIPPETS = st.sampled_from(
    ["User-agent: *", "User-agent: GPTBot", "Content-Signal: ", "Content-Usage: /a ", "ai-train=no", "License: x", "\n",
     "Disallow: *.jpg", "datatrainingallowed=no", "<rsl>", "<content>", "#", "=", ",", "\x00", "\xa0", "é"]
)  # fmt: skip


@given(st.lists(SNIPPETS, max_size=20).map("".join))
def test_any_text_is_read_as_any_file(text):
    body = text.encode()
    assert isinstance(RobotsRules.parse(200, body).opt_out(URL), str)
    for parse in (Terms.parse, AiTxt.parse, TrustTxt.parse):
        assert isinstance(parse(200, body).refusal(URL), str)
        assert parse(404, body).refusal(URL) in ("", "not readable: 404")


@pytest.mark.parametrize("mark", ["\x01", "\x1b[2J", "\u202e"])
def test_no_recorded_word_holds_what_a_terminal_obeys(mark):
    said = quoted("X-Robots-Tag", f"noai,{mark}max-image-preview: large")
    assert said.isprintable() and said.startswith("X-Robots-Tag: noai,?")
    assert FetchError(Drop.OPT_OUT, f"robots{mark}txt").detail.isprintable()
