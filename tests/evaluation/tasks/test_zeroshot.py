"""The stage against open_clip's own zero-shot recipe, and its files byte for byte."""

from __future__ import annotations

import io
import json
from pathlib import Path

import evaluation_samples as samples
import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from evaluation import evaluate
from evaluation.evaluate import work
from evaluation.tasks import ZeroShot
from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet, prompts
from infra.run.context import Context, ShardOutput

pytestmark = pytest.mark.long  # a model

CONFIG = evaluate.Config(task=ZeroShot(dataset="seen"), bootstrap=200)


@pytest.fixture
def done(embedded, seen, tmp_path):
    output = ShardOutput(Context(tmp_path / "out").store, "seen")
    return work.evaluate(CONFIG, {"embeddings": embedded["seen"], "dataset": seen}, output), tmp_path / "out"


def reference(model, seen) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels from open_clip alone."""
    name = f"local-dir:{Path(model.store.url) / 'data'}"
    clip, preprocess = open_clip.create_model_from_pretrained(name)
    clip.eval()
    examples = EvalSet.open(seen, "seen", "test")
    templates = [template.replace("{c}", "{}") for template in examples.templates]
    classifier = open_clip.build_zero_shot_classifier(
        clip, open_clip.get_tokenizer(name), examples.classes, templates, device="cpu"
    )
    every = list(examples)
    with torch.no_grad():
        features = clip.encode_image(torch.stack([preprocess(sample.image) for sample in every]), normalize=True)
        logits = clip.logit_scale.exp() * features @ classifier
    return logits.numpy(), np.array([sample.label for sample in every])


def test_scores_what_open_clip_scores(done, model, seen):
    record, folder = done
    logits, labels = reference(model, seen)
    top = np.argsort(-logits, axis=1)
    metrics = {name: interval["value"] for name, interval in record.facts["metrics"].items()}
    assert metrics["acc1"] == pytest.approx((top[:, 0] == labels).mean())
    assert metrics["acc5"] == pytest.approx((top[:, :5] == labels[:, None]).any(axis=1).mean())
    rows = pq.read_table(folder / "data/predictions.parquet")
    assert rows["predicted"].to_pylist() == top[:, 0].tolist()
    assert rows["rank"].to_pylist() == (top == labels[:, None]).argmax(axis=1).tolist()
    per_class = pq.read_table(folder / "data/classes.parquet").to_pylist()
    recalls = [(top[:, 0] == label)[labels == label].mean() for label in range(6)]
    assert [row["recall"] for row in per_class] == pytest.approx(recalls)
    assert metrics["mean_per_class_recall"] == pytest.approx(np.mean(recalls))


def test_the_result_is_clip_benchmarks(done):
    record, folder = done
    path = folder / "data/seen_train-aaaaaaaaaaaa_CLIP_en_zeroshot_classification.json"
    result = json.loads(path.read_text())
    assert list(result)[:6] == ["dataset", "pretrained", "model", "language", "task", "metrics"]
    assert list(result["metrics"]) == ["acc1", "acc5", "mean_per_class_recall", "ece"]
    low, high = result["intervals"]["bounds"]["acc1"]
    assert 0 <= low <= result["metrics"]["acc1"] <= high <= 1
    assert sorted(record.facts) == ["classes", "examples", "images", "main", "metrics", "tables"]


def test_pictures_open(done):
    _, folder = done
    for name in ("confusion", "predictions", "reliability"):
        with Image.open(io.BytesIO((folder / f"figures/{name}.png").read_bytes())) as image:
            assert min(image.size) > 200
            assert "Software" not in image.info


def test_twice_the_same_bytes(done, embedded, seen, tmp_path):
    record, _ = done
    output = ShardOutput(Context(tmp_path / "again").store, "seen")
    assert work.evaluate(CONFIG, {"embeddings": embedded["seen"], "dataset": seen}, output) == record


def test_prompts_of_its_own_need_the_model(done, embedded, model, seen, tmp_path):
    """The set's own, given as the task's, score the same."""
    record, _ = done
    templates = EvalSet.open(seen, "seen", "test").templates
    config = CONFIG.replace(task=ZeroShot(dataset="seen", templates=templates))
    given = {"embeddings": embedded["seen"], "dataset": seen}
    own = work.evaluate(config, {**given, "model": model}, ShardOutput(Context(tmp_path / "own").store, "x"))
    assert own.facts["metrics"] == record.facts["metrics"]
    with pytest.raises(ConfigError, match="texts of its own"):
        work.evaluate(config, given, ShardOutput(Context(tmp_path / "none").store, "x"))


def test_runs_as_a_stage(ray_cluster, done, embedded, seen, tmp_path):
    context = Context(tmp_path / "stage", stage="zeroshot", digest="c" * 64)
    manifest = evaluate.run(CONFIG, {"embeddings": embedded["seen"], "dataset": seen}, context)
    record, _ = done
    assert manifest.files == record.files
    assert set(manifest.metrics) == {
        f"{name}{end}" for name in ("acc1", "acc5", "mean_per_class_recall", "ece") for end in ("", "_low", "_high")
    }
    shown = {"main": "acc1", "tables": ["predictions", "classes"]}
    assert manifest.facts == {"images": 24, "examples": 24, "classes": 6, **shown}


def test_prompts():
    assert prompts(["a", "b"], ["x {c}", "{c} y"]) == ["x a", "a y", "x b", "b y"]
    assert prompts(["{c.__class__}"], ["{c} {d}"]) == ["{c.__class__} {d}"]
    assert len(prompts(["dog"])) == 80
    with pytest.raises(ConfigError, match="templates"):
        ZeroShot(dataset="x", templates=("a photo",))


def test_a_retrieval_set_is_refused(embedded, holdout, tmp_path):
    config = CONFIG.replace(task=ZeroShot(dataset="holdout"))
    with pytest.raises(DataError, match="has no classes"):
        inputs = {"embeddings": embedded["holdout"], "dataset": holdout}
        work.evaluate(config, inputs, ShardOutput(Context(tmp_path / "out").store, "x"))


@pytest.fixture
def grouped(model, tmp_path):
    """The set with a json in each sample, hospital and a patient's age, and DataComp's array of WILDS's metadata."""
    members = []
    for number in range(24):
        fields = {"hospital": "ab"[number % 2], "old": number > 11}
        members += [(f"s{number:04d}.cls", str(number % 6).encode()), (f"s{number:04d}.png", samples.picture(number))]
        members.append((f"s{number:04d}.json", json.dumps(fields).encode()))
        np.save(array := io.BytesIO(), np.array([number % 3, 2010 + number // 8, number % 6]))
        members.append((f"s{number:04d}.npy", array.getvalue()))
    files = samples.classification_files()
    files = {path: data for path, data in files.items() if "/test/" not in path}
    files |= {"data/seen/test/nshards.txt": b"1", "data/seen/test/0.tar": samples.tar(members)}
    sets = samples.write_artifact(tmp_path / "grouped", files)
    return {"dataset": sets, "embeddings": samples.embed_here(tmp_path / "grouped_vectors", model, sets, "seen")}


def test_groups_come_from_the_samples_json(grouped, tmp_path):
    config = CONFIG.replace(task=ZeroShot(dataset="seen", groups=("hospital", "old")))
    record = work.evaluate(config, grouped, ShardOutput(Context(tmp_path / "out").store, "seen"))
    right = [rank == 0 for rank in pq.read_table(tmp_path / "out/data/predictions.parquet")["rank"].to_pylist()]
    members = {
        f"{hospital} / {old}": [right[n] for n in range(24) if "ab"[n % 2] == hospital and (n > 11) == old]
        for hospital in "ab"
        for old in (False, True)
    }
    rows = {row["group"]: row for row in pq.read_table(tmp_path / "out/data/groups_wg.parquet").to_pylist()}
    assert {name: row["acc1"] for name, row in rows.items()} == {n: np.mean(each) for n, each in members.items()}
    assert all(row["images"] == 6 and row["acc1_low"] <= row["acc1"] <= row["acc1_high"] for row in rows.values())
    found = record.facts["metrics"]["acc_wg"]
    assert found["value"] == min(np.mean(each) for each in members.values())
    assert found["low"] <= found["value"] <= found["high"]
    assert "acc_top5_wg" in record.facts["metrics"]


def test_datacomps_metadata_has_its_names(grouped, tmp_path):
    task = {"kind": "zeroshot_classification", "dataset": "seen"}
    task["groups"] = {"worst_region": ["npy.0"], "worst_year": ["npy.1"]}
    record = work.evaluate(CONFIG.replace(task=task), grouped, ShardOutput(Context(tmp_path / "out").store, "seen"))
    ranks = np.array(pq.read_table(tmp_path / "out/data/predictions.parquet")["rank"].to_pylist())
    metrics = {name: found["value"] for name, found in record.facts["metrics"].items()}
    numbers = np.arange(24)
    for name, groups in (("region", numbers % 3), ("year", numbers // 8)):
        for metric, right in (("acc", ranks == 0), ("acc_top5", ranks < 5)):
            assert metrics[f"{metric}_worst_{name}"] == min(right[groups == group].mean() for group in range(3))
    assert pq.read_table(tmp_path / "out/data/groups_worst_year.parquet")["group"].to_pylist() == [
        "2010",
        "2011",
        "2012",
    ]


@pytest.mark.parametrize("groups", [{"wg": []}, {"": ["a"]}, {"a/b": ["a"]}])
def test_a_grouping_has_a_name_and_fields(groups):
    with pytest.raises(ConfigError, match="a name of letters"):
        ZeroShot(dataset="x", groups=groups)


def test_groups_can_be_written_shortly():
    every = [ZeroShot(dataset="x", groups=given) for given in ("place", ["place"], {"wg": ("place",)})]
    assert len({json.dumps(task.identity()) for task in every}) == 1
    assert ZeroShot(dataset="x", groups=()).identity() == ZeroShot(dataset="x").identity()


def test_classes_are_groups_too(grouped, tmp_path):
    config = CONFIG.replace(task=ZeroShot(dataset="seen", groups=("class",)))
    record = work.evaluate(config, grouped, ShardOutput(Context(tmp_path / "out").store, "seen"))
    recalls = pq.read_table(tmp_path / "out/data/classes.parquet")["recall"].to_pylist()
    assert record.facts["metrics"]["acc_wg"]["value"] == min(recalls)


def test_a_field_that_a_sample_lacks_is_named(grouped, embedded, seen, tmp_path):
    config = CONFIG.replace(task=ZeroShot(dataset="seen", groups=("country",)))
    output = ShardOutput(Context(tmp_path / "out").store, "seen")
    with pytest.raises(DataError, match="'s0000' of seen has no 'country'") as caught:
        work.evaluate(config, grouped, output)
    assert "hospital, npy, old" in str(caught.value)
    with pytest.raises(DataError, match="has no 'country'"):
        work.evaluate(config, {"embeddings": embedded["seen"], "dataset": seen}, output)
