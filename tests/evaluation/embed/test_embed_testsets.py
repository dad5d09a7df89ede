"""The one pass over test sets: vectors against open_clip's, and what shares or refuses them."""

from __future__ import annotations

import evaluation_samples as samples
import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch

from evaluation import embed, evaluate
from evaluation.corruptions import Corruptions
from evaluation.embedded import open_embedded
from evaluation.tasks import Retrieval, ZeroShot
from infra.encoder.open_clip import OpenClipEncoder
from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet
from infra.formats.vectors import read_vectors
from infra.run.context import Context
from workflows.stage import Stage


def no_model():
    raise AssertionError("no task here has texts of its own")


@pytest.fixture
def clip(model):
    """Vectors of images and texts by open_clip alone."""
    name = f"local-dir:{model.store.url}/data"
    network, preprocess = open_clip.create_model_from_pretrained(name)
    tokenize = open_clip.get_tokenizer(name)

    def encode(images=None, texts=None):
        with torch.no_grad():
            if texts is not None:
                return network.eval().encode_text(tokenize(texts), normalize=True).numpy()
            pixels = torch.stack([preprocess(image) for image in images])
            return network.eval().encode_image(pixels, normalize=True).numpy()

    return encode


def test_vectors_are_open_clips_but_for_float16(embedded, seen, clip):
    examples = EvalSet.open(seen, "seen", "test")
    data = open_embedded(embedded["seen"], examples, no_model)
    expected = list(examples)
    assert data.keys == [sample.key for sample in expected]
    assert data.labels.tolist() == [sample.label for sample in expected]
    np.testing.assert_allclose(data.images, clip([sample.image for sample in expected]), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(data.images, axis=1), 1, atol=1e-6)
    sentences = [template.replace("{c}", name) for name in examples.classes for template in examples.templates]
    mean = clip(texts=sentences).reshape(6, 2, -1).mean(axis=1)
    np.testing.assert_allclose(data.classifier, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


def test_captions_belong_to_their_images(embedded, holdout, clip):
    examples = EvalSet.open(holdout, "holdout", "test")
    data = open_embedded(embedded["holdout"], examples, no_model)
    expected = [(number, text) for number, sample in enumerate(examples) for text in sample.captions]
    assert [(image, data.captions[text]) for image, text in zip(data.image_of, data.text_of, strict=True)] == expected
    assert len(data.captions) == len(set(data.captions)) < len(expected)
    np.testing.assert_allclose(data.texts, clip(texts=data.captions), atol=1e-3)
    with pytest.raises(DataError, match="has no classes"):
        data.classifier  # noqa: B018


def test_the_shards_are_in_datacomps_form(embedded, seen):
    artifact = embedded["seen"]
    assert [file.path for file in artifact.files("data/", ".npz")] == [
        "data/seen/test/00000.npz",
        "data/seen/test/00001.npz",
        "data/seen/classes.npz",
    ]
    with np.load(f"{artifact.store.url}/data/seen/test/00000.npz") as arrays:
        assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
            "clip_img": ((14, 16), "float16"),
            "clip_txt": ((0, 16), "float16"),
        }
    vectors = read_vectors(artifact.store, "seen/test/00001")
    assert vectors.uids == [f"s{number:04d}" for number in range(14, 24)]
    assert pq.read_table(f"{artifact.store.url}/data/seen/test/00001.parquet").num_rows == 10


def test_equal_captions_of_different_shards_have_one_vector(model, tmp_path):
    shards = {
        f"data/two/test/{number}.tar": samples.tar([("a.png", samples.picture(number)), ("a.txt", b"a red circle")])
        for number in range(2)
    }
    files = {"data/two/dataset_type.txt": b"retrieval", "data/two/test/nshards.txt": b"2", **shards}
    sets = samples.write_artifact(tmp_path / "sets", files)
    made = samples.embed_here(tmp_path / "made", model, sets, "two")
    data = open_embedded(made, EvalSet.open(sets, "two", "test"), no_model)
    assert data.texts.shape == (1, 16)
    assert (data.text_of.tolist(), data.image_of.tolist()) == ([0, 0], [0, 1])


