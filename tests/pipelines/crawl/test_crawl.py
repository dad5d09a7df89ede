"""The crawl stage: scope, shards, WARC output, budgets, and resumption."""

import io
import subprocess
import sys
import tracemalloc
from collections import Counter

import pyarrow.parquet as pq
import pytest
from fastwarc.warc import ArchiveIterator
from loopback import NOT_FOUND, answer, serving
from warcio.archiveiterator import ArchiveIterator as WarcioIterator
from warcio.cli import main as warcio_command

from infra.errors import ConfigError, StageFailed, UsageError
from infra.run import ledger, pieces
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from infra.store.spool import Spool
from pipelines import crawl
from pipelines.crawl import rounds
from pipelines.crawl.config import Config
from pipelines.crawl.frontier_tables import Due
from pipelines.crawl.scope import Scope, registered_domain
from pipelines.crawl.shard import Shard, Visit, Visitor, work
from pipelines.formats.warc import Reader, Writer
from pipelines.html.media import content_type, is_html
from pipelines.html.page import Html
from pipelines.web import Response, Web
from pipelines.web.fetcher import Fetcher

pytestmark = [pytest.mark.long, pytest.mark.alone]  # crawls

DATE = "2026-01-01T00:00:00Z"


def links(*targets, head=""):
    anchors = "".join(f'<a href="{target}">x</a>' for target in targets)
    return answer(f"<head>{head}</head>{anchors}".encode())


def moved(target):
    return answer(b"", "301 Moved", Location=target)


SITE = {
    "a.example/": links(
        "/1", "1#top", "/2?utm_source=x", "http://b.example/", "http://off.example/", "/i.png", "/gone"
    ),
    "a.example/1": links("/", "/3", "/robbed", "/pdf"),
    "a.example/2": links("/nofollow", "/old", "/away", "/self", "/r0", "/taken"),
    "a.example/3": links("/4"),
    "a.example/4": links("/5"),
    "a.example/5": links(),
    "a.example/nofollow": links("/hidden", head='<meta name="robots" content="nofollow">'),
    "a.example/old": moved("/new"),
    "a.example/new": links(),
    "a.example/away": moved("http://off.example/"),
    "a.example/self": moved("/self"),
    **{f"a.example/r{n}": moved(f"/r{n + 1}") for n in range(9)},
    "a.example/taken": answer(X_Robots_Tag="noai"),
    "a.example/robots.txt": answer(b"User-agent: *\nDisallow: /robbed"),
    "a.example/pdf": answer(b"%PDF", Content_Type="application/pdf"),
    "b.example/": links("http://a.example/1", "/deep"),
    "b.example/deep": links("/deeper"),
    "b.example/deeper": links("/deepest"),
    "b.example/deepest": links(),
}
FATES = {
    **dict.fromkeys(["/", "/1", "/2", "/3", "/4", "/nofollow", "/new"], None),
    "/gone": "http_error",
    "/robbed": "robots_disallowed",
    "/pdf": "not_html",
    "/old": "redirected",
    "/away": "off_site_redirect",
    "/self": "refused_address",
    "/taken": "opt_out",
    **{f"/r{n}": "redirected" for n in range(5)},
    "/r5": "refused_address",
    "/5": "over_budget",
}


def config(site=None, **changes):
    reach = {"connect_to": {"*.example": f"127.0.0.1:{site.port}"}} if site else {}
    web = Web(**reach, retries=0, host_concurrency=8)
    return Config(**{"seeds": ["http://a.example", "http://b.example"], "warc_date": DATE, "web": web, **changes})


def outcomes(folder):
    found = {}
    for path in sorted((folder / "data").glob("*.urls.parquet")) + sorted(
        (folder / "data").glob("unvisited-*.parquet")
    ):
        for row in pq.read_table(path).to_pylist():
            assert row["url"] not in found
            found[row["url"]] = row["reason"]
    return found


# --- the parts ---


