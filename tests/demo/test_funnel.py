"""The quickstart's data stages on the real (embedded) web: every page and image ends exactly where it must."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.formats.shards import read_samples
from infra.run.context import Context
from infra.run.manifest import MANIFEST, Artifact
from tests.demo import truth
from workflows.demo import oddities, site, website
from workflows.demo.translations import TRANSLATIONS
from workflows.recipes import quickstart

IMAGES = 60
DATA = ("crawl", "extract", "download", "filter", "dedup", "balance", "shard")


@pytest.fixture(scope="module")
def web():
    return website.build(IMAGES)


@pytest.fixture(scope="module")
def artifacts(ray_cluster, tmp_path_factory):
    """Each data stage of the recipe, run one after the other, by name."""
    folder = tmp_path_factory.mktemp("funnel")
    done = {}
    with site.serve(IMAGES) as address:
        recipe = quickstart.workflow(images=IMAGES, port=int(address.rpartition(":")[2]))
        for stage in (recipe[name] for name in DATA):
            # Enough room for every caption: what balancing drops by lot cannot be foreseen.
            config = stage.config.replace(t=10_000) if stage.name == "balance" else stage.config
            context = Context(folder / stage.name, stage=stage.name)
            manifest = stage.run(config, {name: done[source.name] for name, source in stage.inputs.items()}, context)
            context.store.write(MANIFEST, manifest.to_bytes())
            done[stage.name] = Artifact.load(context.store)
    return done


def tables(artifact, prefix, suffix=".parquet"):
    found = [pq.read_table(f"{artifact.store.url}/{file.path}") for file in artifact.files(f"data/{prefix}", suffix)]
    return pa.concat_tables(found).to_pylist() if found else []


def outcomes(rows):
    """(page, source, text) -> reasons. Without the address, which for a bad one is kept as the page wrote it."""
    found = defaultdict(list)
    for row in rows:
        found[row["page_url"], row["source"] or "", row["caption"]].append(row.get("reason"))
    return found


def expected(web, stage):
    """The same of the rows that reach ``stage``, as planned."""
    found = defaultdict(list)
    for row in reaching(web, stage):
        found[row.page, row.source, row.text].append(row.reason.value if row.stage == stage else None)
    return found


def reaching(web, stage):
    return [row for row in truth.rows(web) if not row.stage or DATA.index(row.stage) >= DATA.index(stage)]


@pytest.mark.parametrize("stage", DATA[:-1])
def test_the_funnel_is_the_planned_one(artifacts, web, stage):
    assert artifacts[stage].manifest.funnel == truth.funnels(web)[stage]


def test_crawl(artifacts, web):
    rows = [*tables(artifacts["crawl"], "", ".urls.parquet"), *tables(artifacts["crawl"], "unvisited")]
    found = {row["url"]: row["reason"] for row in rows}
    assert len(found) == len(rows)
    assert found == {url: reason and reason.value for url, reason in truth.crawled(web).items()}
    assert artifacts["crawl"].manifest.funnel.dropped == Counter(reason for reason in found.values() if reason)


def test_extract(artifacts, web):
    kept, dropped = tables(artifacts["extract"], "pairs"), tables(artifacts["extract"], "dropped")
    assert outcomes([*kept, *dropped]) == expected(web, "extract")
    known = {(row.page, row.source, row.text, row.url) for row in truth.rows(web)}
    assert {(row["page_url"], row["source"], row["caption"], row["url"]) for row in kept} <= known


def test_download(artifacts, web):
    rows = tables(artifacts["download"], "")
    assert outcomes(rows) == expected(web, "download")
    sides = {image.url: (image.width, image.height) for image in web.images.values()}
    for row in rows:
        if row["reason"] is None:
            assert (row["original_width"], row["original_height"]) == sides[row["url"]]


def test_filter(artifacts, web):
    rows = [*tables(artifacts["filter"], "kept-"), *tables(artifacts["filter"], "dropped-")]
    assert outcomes(rows) == expected(web, "filter")


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_captions_without_spaces_reach_the_shards(artifacts, web, language):
    """Every one of them: read in its charset, kept by the filter, found to hold an entry."""
    pages = [page for page in web.pages.values() if page.language == language]
    texts = {text for page in pages for shown in page.shown for _, text in shown.texts}
    assert texts
    for stage in ("extract", "filter", "balance"):
        rows = tables(artifacts[stage], "pairs" if stage == "extract" else "kept-")
        assert texts <= {row["caption"] for row in rows}, stage
    assert {row["language"] for row in tables(artifacts["extract"], "pairs") if row["caption"] in texts} == {language}


def test_dedup(artifacts, web):
    """Of each scene one row stays, of the largest file; which of several like it is the stage's own choice."""
    rows = reaching(web, "dedup")
    scene_of = {row.url: row.scene for row in rows}
    file_of = {row.url: row.file for row in rows}
    kept, dropped = tables(artifacts["dedup"], "kept-"), tables(artifacts["dedup"], "dropped-")
    assert sorted(scene_of[row["url"]] for row in kept) == sorted({row.scene for row in rows})
    originals = {row["uid"]: row for row in kept}
    for row in dropped:
        original = originals[row["duplicate_of"]]
        assert scene_of[original["url"]] == scene_of[row["url"]]
        assert original["original_width"] >= row["original_width"]
        if row["reason"] == "near_duplicate":
            assert file_of[original["url"]] != file_of[row["url"]]


def test_balance(artifacts):
    assert {row["caption"] for row in tables(artifacts["balance"], "dropped-")} <= set(oddities.VAGUE)


def test_what_is_trained_on_is_one_good_caption_of_each_good_scene(artifacts, web):
    good = {(row.url, row.text): row.scene for row in truth.rows(web) if row.stage in ("", "dedup")}
    shards = artifacts["shard"]
    texts = []
    for file in shards.files("data/", ".tar"):
        with shards.store.open(file.path) as source:
            texts += [sample["txt"].decode() for sample in read_samples(source)]
    assert len(texts) == len(set(good.values()))
    assert set(texts) <= {text for _, text in good}


def test_the_recipe_loads_nothing_heavy():
    code = (
        "import sys; from workflows.recipes import quickstart; quickstart.workflow(); "
        "print(*{'ray', 'torch', 'numpy', 'cv2', 'pyarrow', 'aiohttp', 'PIL', 'mlflow'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not loaded.strip()


def test_the_port_changes_no_fingerprint_but_the_number_of_images_does():
    usual, elsewhere, larger = (quickstart.workflow(**parameters) for parameters in ({}, {"port": 1}, {"images": 3000}))
    assert [stage.digest for stage in usual] == [stage.digest for stage in elsewhere]
    assert usual["crawl"].digest != larger["crawl"].digest
