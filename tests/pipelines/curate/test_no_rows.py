"""Stages that get nothing, one row, or keep nothing: an artifact that says so, which the next stage takes."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.errors import DataError
from infra.formats.shards import read_samples
from infra.formats.testset import EvalSet
from infra.run.context import Context
from pipelines import download
from pipelines.curate import balance, dedup, shard, textdedup
from pipelines.curate import filter as filtering
from pipelines.curate.filter.rules import TextWords
from pipelines.tables import read_table
from training import train


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


def curated(finished, images, least_words: int) -> dict:
    """Every stage of curation on ``images``; captions of fewer words are dropped."""
    filter_config = filtering.Config(rules=(TextWords(min=least_words),))
    kept = finished(filtering.run, filter_config, {"images": images})
    unique = finished(dedup.run, dedup.Config(), {"images": images, "selection": kept})
    plain = finished(dedup.run, dedup.Config(near=False), {"images": images, "selection": kept})
    texts = finished(textdedup.run, textdedup.Config(), {"images": images, "selection": unique})
    balanced = finished(balance.run, balance.Config(min_count=1), {"selection": texts})
    shards = finished(shard.run, shard.Config(), {"images": images, "selection": balanced})
    same = {"dedup": unique, "dedup near=false": plain, "textdedup": texts, "balance": balanced, "shard": shards}
    return {"filter": kept, **same}


def numbers(artifacts) -> dict:
    funnels = {name: artifact.manifest.funnel for name, artifact in artifacts.items()}
    return {name: (funnel.entered, funnel.kept) for name, funnel in funnels.items()}


def samples(shards) -> int:
    total = 0
    for file in shards.files("data/", ".tar"):
        with shards.store.open(file.path) as source:
            total += len(list(read_samples(source)))
    return total


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # raised inside Ray Train
def test_no_row_at_all(ray_cluster, pairs_artifact, finished, tmp_path):
    images = finished(download.run, download.Config(), {"pairs": pairs_artifact([])})
    assert (images.manifest.funnel.entered, images.manifest.funnel.kept) == (0, 0)
    again = finished(download.run, download.Config(retry=["timeout"]), {"images": images})
    assert again.manifest.funnel.entered == 0
    artifacts = curated(finished, images, least_words=0)
    assert set(numbers(artifacts).values()) == {(0, 0)}
    assert json.loads(artifacts["shard"].read("data/train/sizes.json")) == {}
    assert artifacts["shard"].read("data/holdout/test/nshards.txt") == b"0"
    # What learns from them says clearly that there is nothing to learn from.
    with pytest.raises(DataError, match="holds no shards") as caught:
        train.run(train.Config(samples=8, batch_size=8), {"shards": artifacts["shard"]}, Context(tmp_path / "train"))
    assert caught.value.found == "nothing: no image was kept"
    with pytest.raises(DataError, match="test set 'holdout' is empty"):
        list(EvalSet.open(artifacts["shard"], "holdout", "test"))


@pytest.mark.parametrize("rows", [1, 3])
def test_all_rows_dropped(ray_cluster, images_artifact, finished, rows):
    """Files of kept rows are there, without rows in them; three rows are two shards."""
    images = images_artifact([(f"a caption {number}", noise(number)) for number in range(rows)], per_shard=2)
    found = curated(finished, images, least_words=99)
    assert numbers(found).pop("filter") == (rows, 0)
    assert {name: pair for name, pair in numbers(found).items() if name != "filter"} == dict.fromkeys(
        ("dedup", "dedup near=false", "textdedup", "balance", "shard"), (0, 0)
    )
    assert samples(found["shard"]) == 0
    kept = read_table(found["dedup"].store, "data/kept-00000.parquet")
    assert kept.num_rows == 0
    assert kept.schema.field("phash").type == pa.string()


def test_some_shards_without_a_row(ray_cluster, images_artifact, finished):
    captions = ["one", "two", "now three words", "four", "four words and one"]
    images = images_artifact([(text, noise(number)) for number, text in enumerate(captions)], per_shard=2)
    found = curated(finished, images, least_words=3)
    assert numbers(found) == {"filter": (5, 2)} | dict.fromkeys(
        ("dedup", "dedup near=false", "textdedup", "balance", "shard"), (2, 2)
    )
    assert samples(found["shard"]) == 2


def test_one_row(ray_cluster, images_artifact, finished):
    found = curated(finished, images_artifact([("a single picture", noise(0))]), least_words=1)
    assert set(numbers(found).values()) == {(1, 1)}
    assert samples(found["shard"]) == 1


def test_images_of_which_none_came(ray_cluster, images_artifact, finished):
    """A download whose every row failed has a shard with a table and an empty tar."""
    found = curated(finished, images_artifact([("a caption", None), ("another", None)]), least_words=0)
    assert set(numbers(found).values()) == {(0, 0)}
