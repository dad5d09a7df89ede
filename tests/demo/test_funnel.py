"""The real stages on the real (embedded) web: every page and every picture ends exactly where the plan says."""

from __future__ import annotations

from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.context import Context
from infra.manifest import MANIFEST, Artifact
from pipelines import balance, crawl, dedup, download, extract, fetch, filter, rules
from workflows.demo import plan, scenes, site, truth

SCENES = 60


@pytest.fixture(scope="module")
def web():
    return plan.build(SCENES)


@pytest.fixture(scope="module")
def fetcher():
    with site.serve(SCENES) as address:
        yield fetch.Web(connect_to={"*.example": address}, deadline_s=3, retry_s=0.05, host_concurrency=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("funnel")


def finish(folder, stage, run, config, inputs):
    context = Context(folder / stage, stage=stage)
    manifest = run(config, inputs, context)
    context.store.write(MANIFEST, manifest.to_bytes())
    return Artifact.load(context.store)


def tables(artifact, prefix, suffix=".parquet"):
    found = [pq.read_table(f"{artifact.store.url}/{file.path}") for file in artifact.files(f"data/{prefix}", suffix)]
    return pa.concat_tables(found).to_pylist() if found else []


@pytest.fixture(scope="module")
def crawled(ray_cluster, folder, fetcher):
    config = crawl.Config(
        seeds=plan.SEEDS, allowed_hosts=plan.HOSTS, max_depth=plan.MAX_DEPTH, max_pages=10_000, web=fetcher
    )
    return finish(folder, "crawl", crawl.run, config, {})


def test_crawl(crawled, web):
    rows = [*tables(crawled, "", ".urls.parquet"), *tables(crawled, "unvisited")]
    found = {row["url"]: row["reason"] for row in rows}
    assert len(found) == len(rows)
    assert found == {url: reason and reason.value for url, reason in truth.crawled(web).items()}
    assert crawled.manifest.funnel.dropped == Counter(reason for reason in found.values() if reason)


@pytest.fixture(scope="module")
def extracted(folder, crawled):
    return finish(folder, "extract", extract.run, extract.Config(), {"pages": crawled})


@pytest.fixture(scope="module")
def downloaded(folder, fetcher, extracted):
    config = download.Config(image_size=96, min_image_size=32, max_aspect_ratio=8, web=fetcher, samples_per_shard=100)
    return finish(folder, "download", download.run, config, {"pairs": extracted})


@pytest.fixture(scope="module")
def filtered(folder, downloaded):
    config = filter.Config(rules=(rules.ImageSide(min=64), *rules.BASIC[1:]))
    return finish(folder, "filter", filter.run, config, {"images": downloaded})


def outcomes(rows):
    """(page, source, text) -> reasons; a bad address is kept as written, so the address is checked where it is good."""
    found = defaultdict(list)
    for row in rows:
        found[row["page_url"], row["source"] or "", row["caption"]].append(row["reason"])
    return found


def expected(web, *stages):
    """What the plan says of the rows that enter the first of ``stages``, as far as these stages decide."""
    found = defaultdict(list)
    for row in truth.rows(web):
        if not row.stage or truth.STAGES.index(row.stage) >= truth.STAGES.index(stages[0]):
            found[row.page, row.source, row.text].append(row.reason.value if row.stage in stages else None)
    return found


def test_extract(extracted, web):
    kept = [{**row, "reason": None} for row in tables(extracted, "pairs")]
    assert outcomes([*kept, *tables(extracted, "dropped")]) == expected(web, "extract")
    known = {(row.page, row.source, row.text, row.url) for row in truth.rows(web)}
    assert {(row["page_url"], row["source"], row["caption"], row["url"]) for row in kept} <= known
    assert extracted.manifest.funnel == truth.funnels(web)["extract"]


def test_download(downloaded, web):
    assert outcomes(tables(downloaded, "")) == expected(web, "download")
    assert downloaded.manifest.funnel == truth.funnels(web)["download"]
    sides = {picture.url: (picture.width, picture.height) for picture in web.pictures.values()}
    for row in tables(downloaded, ""):
        if row["reason"] is None:
            assert (row["original_width"], row["original_height"]) == sides[row["url"]]


def test_filter(filtered, web):
    kept = [{**row, "reason": None} for row in tables(filtered, "kept-")]
    assert outcomes([*kept, *tables(filtered, "dropped-")]) == expected(web, "filter")
    assert filtered.manifest.funnel == truth.funnels(web)["filter"]


@pytest.fixture(scope="module")
def deduplicated(folder, downloaded, filtered):
    return finish(folder, "dedup", dedup.run, dedup.Config(), {"images": downloaded, "selection": filtered})


def test_dedup(deduplicated, web):
    """Of each scene one row stays, of the largest file; which of several like it is the stage's own choice."""
    rows = [row for row in truth.rows(web) if row.stage in ("", "dedup", "balance")]
    scene_of = {row.url: row.scene for row in rows}
    file_of = {row.url: row.file for row in rows}
    kept, dropped = tables(deduplicated, "kept-"), tables(deduplicated, "dropped-")
    assert deduplicated.manifest.funnel == truth.funnels(web)["dedup"]
    assert sorted(scene_of[row["url"]] for row in kept) == sorted({row.scene for row in rows})
    originals = {row["uid"]: row for row in kept}
    for row in dropped:
        original = originals[row["duplicate_of"]]
        assert scene_of[original["url"]] == scene_of[row["url"]]
        assert original["original_width"] >= row["original_width"]
        if row["reason"] == "near_duplicate":
            assert file_of[original["url"]] != file_of[row["url"]]


def test_balance(folder, deduplicated, web):
    config = balance.Config(metadata=(*scenes.SHAPES, *scenes.COLOURS))
    balanced = finish(folder, "balance", balance.run, config, {"selection": deduplicated})
    assert balanced.manifest.funnel == truth.funnels(web)["balance"]
    assert {row["caption"] for row in tables(balanced, "dropped-")} <= set(plan.VAGUE)