@pytest.mark.long
def test_another_split_is_another_embedding(model, tmp_path):
    files = {
        path.replace("/test/", f"/{split}/"): data
        for split in ("test", "train")
        for path, data in samples.classification_files().items()
    }
    sets = samples.write_artifact(tmp_path / "sets", files)
    made = samples.embed_here(tmp_path / "made", model, sets, "seen", splits=("test", "train"))
    data = open_embedded(made, EvalSet.open(sets, "seen", "test"), no_model)
    np.testing.assert_array_equal(data.split("train").images, data.images)
    with pytest.raises(ConfigError, match="no vectors of seen/valid") as caught:
        data.split("valid")
    assert "seen/test, seen/train" in str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([], "is empty"),
        ([("a.jpg", b"\xff\xd8\xff no image"), ("a.txt", b"a circle")], "cannot be decoded"),
        ([("a.txt", b"a circle")], "has no image"),
        ([("a.png", samples.picture(0)), ("a.txt", b" \n")], "has no caption"),
    ],
)
def test_no_sample_is_left_out(model, tmp_path, members, said):
    files = {"data/x/dataset_type.txt": b"retrieval", "data/x/test/nshards.txt": b"1"}
    sets = samples.write_artifact(tmp_path / "sets", {**files, "data/x/test/0.tar": samples.tar(members)})
    with pytest.raises(DataError, match=said):
        samples.embed_here(tmp_path / "made", model, sets, "x")


def test_runs_as_a_stage(ray_cluster, embedded, model, seen, tmp_path):
    context = Context(tmp_path / "stage", stage="embed")
    manifest = embed.run(embed.Config(sets=("seen",)), {"model": model, "dataset": seen}, context)
    assert manifest.files == embedded["seen"].manifest.files
    assert manifest.facts["images"] == {"seen/test": 24}
    assert (manifest.facts["model"], manifest.facts["pretrained"]) == ("CLIP", "train-aaaaaaaaaaaa")


def test_one_more_task_embeds_nothing_again():
    class Source(embed.Config):
        inputs = {}
        produces = ("model", "testsets")

        def check_inputs(self, given):
            pass

    source = Stage("source", embed.run, Source(sets=("x",)))
    vectors = Stage("embed", embed.run, embed.Config(sets=("x",)), {"model": source, "dataset": source})
    both, before = {"embeddings": vectors, "dataset": source}, vectors.digest
    for task in (ZeroShot(dataset="x"), ZeroShot(dataset="x", templates=("{c}",)), Retrieval(dataset="x")):
        Stage("scores", evaluate.run, evaluate.Config(task=task), both)
    assert vectors.digest == before
    faster = embed.Config(sets=("x",), batch_size=512, limits={"gpus": 1}, device="cuda")
    assert Stage("embed", embed.run, faster, {"model": source, "dataset": source}).digest == before


def test_captions_of_corrupted_images_are_encoded_once(model, holdout, tmp_path, monkeypatch):
    plain, times = OpenClipEncoder.encode_texts, []

    def counted(self, texts):
        times.append(len(list(texts)))
        return plain(self, texts)

    monkeypatch.setattr(OpenClipEncoder, "encode_texts", counted)
    changes = {"kinds": ["contrast", "brightness"], "severities": [1, 5], "side": 32}
    made = samples.embed_here(tmp_path, model, holdout, "holdout", corruptions=changes)
    assert len(times) == 1
    splits = ["test", *(change.split("test") for change in Corruptions(**changes).changes().values())]
    found = [read_vectors(made.store, f"holdout/{split}/00000", "clip") for split in splits]
    assert len(found) == 5 and all(np.array_equal(one.texts, found[0].texts) for one in found)
    assert not any(np.array_equal(one.images, found[0].images) for one in found[1:])
