"""The recipe ``filter_ablation``: every filter's models differ in what they are trained on, and in nothing else."""

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_clip import encoded

from infra.formats.shards import TarWriter
from infra.formats.vectors import write_vectors
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.tables import read_table
from workflows.recipe import load

SETS = ('classification=["seen"]', 'captions=["captions"]')


@pytest.fixture
def given(tmp_path):
    """Settings with folders that hold what they should, as far as planning looks."""
    files = {
        "images/00000.tar": b"",
        "images/00000.parquet": b"",
        "trusted/00000.tar": b"",
        "scorer.pt": b"",
        **{f"tests/{name}/test/{file}": b"1" for name in ("seen", "captions") for file in ("nshards.txt", "0.tar")},
    }
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return [f"images={tmp_path}/images", f"tests={tmp_path}/tests", *SETS, "seeds=2"]


def test_each_filter_is_trained_with_every_seed_and_evaluated_on_every_set(given, tmp_path):
    more = [f"scorer={tmp_path}/scorer.pt", f"trusted={tmp_path}/trusted"]
    workflow = load("filter_ablation").build([*given, *more])
    stages = {stage.name: stage for stage in workflow}
    filters = ("none", "random", "basic", "dedup", "balance", "clip_score", "semdedup", "dfn")
    compared = stages["compare"].config.variants
    assert tuple(compared) == filters and all(len(inputs) == 2 * 2 for inputs in compared.values())
    configs = [stages[f"train_{name}_{seed}"].config.identity() for name in filters for seed in range(2)]
    assert Counter(str(config) for config in configs) == {str(config): len(filters) for config in configs}
    assert len({stages[f"train_{name}_0"].digest for name in filters}) == len(filters)
    digests = [stage.digest for stage in workflow]
    assert len(set(digests)) == len(digests)  # nothing is done twice under two names


def test_without_a_model_to_score_there_are_five(given):
    compared = {stage.name: stage for stage in load("filter_ablation").build(given)}["compare"].config.variants
    assert tuple(compared) == ("none", "random", "basic", "dedup", "balance")


def pool_of_pairs(folder):
    """Twenty pictures in img2dataset's layout, each there twice under two captions."""
    folder.mkdir()
    records = []
    with (folder / "00000.tar").open("wb") as sink, TarWriter(sink) as out:
        for number in range(40):
            blocks = np.random.default_rng(number % 20).integers(0, 2, (4, 4, 3), np.uint8) * 255
            caption, image = f"blocks {number % 20}", Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST)
            key, data = f"{number:09d}", encoded(image)
            out.add(f"{key}.jpg", data)
            sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), 64)
            known = {"url": f"https://a.example/{key}.jpg", "key": key, "caption": f"{caption}, {number}"}
            records.append(known | sizes | {"sha256": hashlib.sha256(data).hexdigest(), "status": "success"})
    pq.write_table(pa.Table.from_pylist(records), folder / "00000.parquet")
    return folder


@pytest.mark.ray
def test_semdedup_makes_a_selection_of_the_pool(ray_cluster, given, tmp_path):
    """Its branch of the recipe, run on vectors of the pool: of pictures that are there twice one stays."""
    images, scorer = pool_of_pairs(tmp_path / "pool"), tmp_path / "scorer.pt"
    workflow = load("filter_ablation").build([f"images={images}", *given[1:], f"scorer={scorer}", "share=0.5"])
    stages, made = {stage.name: stage for stage in workflow}, {}

    def artifact(stage):
        if stage.name not in made:
            inputs = {name: artifact(source) for name, source in stage.inputs.items()}
            context = Context(tmp_path / "made" / stage.name, location=stage.config.location())
            made[stage.name] = Artifact(context.store, stage.run(stage.config, inputs, context))
        return made[stage.name]

    rows = read_table(artifact(stages["filter_none"]).store, "data/kept-00000.parquet")
    vectors = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)[np.arange(40) % 20]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    context = Context(tmp_path / "made/embed_clip_score")
    known = pa.table({"uid": rows["uid"], "captions": pa.array([0] * 40, pa.int32())})
    write_vectors(context.output, "00000", known, vectors, vectors[:0], "clip")
    made["embed_clip_score"] = Artifact(context.store, context.finish())

    found = artifact(stages["semdedup"])
    assert set(made) == {"images", "filter_none", "embed_clip_score", "semdedup"}
    assert found.manifest.funnel.dropped == {"semantic_duplicate": 20}
    tables = [read_table(found.store, file.path) for file in found.files("data/kept-", ".parquet")]
    kept = [digest for table in tables for digest in table["sha256"].to_pylist()]
    assert len(set(kept)) == len(kept) == 20
    assert stages["shard_semdedup"].inputs["selection"] is stages["semdedup"]
