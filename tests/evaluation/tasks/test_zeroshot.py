"""The stage against open_clip's own zero-shot recipe, and its files byte for byte."""

from __future__ import annotations

import io
import json
from pathlib import Path

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
    samples = list(examples)
    with torch.no_grad():
        features = clip.encode_image(torch.stack([preprocess(sample.image) for sample in samples]), normalize=True)
        logits = clip.logit_scale.exp() * features @ classifier
    return logits.numpy(), np.array([sample.label for sample in samples])


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
    assert list(result["metrics"]) == ["acc1", "acc5", "mean_per_class_recall"]
    low, high = result["intervals"]["bounds"]["acc1"]
    assert 0 <= low <= result["metrics"]["acc1"] <= high <= 1
    assert sorted(record.facts) == ["classes", "examples", "images", "metrics"]


def test_pictures_open(done):
    _, folder = done
    for name in ("confusion", "predictions"):
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
        f"{name}{end}" for name in ("acc1", "acc5", "mean_per_class_recall") for end in ("", "_low", "_high")
    }
    assert manifest.facts == {"images": 24, "examples": 24, "classes": 6}


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
