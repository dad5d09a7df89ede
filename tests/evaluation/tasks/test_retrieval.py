"""The stage against CLIP_benchmark's definition of recall, computed here from open_clip's features."""

from __future__ import annotations

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
from evaluation.embedded import open_embedded
from evaluation.evaluate import work
from evaluation.tasks import Retrieval
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput

pytestmark = pytest.mark.long  # a model

CONFIG = evaluate.Config(task=Retrieval(dataset="holdout"), bootstrap=200)


@pytest.fixture
def done(embedded, holdout, tmp_path):
    output = ShardOutput(Context(tmp_path / "out").store, "holdout")
    return work.evaluate(CONFIG, {"embeddings": embedded["holdout"], "dataset": holdout}, output), tmp_path / "out"


def reference(model, holdout) -> tuple[np.ndarray, np.ndarray]:
    """Texts x images: scores and which pairs belong together."""
    name = f"local-dir:{Path(model.store.url) / 'data'}"
    clip, preprocess = open_clip.create_model_from_pretrained(name)
    clip.eval()
    examples = list(EvalSet.open(holdout, "holdout", "test"))
    captions = [caption for sample in examples for caption in sample.captions]
    owner = [place for place, sample in enumerate(examples) for _ in sample.captions]
    with torch.no_grad():
        images = clip.encode_image(torch.stack([preprocess(sample.image) for sample in examples]), normalize=True)
        texts = clip.encode_text(open_clip.get_tokenizer(name)(captions), normalize=True)
    return (texts @ images.T).numpy(), np.array(owner)[:, None] == np.arange(len(examples))


def test_scores_clip_benchmarks_recall(done, model, holdout):
    """Where captions repeat, the mean over many orders of the repeats: topk's order is one of them."""
    record, _ = done
    scores, positive = reference(model, holdout)
    metrics = {name: interval["value"] for name, interval in record.facts["metrics"].items()}
    random = np.random.default_rng(0)
    for k in (1, 5, 10):
        top = np.argsort(-scores, axis=1)[:, :k]
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(
            np.take_along_axis(positive, top, axis=1).any(axis=1).mean()
        )
        orders = []
        for _ in range(2000):
            order = random.permutation(len(scores))
            top = np.argsort(-scores.T[:, order].round(5), axis=1, kind="stable")[:, :k]
            orders.append(np.take_along_axis(positive.T[:, order], top, axis=1).any(axis=1).mean())
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(np.mean(orders), abs=0.01)


def test_the_files(done):
    record, folder = done
    (path,) = folder.glob("data/*.json")
    assert path.name == "holdout_train-aaaaaaaaaaaa_CLIP_en_zeroshot_retrieval.json"
    result = json.loads(path.read_text())
    assert result["task"] == "zeroshot_retrieval"
    assert {f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)} < set(result["metrics"])
    assert record.facts["images"] == 20
    assert record.facts["captions"] == 39
    assert record.facts["distinct_captions"] < 39
    assert pq.read_table(folder / "data/image_queries.parquet").num_rows == 20
    by_text = pq.read_table(folder / "data/text_queries.parquet")
    assert by_text.num_rows == 39
    assert np.mean(np.array(by_text["better"]) == 0) == pytest.approx(result["metrics"]["image_retrieval_recall@1"])
    for name in ("text_to_image", "image_to_text"):
        with Image.open(folder / f"figures/{name}.png") as image:
            assert min(image.size) > 200


LANGUAGES = {"en": ("a red circle", "a blue star"), "de": ("ein roter Kreis", "ein blauer Stern"), "th": ("วงกลมสีแดง",)}


def spoken_files(languages) -> dict[str, bytes]:
    """``data/spoken``: 12 images with captions in three languages, Thai for half of them."""
    members = []
    for i in range(12):
        own = ["en", "de", "th"][: 2 + i % 2]
        captions = [f"{LANGUAGES[one][i % len(LANGUAGES[one])]} {i}" for one in own]
        members += [(f"s{i}.png", samples.picture(i)), (f"s{i}.txt", "\n".join(captions).encode())]
        members += [(f"s{i}.json", json.dumps(languages(own)).encode())]
    return {
        "data/spoken/dataset_type.txt": b"retrieval",
        "data/spoken/test/nshards.txt": b"1",
        "data/spoken/test/0.tar": samples.tar(members),
    }


