"""Accuracy under corruptions, against the same images corrupted beforehand and saved as a test set."""

from __future__ import annotations

import io

import evaluation_samples as samples
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation import embed, evaluate
from evaluation.corruptions import Corruption, Corruptions
from evaluation.corruptions.pixels import corrupted
from evaluation.evaluate import work
from evaluation.tasks import Corrupted, ZeroShot
from infra.errors import ConfigError, DataError, UsageError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput
from workflows.recipe import load

pytestmark = pytest.mark.long  # a model


class UpsideDown(Corruption):
    """One of a user's own, without severities."""

    def corrupt(self, image, severity, random):
        return image[::-1]


CHANGES = Corruptions(kinds=("gaussian_noise", UpsideDown()), severities=(5, 1), side=32)
CONFIG = evaluate.Config(task=Corrupted(dataset="seen", corruptions=CHANGES), bootstrap=100)


def output(folder) -> ShardOutput:
    return ShardOutput(Context(folder).store, "seen")


@pytest.fixture
def given(model, seen, tmp_path):
    vectors = samples.embed_here(tmp_path / "vectors", model, seen, "seen", corruptions=CHANGES)
    return {"embeddings": vectors, "dataset": seen}


def beforehand(seen, change) -> dict[str, bytes]:
    """The set's files with its images corrupted."""
    members = []
    for sample in EvalSet.open(seen, "seen", "test"):
        corrupted(sample.image, sample.key, change).save(data := io.BytesIO(), "PNG")
        members += [(f"{sample.key}.cls", str(sample.label).encode()), (f"{sample.key}.png", data.getvalue())]
    files = {path: data for path, data in samples.classification_files().items() if "/test/" not in path}
    return files | {"data/seen/test/nshards.txt": b"1", "data/seen/test/0.tar": samples.tar(members)}


def test_each_accuracy_is_that_of_the_corrupted_set(given, model, seen, tmp_path):
    record = work.evaluate(CONFIG, given, output(tmp_path / "out"))
    rows = {row["group"]: row for row in pq.read_table(tmp_path / "out/data/severities.parquet").to_pylist()}
    assert list(rows) == ["gaussian_noise-1", "gaussian_noise-5", "upside_down-1", "upside_down-5"]
    expected = {}
    for number, (name, change) in enumerate({"seen": None, **CHANGES.changes()}.items()):
        folder = tmp_path / f"set{number}"
        sets = seen if change is None else samples.write_artifact(folder, beforehand(seen, change))
        vectors = samples.embed_here(tmp_path / f"vectors{number}", model, sets, "seen")
        inputs = {"embeddings": vectors, "dataset": sets}
        plain = work.evaluate(CONFIG.replace(task=ZeroShot(dataset="seen")), inputs, output(tmp_path / f"out{number}"))
        expected[name] = plain.facts["metrics"]["acc1"]["value"]
    clean = expected.pop("seen")
    assert {name: row["acc1"] for name, row in rows.items()} == pytest.approx(expected)
    metrics = {name: found["value"] for name, found in record.facts["metrics"].items()}
    mean = np.mean(list(expected.values()))
    assert metrics == pytest.approx({"acc1_corrupted": mean, "acc1": clean, "acc1_lost": clean - mean})
    by_kind = {row["group"]: row for row in pq.read_table(tmp_path / "out/data/corruptions.parquet").to_pylist()}
    noise = by_kind["gaussian_noise"]
    assert noise["acc1"] == pytest.approx((expected["gaussian_noise-1"] + expected["gaussian_noise-5"]) / 2)
    assert noise["acc1_low"] <= noise["acc1"] <= noise["acc1_high"]
    assert record.facts["changes"] == 4
    with Image.open(tmp_path / "out/figures/corruptions.png") as image:
        assert min(image.size) > 150


def test_other_tasks_see_a_corrupted_split_too(given, seen, tmp_path):
    """A split under a corruption is a split."""
    with pytest.raises(ConfigError, match="no vectors of seen/test@fog-1"):
        task = Corrupted(dataset="seen", corruptions={"kinds": ["fog"]})
        work.evaluate(CONFIG.replace(task=task), given, output(tmp_path / "out"))
    images = given["embeddings"].manifest.facts["images"]
    assert images == {"seen/test": 24}


def test_a_set_with_captions_is_refused(model, holdout, tmp_path):
    vectors = samples.embed_here(tmp_path / "vectors", model, holdout, "holdout")
    task = Corrupted(dataset="holdout", corruptions=CHANGES)
    with pytest.raises(DataError, match="no single class"):
        work.evaluate(CONFIG.replace(task=task), {"embeddings": vectors, "dataset": holdout}, output(tmp_path / "out"))


def test_the_recipe_embeds_a_set_once_more_for_it(seen, model):
    sets = (f"tests={seen.store.url}/data", f"model={model.store.url}/data", "classification=seen")
    plain = load("evaluate").build([*sets])
    made = load("evaluate").build([*sets, "corruptions=fog"])
    names = [stage.name for stage in made]
    assert names == ["tests", "model", "embed_seen", "zeroshot_seen", "embed_corrupted_seen", "corrupted_seen"]
    assert made["embed_seen"].digest == plain["embed_seen"].digest
    assert len(made["embed_corrupted_seen"].config.corruptions.changes()) == 5
    every = load("evaluate").build([*sets, "corruptions=imagenet_c"])["corrupted_seen"].config.task.corruptions
    assert len(every.changes()) == 70
    with pytest.raises(UsageError, match="for sets with classes"):
        load("evaluate").build([*sets[:2], "captions=holdout", "corruptions=fog"])


def test_only_the_sets_named_are_corrupted():
    config = embed.Config(sets=("seen", "pets"), corruptions=CHANGES, corrupted=("seen",))
    assert [change and change.name for change in config.changes("seen")] == [None, *CHANGES.changes()]
    assert config.changes("pets") == (None,)
    assert len(config.replace(corrupted=()).changes("pets")) == 5
    for wrong in ({"corruptions": None}, {"corrupted": ("cats",)}):
        with pytest.raises(ConfigError, match="corrupted names test sets"):
            config.replace(**wrong)
