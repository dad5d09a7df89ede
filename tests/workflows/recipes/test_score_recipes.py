"""Recipes that score a pool: a filtering network, and the example of docs/scores.md with a score of its own."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from running import QUIET, clipline_alone, manifest, run
from small_clip import MODEL, encoded, scene, write_model

from infra.formats.shards import TarWriter
from tests.pipelines import surprising
from workflows.recipe import load

DOCS = Path(__file__).parents[3] / "docs/scores.md"


def download(folder: Path, numbers: range) -> Path:
    """Scenes in img2dataset's layout, and their tar as trusted shards beside it."""
    folder.mkdir()
    records = []
    with (folder / "00000.tar").open("wb") as sink, TarWriter(sink) as out:
        for number in numbers:
            caption, image = scene(number, 64)
            data, key = encoded(image), f"{number:09d}"
            out.add(f"{key}.jpg", data)
            out.add(f"{key}.txt", caption.encode())
            sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), 64)
            known = {"sha256": hashlib.sha256(data).hexdigest(), "similarity": number / 100, "status": "success"}
            records.append({"url": f"https://a.example/{key}.jpg", "key": key, "caption": caption} | sizes | known)
    pq.write_table(pa.Table.from_pylist(records), folder / "00000.parquet")
    return folder


def test_the_example_of_the_docs_is_this_recipe():
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert example == Path(surprising.__file__).read_text()


def test_a_users_score_in_a_recipe_file(ray_cluster, tmp_path):
    images = download(tmp_path / "images", range(40))
    model = write_model(tmp_path / "model")
    folders = run(surprising.__file__, tmp_path / "root", clipline_alone, images=images, model=model, keep=0.5)
    table = pq.read_table(next((folders["score"] / "data").glob("kept-*.parquet")))
    assert {"clip_score", "surprise", "similarity"} <= set(table.column_names)
    assert manifest(folders["filter"])["funnel"]["dropped"]["score_clip_score"] == 20


@QUIET
def test_a_filtering_network_keeps_the_best_of_the_pool(ray_cluster, tmp_path):
    trusted = download(tmp_path / "trusted", range(64))
    pool = download(tmp_path / "pool", range(100, 160))
    small = json.dumps(MODEL)
    folders = run(
        "dfn", tmp_path / "root", trusted=trusted, images=pool, keep=0.25, network=small, model=small, batch_size=8,
        network_samples=64, samples=64, shard__holdout_fraction=0.3,
    )  # fmt: skip
    scored = pq.read_table(folders["score"] / "data/kept-00000.parquet")
    kept = pq.read_table(folders["filter"] / "data/kept-00000.parquet")
    best = sorted(zip(scored["clip_score"].to_pylist(), scored["key"].to_pylist(), strict=True))[-15:]
    assert sorted(kept["key"].to_pylist()) == sorted(key for _, key in best)
    assert manifest(folders["score"])["identity"]["inputs"]["embeddings"].startswith(folders["embed"].name)
    assert {"network", "train", "retrieval"} <= set(folders)


def test_dfn_plans_with_a_gpu():
    workflow = load("dfn").build(["trusted=/tmp", "images=/tmp", "gpu=true"])
    assert workflow["embed"].config.limits.gpus == 1
