"""Starting URLs of a crawl: lists in all formats, and sitemaps named by robots.txt."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopting import adopted
from loopback import answer, serving

from infra.errors import DataError, UsageError
from infra.run.context import Context, ShardOutput
from pipelines import crawl
from pipelines.crawl.config import Config
from pipelines.crawl.sources import inject, sources
from pipelines.urls.files import list_files
from pipelines.web import Web

URLS = ["http://a.example/1", "http://b.example/2"]


def listed(tmp_path, name, data):
    """Read a list: the rows found, and those refused."""
    (tmp_path / name).write_bytes(data)
    output = ShardOutput(Context(tmp_path / "out").store, "inject-list-0000")
    (source,) = sources(Config(), list_files([adopted(tmp_path / name, "url_list")]))[1].values()
    record = inject(source, output)
    tables = [pq.read_table(tmp_path / "out" / file.path) for file in record.files]
    found = pa.concat_tables(table for table in tables if "position" in table.column_names)
    return record, found.sort_by("position")["url"].to_pylist(), [t for t in tables if "reason" in t.column_names][-1]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.txt", "\n".join(URLS).encode()),
        ("x.txt.gz", gzip.compress("\n".join(URLS).encode())),
        ("x.csv", f'text,URL\n"a, b",{URLS[0]}\n"two\nlines",{URLS[1]}\n'.encode()),
    ],
)
def test_lists(tmp_path, name, data):
    assert listed(tmp_path, name, data)[1] == URLS


def test_a_list_of_a_million_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.crawl.sources._BATCH", 100)
    urls = [f"http://{n % 7}.example/{n}" for n in range(1050)]
    pq.write_table(pa.table({"text": urls, "URL": urls}), tmp_path / "x.parquet")
    record, found, _ = listed(tmp_path, "x.parquet", (tmp_path / "x.parquet").read_bytes())
    assert found == urls
    assert (record.facts["found"], len(record.files)) == (1050, 11)


def test_a_crawl_needs_a_start(tmp_path):
    with pytest.raises(UsageError, match="needs starting URLs"):
        crawl.run(Config(), {}, Context(tmp_path))


def test_a_table_without_urls_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no column"):
        listed(tmp_path, "x.csv", b"a,b\n1,2\n")


def test_malformed_urls_in_a_list_are_recorded(tmp_path):
    lines = [*URLS, "", "nonsense", "ftp://a.example/", "HTTP://A.example/1"]
    record, found, refused = listed(tmp_path, "x.txt", "\n".join(lines).encode() + b"\nhttp://\xff/")
    assert found == URLS
    dropped = {"bad_url": 2, "malformed_row": 1}
    assert record.funnel.to_json() == {"unit": "pages", "entered": 3, "kept": 0, "dropped": dropped}
    assert refused["reason"].to_pylist() == ["bad_url", "bad_url", "malformed_row"]


def test_sitemaps_of_a_host_are_read_by_one_task():
    config = Config(seeds=["http://a.example/x", "https://a.example/", "http://b.example/"], sitemaps=["robots"])
    near, far = sources(config)
    assert list(near) == ["inject-given"]
    (task,) = far.values()
    assert [start for _, start in task.starts] == [
        *("http://a.example/robots.txt", "https://a.example/robots.txt", "http://b.example/robots.txt"),
    ]


def links(*targets):
    return answer("".join(f'<a href="{target}">x</a>' for target in targets).encode())


SITE = {
    "a.example/robots.txt": answer(
        b"Sitemap: /map.xml\nSitemap: http://a.example/gone.xml\nUser-agent: *\nDisallow: /no"
    ),
    "a.example/map.xml": answer(
        b"<urlset><url><loc>http://a.example/1</loc></url><url><loc>http://off.example/</loc></url>"
        b"<url><loc>http://a.example/no</loc></url><url><loc>mailto:a@a.example</loc></url></urlset>",
        Content_Type="application/xml",
        X_Robots_Tag="noindex",
    ),
    "a.example/": links("/2"),
    **{f"a.example/{n}": links("/", "/3") for n in (1, 2, 3)},
    "b.example/list": links("/not-followed"),
    "b.example/old": answer(b"", "301 Moved", Location="http://c.example/new"),
    "c.example/new": links("/not-followed"),
}


def test_a_crawl_from_everything_at_once(ray_cluster, tmp_path):
    (tmp_path / "list.txt").write_text("http://b.example/old\nnonsense\nhttp://a.example/1\n")
    with serving(SITE) as site:
        web = Web(connect_to={"*.example": f"127.0.0.1:{site.port}"}, retries=0, host_concurrency=8)
        config = Config(
            seeds=["http://a.example/"], sitemaps=["robots"], pages=["http://b.example/list"], web=web,
        )  # fmt: skip
        page_list = adopted(tmp_path / "list.txt", "url_list")
        manifest = crawl.run(config, {"page_list": page_list}, Context(tmp_path / "crawl"))
    found = {}
    for path in (tmp_path / "crawl/data").glob("*.urls.parquet"):
        found |= {row["url"]: row["reason"] for row in pq.read_table(path).to_pylist()}
    assert found == {
        **dict.fromkeys([f"http://a.example/{n}" for n in ("", 1, 2, 3)]),
        **dict.fromkeys(["http://b.example/list", "http://c.example/new"]),
        "http://b.example/old": "redirected",
        "http://a.example/no": "robots_disallowed",
        "nonsense": "bad_url",
    }
    assert manifest.funnel.kept == 6
    assert manifest.facts["links_outside"] == {"off_site": 1}
    (path,) = (tmp_path / "crawl/data").glob("sitemaps-*.parquet")
    assert [(r["url"], r["reason"], r["urls"], r["refused"]) for r in pq.read_table(path).to_pylist()] == [
        ("http://a.example/map.xml", None, 3, 1),
        ("http://a.example/gone.xml", "http_error", 0, 0),
    ]
