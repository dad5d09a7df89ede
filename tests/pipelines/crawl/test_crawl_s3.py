"""A crawl and the extraction of its pages with all artifacts in a bucket."""

import contextlib

from loopback import answer, serving

from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from infra.run.pieces import Records
from pipelines import crawl, extract
from pipelines.web import Web

PAGES = 7  # of each of two hosts, as a tree
PICTURES = '<img src="/{0}.jpg" alt="picture {0}"><img src="/logo.png" alt="the logo">'
SITE = {
    f"/{page or ''}": answer(
        "".join([PICTURES.format(page), *(f'<a href="/{2 * page + child}">on</a>' for child in (1, 2))]).encode()
    )
    for page in range(PAGES)
}


def test_in_a_bucket_it_is_what_it_is_on_disk(s3_url, tmp_path, monkeypatch):
    def run_shards(context, shards, work, limits, on_done=None):
        return Records(context.store, rest=[work(spec, ShardOutput(context.store, name)) for name, spec in shards])

    monkeypatch.setattr("pipelines.crawl.rounds.run_shards", run_shards)
    monkeypatch.setattr("pipelines.extract.stage.run_shards", run_shards)
    monkeypatch.setattr("pipelines.crawl.rounds._SMALL", -1)
    monkeypatch.setattr("pipelines.crawl.rounds.shared_limiter", lambda web: contextlib.nullcontext())
    kept = []
    with serving(SITE) as site:
        web = Web(connect_to={"*.example": f"127.0.0.1:{site.port}"}, retries=0)
        settings = {"shard_urls": 2, "partitions": 2, "warc_date": "2026-01-01T00:00:00Z"}
        config = crawl.Config(seeds=("http://a.example/", "http://b.example/"), web=web, **settings)
        for place in (s3_url, tmp_path):
            context = Context(f"{place}/crawl")
            pages = Artifact(context.store, crawl.run(config, {}, context))
            context = Context(f"{place}/extract")
            pairs = Artifact(context.store, extract.run(extract.Config(), {"pages": pages}, context))
            assert (pages.manifest.funnel.kept, pairs.manifest.funnel.kept) == (2 * PAGES, 2 * PAGES + 2)
            assert not [*pages.verify(), *pairs.verify()]
            kept.append([(one.manifest.to_bytes(), one.store.paths()) for one in (pages, pairs)])
    assert kept[0] == kept[1]