@pytest.mark.parametrize(
    ("types", "body", "reason"),
    [
        ("text/html", b"", None),
        ("TEXT/HTML;charset=utf-8", b"x", None),
        ("application/xhtml+xml", b"<html>", None),
        ("html", b"<!doctype html>", None),  # no type, so the first bytes decide
        ("*/*", b"<p>x", None),
        ([], b"\xef\xbb\xbf\n<!-- x --><html>", None),
        (["application/pdf", "text/html"], b"x", None),  # the last counts
        ("application/pdf, text/html", b"x", None),
        (["text/html", "application/pdf"], b"<html>", "not_html"),
        ("text/plain", b"<html>", "not_html"),
        ("html", b"%PDF", "not_html"),
        ([], b"GIF89a", "not_html"),
    ],
)
async def test_a_page_is_what_browsers_take_for_one(types, body, reason):
    """And what extraction takes for one: a crawl that keeps it has no reader that drops it."""
    with serving({"a.example/": answer(body, Content_Type=types)}) as site, Spool() as spool:
        settings = config(site)
        async with Fetcher(settings.web) as fetcher, Visitor(settings, fetcher, spool) as visitor:
            seen = await visitor.visit(0, Due("http://a.example/", 0))
    assert seen.reason == reason
    headers = [("Content-Type", kind) for kind in (types if isinstance(types, list) else [types])]
    assert is_html(content_type(headers), body) is (reason is None)


def test_scope():
    scope = Scope(Config(seeds=["http://www.a.example/x"], include=["/x", "/y"], exclude=["logout"]))
    assert scope.outside("http://a.example/x") == scope.outside("http://www.a.example/y") == ""
    assert scope.outside("http://b.example/x") == "off_site"
    assert scope.outside("http://a.example/x.JPG?size=3") == "image"
    assert scope.outside("http://a.example/z") == "not_included"
    assert scope.outside("http://a.example/x/logout") == "excluded"
    wide = Scope(Config(seeds=["http://a.example/"], allowed_hosts=["*.b.example"]))
    assert wide.outside("http://c.b.example/") == ""
    assert wide.outside("http://a.example/") == "off_site"


def test_scope_by_registered_domain():
    domains = {
        "www.bbc.co.uk": "bbc.co.uk",
        "a.b.example.org": "example.org",
        "me.github.io": "me.github.io",
        "x.y.b.example": "b.example",
        "127.0.0.1": "127.0.0.1",
        "localhost": "localhost",
        "github.io": "github.io",
    }
    assert {host: registered_domain(host) for host in domains} == domains
    scope = Scope(Config(seeds=["http://www.a.example/"], scope="domain"))
    assert [scope.outside(f"http://{host}/") for host in ("a.example", "x.a.example", "b.example")] == [
        "",
        "",
        "off_site",
    ]
    assert Scope(Config(seeds=["http://www.a.example/"], scope="any")).outside("http://b.test/") == ""


def test_config_refuses_malformed_urls_patterns_and_instants():
    for wrong in (
        {"seeds": ["ftp://a.example/"]},
        {"sitemaps": ["robots"], "seeds": []},
        {"exclude": ["("]},
        {"warc_date": "yesterday"},
    ):
        with pytest.raises(ConfigError):
            Config(**{"seeds": ["http://a.example/"], **wrong})
    with pytest.raises(UsageError, match="needs starting URLs"):
        Config(seeds=[]).check_inputs(())
    assert Config(seeds=[], pages=["x"]).pages == ("x",)
    assert Config(seeds=["HTTP://A.example", "http://a.example/#x"]).seeds == ("http://a.example/",)


def test_links_of_a_page():
    page = Html.parse(
        "http://a.example/x/y",
        [],
        b"""<base href="/z/"><a href=" 1 ">a</a><a href="?q">b</a><area href="1#f"><a href="#top">t</a>
        <a href="mailto:a@b">m</a><a rel="x NoFollow" href="2">n</a><iframe src="//b.example/3"></iframe><a>no</a>
        <meta http-equiv="Refresh" content="5; URL='4'">""",
    )
    assert list(dict.fromkeys(filter(None, map(page.resolve, page.targets)))) == [
        *("http://a.example/z/1", "http://a.example/z/?q", "http://b.example/3", "http://a.example/z/4"),
    ]