def test_each_language_is_a_set_of_its_own(model, tmp_path):
    """The row of a language is what a set of its captions alone gets, its images all there to be found."""
    spoken = samples.write_artifact(tmp_path / "spoken", spoken_files(lambda own: {"languages": own}))
    vectors = samples.embed_here(tmp_path / "embedded/spoken", model, spoken, "spoken")
    output = ShardOutput(Context(tmp_path / "out").store, "spoken")
    config = CONFIG.replace(task=Retrieval(dataset="spoken"))
    record = work.evaluate(config, {"embeddings": vectors, "dataset": spoken}, output)
    table = pq.read_table(tmp_path / "out/data/languages.parquet").to_pylist()
    assert [(row["group"], row["images"]) for row in table] == [("de", 12), ("en", 12), ("th", 6)]

    data = open_embedded(vectors, EvalSet.open(spoken, "spoken", "test"), lambda: None)
    scores = data.texts[data.text_of] @ data.images.T
    spoken_in = np.array([one for i in range(12) for one in ["en", "de", "th"][: 2 + i % 2]])
    for row in table:
        mine = spoken_in == row["group"]
        own = scores[np.flatnonzero(mine), data.image_of[mine]]
        rank = 1 + (scores[mine] > own[:, None]).sum(axis=1)
        assert row["image_retrieval_recall@1"] == pytest.approx((rank == 1).mean())
        assert row["image_retrieval_median_rank"] == np.median(rank)
        backward = [1 + (scores[mine][:, image] > own[place]).sum() for place, image in enumerate(data.image_of[mine])]
        assert row["text_retrieval_recall@5"] == pytest.approx((np.array(backward) <= 5).mean())
        for name in ("mean_recall@1", "text_retrieval_median_rank"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert record.facts["captions"] == len(spoken_in) == 30


@pytest.mark.parametrize("wrong", [{"languages": ["en"]}, {"languages": "en"}, {"language": 3}])
def test_a_sample_with_other_languages_than_captions_is_named(model, tmp_path, wrong):
    spoken = samples.write_artifact(tmp_path / "spoken", spoken_files(lambda own: wrong))
    vectors = samples.embed_here(tmp_path / "embedded/spoken", model, spoken, "spoken")
    data = open_embedded(vectors, EvalSet.open(spoken, "spoken", "test"), lambda: None)
    with pytest.raises(DataError, match="'s0' of spoken does not say what language"):
        Retrieval(dataset="spoken").evaluate(data)


def test_twice_the_same_bytes(done, embedded, holdout, tmp_path):
    record, _ = done
    output = ShardOutput(Context(tmp_path / "again").store, "holdout")
    assert work.evaluate(CONFIG, {"embeddings": embedded["holdout"], "dataset": holdout}, output) == record


def test_runs_as_a_stage(ray_cluster, done, embedded, holdout, tmp_path):
    context = Context(tmp_path / "stage", stage="retrieval", digest="c" * 64)
    manifest = evaluate.run(CONFIG, {"embeddings": embedded["holdout"], "dataset": holdout}, context)
    record, _ = done
    assert manifest.files == record.files
    assert "image_retrieval_recall_at_1_low" in manifest.metrics
    assert not any("@" in name for name in manifest.metrics)


def test_a_classification_set_is_refused(embedded, seen, tmp_path):
    config = CONFIG.replace(task=Retrieval(dataset="seen"))
    with pytest.raises(DataError, match="has no captions"):
        inputs = {"embeddings": embedded["seen"], "dataset": seen}
        work.evaluate(config, inputs, ShardOutput(Context(tmp_path / "out").store, "x"))