# --- a shard ---


def test_a_page_that_nobody_foresaw_costs_itself(tmp_path, monkeypatch):
    real = Html.parse.__func__

    def parse(cls, url, *rest):
        return real(cls, url, *rest) if "2" not in url else {}["no such key"]

    monkeypatch.setattr(Html, "parse", classmethod(parse))
    with serving({f"/{number}": links("/x") for number in range(1, 4)}) as site:
        rows = [(number, Due(f"http://a.example/{number}", 0)) for number in range(1, 4)]
        record = work(Shard("0000-000", rows, config(site)), ShardOutput(Context(tmp_path).store, "0000-000"))
    found = pq.read_table(tmp_path / "data/0000-000.urls.parquet").to_pylist()
    assert [(row["reason"], row["detail"]) for row in found] == [
        (None, None),
        ("unforeseen_error", "KeyError in parse"),
        (None, None),
    ]
    assert record.funnel.dropped == {"unforeseen_error": 1} and record.facts["unforeseen"] == {"KeyError in parse": 1}


def test_only_as_many_links_as_are_followed_are_made_absolute(monkeypatch):
    """Of a page of short links and a long base, all together would be a thousand times its size."""
    anchors = "".join(f"<a href={n}></a><a href='#'></a>" for n in range(100_000))
    page = f"<base href='http://a.example/{'b' * 3900}/'>{anchors}"
    made = []
    real = Html.resolve
    monkeypatch.setattr(Html, "resolve", lambda html, target: made.append(target) or real(html, target))
    visitor = Visitor(Config(seeds=["http://a.example/"], max_links=50), None, None)
    seen = Visit(0, Due("http://a.example/", 0))
    tracemalloc.start()
    visitor._parse(seen, Response("http://a.example/", 200, [("Content-Type", "text/html")], page.encode()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [link.due.url.rpartition("/")[2] for link in seen.found] == [str(number) for number in range(50)]
    assert made == [str(number) for number in range(50)] and seen.outside == {"too_many": 99_950}
    assert peak < 300 << 20


def test_a_shard_keeps_pages_that_two_readers_read(tmp_path):
    routes = {
        "/": answer("<p>grüße".encode(), X_Odd=["1", "2"], Date="Thu, 01 Jan 1970 00:00:00 GMT"),
        "/x?y=1": links("/"),
    }
    with serving(routes) as site:
        rows = [
            (0, Due("http://a.example/", 0)),
            (1, Due("http://a.example/none", 0)),
            (2, Due("http://a.example/x?y=1", 0)),
        ]
        for folder in ("one", "two"):
            output = ShardOutput(Context(tmp_path / folder).store, "0000-000")
            record = work(Shard("0000-000", rows, config(site)), output)
    assert record.funnel.to_json() == {"unit": "pages", "entered": 3, "kept": 2, "dropped": {"http_error": 1}}
    data = (tmp_path / "one/data/0000-000.warc.gz").read_bytes()
    assert data == (tmp_path / "two/data/0000-000.warc.gz").read_bytes()

    records = [
        (r.rec_type, r.rec_headers, r.http_headers, r.content_stream().read()) for r in WarcioIterator(io.BytesIO(data))
    ]
    assert [kind for kind, *_ in records] == ["warcinfo", "response", "request", "response", "request"]
    _, about, http, body = records[1]
    assert body.decode() == "<p>grüße"
    assert about.get_header("WARC-Target-URI") == "http://a.example/"
    assert about.get_header("WARC-Date") == DATE
    assert http.get_header("Date") == "Thu, 01 Jan 2026 00:00:00 GMT"
    assert [value for name, value in http.headers if name == "X-Odd"] == ["1", "2"]
    assert records[2][1].get_header("WARC-Concurrent-To") == about.get_header("WARC-Record-ID")
    assert records[4][2].protocol == "GET" and "/x?y=1" in records[4][2].statusline
    assert len({about.get_header("WARC-Record-ID") for _, about, *_ in records}) == 5
    assert all(r.verify_block_digest() for r in ArchiveIterator(io.BytesIO(data), parse_http=False))
    assert [page.url for page in Reader(io.BytesIO(data), 1 << 20)] == ["http://a.example/", "http://a.example/x?y=1"]
    with pytest.raises(SystemExit) as verdict:
        warcio_command(["check", str(tmp_path / "one/data/0000-000.warc.gz")])
    assert verdict.value.code == 0


def test_a_header_cannot_forge_a_record():
    sink = io.BytesIO()
    warc = Writer(sink, "x.warc.gz", DATE, {})
    warc.page(
        "http://a.example/", DATE, 299, [("X-A", "1\r\nX-B: 2\r\n\r\nWARC/1.1"), ("Content-Encoding", "gzip")], b"b", []
    )
    response = list(WarcioIterator(io.BytesIO(sink.getvalue())))[1]
    assert response.http_headers.headers == [
        *(("X-A", "1 X-B: 2 WARC/1.1"), ("X-Crawl-Content-Encoding", "gzip"), ("Content-Length", "1")),
    ]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("text/html; charset=\udcff\udcffutf-8", "text/html; charset=%FF%FFutf-8"),  # bytes that are no UTF-8
        ("text/html;\udcffrset=utf-8", "text/html;%FFrset=utf-8"),
        ("text/html; title=größe", "text/html; title=gr%C3%B6%C3%9Fe"),
    ],
)
def test_headers_beyond_ascii_are_stored_and_the_page_is_read_back(value, stored):
    sink = io.BytesIO()
    Writer(sink, "x.warc.gz", DATE, {}).page("http://a.example/", DATE, 200, [("Content-Type", value)], b"<p>", [])
    (page,) = Reader(io.BytesIO(sink.getvalue()), 1 << 20)
    assert (page.content_type, page.body) == (stored, b"<p>")


# --- the whole ---


class Stopped(Exception):
    pass


@pytest.mark.parametrize("piece", [pieces.PIECE, 2])
def test_a_crawl_accounts_for_every_url_and_continues_wherever_it_was_stopped(
    ray_cluster, tmp_path, monkeypatch, piece
):
    for module in (pieces, ledger, rounds):
        monkeypatch.setattr(module, "PIECE", piece)
    with serving(SITE) as site:
        settings = config(site, max_depth=3, shard_urls=4)
        first = crawl.run(settings, {}, Context(tmp_path / "one"))
        assert not (tmp_path / "one/frontier").exists()

        commit = ShardOutput.commit
        site.asked.clear()

        def fatal(output, *args, **facts):
            commit(output, *args, **facts)
            raise Stopped

        monkeypatch.setattr(ShardOutput, "commit", fatal)
        for _ in range(100):  # the driver dies behind every commit it makes itself, having got a step further each time
            try:
                second = crawl.run(settings, {}, Context(tmp_path / "two"))
                break
            except Stopped:
                pass
    asked = Counter(site.asked)
    assert all(count == 1 for url, count in asked.items() if not url.endswith("robots.txt"))
    assert second.to_bytes() == first.to_bytes()

    found = outcomes(tmp_path / "one")
    fates = {f"http://a.example{path}": fate for path, fate in FATES.items()}
    fates |= dict.fromkeys(f"http://b.example/{path}" for path in ("", "deep", "deeper", "deepest"))
    assert found == fates
    assert first.funnel.kept == sum(fate is None for fate in fates.values())
    assert first.funnel.dropped == Counter(fate for fate in fates.values() if fate)
    assert first.facts == {"links_outside": {"image": 1, "off_site": 1}}
    assert bool(first.pieces) == (piece == 2)
    assert all(file.path.startswith("data/") for file in Artifact(Context(tmp_path / "one").store, first).files())


def test_the_page_budget_is_exact(ray_cluster, tmp_path):
    with serving(SITE) as site:
        manifest = crawl.run(config(site, max_pages=6, round_urls=4), {}, Context(tmp_path))
    assert manifest.funnel.kept == 6
    assert manifest.funnel.dropped["over_budget"] == sum(
        reason == "over_budget" for reason in outcomes(tmp_path).values()
    )


def test_a_crawl_that_hardly_gets_a_response_stops_and_its_next_run_retries(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.crawl.rounds._FLOOR_URLS", 4)
    pages = [f"http://{host}.example/{n}" for n in range(3) for host in "ab"]
    routes = {f"{host}.example/robots.txt": NOT_FOUND for host in "ab"}
    with serving(routes) as site:
        settings = config(site, seeds=[], pages=pages, shard_urls=3, min_success_share=0.5)
        with pytest.raises(StageFailed, match="only 0 of 6"):
            crawl.run(settings, {}, Context(tmp_path))
        site.routes |= {f"{host}.example/{n}": links() for n in range(3) for host in "ab"}
        assert crawl.run(settings, {}, Context(tmp_path)).funnel.kept == 6


@pytest.mark.parametrize(
    ("routes", "seed", "said"),
    [
        ({}, "http://127.0.0.1:9/", ("refused_address 1", "allow_private=", "connect_to=")),
        ({}, "http://localhost:9/", ("refused_address 1", "allow_private=", "connect_to=")),
        ({"/robots.txt": answer(b"User-agent: *\nDisallow: /")}, "http://a.example/", ("robots_disallowed 1",)),
        ({}, "http://a.example/x", ("http_error 1 (404)", "status codes")),
        ({}, "http://no-such-host.invalid/", ("connection_failed 1 (robots.txt: the host's name does not resolve)",)),
        ({"/robots.txt": answer(b"Content-Signal: ai-train=no")}, "http://a.example/",
         ("opt_out 1 (robots.txt: Content-Signal: ai-train=no)", "opted out")),
        ({"/x": moved("http://127.0.0.1:9/")}, "http://a.example/x", ("refused_address 1 (redirect to an address",)),
    ],
    ids=["private", "localhost", "robots", "404", "dns", "opt-out", "redirect"],
)  # fmt: skip
def test_a_crawl_without_a_page_fails_with_the_reasons_and_begins_anew(ray_cluster, tmp_path, routes, seed, said):
    with serving(routes) as site:
        settings = config(site, seeds=[seed])
        with pytest.raises(StageFailed, match="none of 1 addresses") as caught:
            crawl.run(settings, {}, Context(tmp_path))
        assert all(words in str(caught.value) for words in said), str(caught.value)
        if "a.example" in seed:
            site.routes |= {"/robots.txt": NOT_FOUND, seed.removeprefix("http://a.example"): links()}
            assert crawl.run(settings, {}, Context(tmp_path)).funnel.kept == 1


def test_a_sitemap_that_cannot_be_read_is_a_reason(ray_cluster, tmp_path):
    with serving({}) as site, pytest.raises(StageFailed, match=r"http_error 1 \(404\)"):
        crawl.run(config(site, seeds=[], sitemaps=["http://a.example/sitemap.xml"]), {}, Context(tmp_path))


def test_a_crawl_without_name_servers_says_so(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.web.health.look_up", lambda name: ([], -3))
    with pytest.raises(StageFailed, match="DNS resolver fails"):
        crawl.run(Config(pages=[f"http://{host}.test/" for host in "abcd"]), {}, Context(tmp_path))


def test_planning_a_crawl_loads_nothing_heavy():
    code = (
        "import sys; from pipelines import crawl, extract, urls, web;"
        "crawl.Config(seeds=['http://a.example/']).identity(); extract.Config().identity();"
        "heavy = {'aiohttp', 'pyarrow', 'numpy', 'ray', 'selectolax', 'fastwarc', 'warcio', 'ftfy', 'protego'};"
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
