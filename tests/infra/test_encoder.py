"""Our encoder against open_clip used directly, on a tiny random model in open_clip's folder layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from infra.encoder.open_clip import OpenClipEncoder, _check_activation, load_encoder
from infra.errors import DataError
from infra.run.manifest import Artifact, File, Manifest
from infra.store import open_store

pytestmark = pytest.mark.long  # a model

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TEXTS = ["a red circle", "", "a very long caption " * 20, "два слова", "blue star"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model") / "data"
    folder.mkdir()
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(open_clip.CLIP(**CONFIG).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(48, 48), (100, 30), (17, 64), (200, 200), (48, 47)]
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def test_is_open_clip_to_the_bit(folder, images):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        expected_images = model.encode_image(torch.stack([preprocess(image) for image in images]), normalize=True)
        expected_texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    encoder = load_encoder(folder)
    assert (encoder.encode_images(images) == expected_images.numpy()).all()
    assert (encoder.encode_texts(TEXTS) == expected_texts.numpy()).all()
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


def test_batches_and_repeats_change_nothing(folder, images):
    whole, pieces = load_encoder(folder), load_encoder(folder, batch_size=2)
    np.testing.assert_allclose(pieces.encode_images(images), whole.encode_images(images), atol=1e-6)
    assert (whole.encode_texts(TEXTS) == whole.encode_texts(TEXTS)).all()
    assert whole.encode_images([]).shape == whole.encode_texts([]).shape == (0, 24)


def test_bf16_gives_unit_vectors_near_fp32(folder, images):
    full, half = (
        load_encoder(folder).encode_images(images),
        load_encoder(folder, precision="bf16").encode_images(images),
    )
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert ((full * half).sum(axis=1) > 0.99).all()


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_loads_a_train_artifact_from_any_store(folder, scheme, tmp_path):
    store = open_store(tmp_path / "artifact" if scheme == "local" else "memory://encoder-test/artifact")
    files = [path.name for path in folder.iterdir()]
    for name in files:
        store.write(f"data/{name}", (folder / name).read_bytes())
    store.write("data/checkpoint.pt", b"training state that must not be taken for weights")
    listed = [File(path=f"data/{name}", bytes=1, sha256="") for name in [*files, "checkpoint.pt"]]
    artifact = Artifact(store, Manifest(stage="train", digest="b" * 64, identity={}, files=listed))
    encoder = load_encoder(artifact)
    assert encoder.name == "train/bbbbbbbbbbbb"
    assert (encoder.encode_texts(TEXTS) == load_encoder(folder).encode_texts(TEXTS)).all()


def test_missing_weights_are_an_error_not_random_ones(folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(DataError, match="not a model in open_clip's layout"):
        load_encoder(tmp_path)


def test_weights_of_another_shape_are_an_error(folder, tmp_path):
    config = {"model_cfg": {**CONFIG, "embed_dim": 8}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    with pytest.raises(DataError, match="not those of this model"):
        load_encoder(tmp_path)


def test_a_named_model_needs_weights():
    with pytest.raises(DataError, match="cannot be used"):
        OpenClipEncoder("RN50")


@pytest.fixture(scope="module")
def checkpoint(folder, tmp_path_factory) -> Path:
    """The same weights as open_clip's trainer saves them, in DDP."""
    state = safetensors.torch.load_file(folder / "open_clip_model.safetensors")
    path = tmp_path_factory.mktemp("checkpoint") / "epoch_3.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """The name of an architecture that open_clip learnt from a file."""
    path = tmp_path_factory.mktemp("configs") / "tiny-for-tests.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return "tiny-for-tests"


def test_a_checkpoint_file_loads_with_the_name_of_its_model(folder, checkpoint, tiny):
    expected = load_encoder(folder).encode_texts(TEXTS)
    assert (load_encoder(checkpoint, model=tiny).encode_texts(TEXTS) == expected).all()


@pytest.mark.parametrize("place", ["local", "memory://encoder-test/models"])
def test_an_adopted_model_loads_from_where_it_is(folder, checkpoint, tiny, place, tmp_path):
    outside = open_store(tmp_path if place == "local" else place)
    expected = load_encoder(folder).encode_texts(TEXTS)
    for kind, paths in {"folder": list(folder.iterdir()), "file": [checkpoint]}.items():
        for path in paths:
            outside.write(f"{kind}/{path.name}", path.read_bytes())
        listed = [File(path=f"data/{path.name}", bytes=path.stat().st_size) for path in paths]
        location = outside.child(kind).url + ("/" if kind == "folder" else f"/{checkpoint.name}")
        artifact = Artifact(
            "unused", Manifest(stage="model", digest="c" * 64, identity={}, files=listed, location=location)
        )
        assert (load_encoder(artifact, model=tiny).encode_texts(TEXTS) == expected).all()


def test_a_checkpoint_without_its_model_or_with_another_is_an_error(checkpoint, tiny, tmp_path):
    with pytest.raises(DataError, match="does not say of what architecture"):
        load_encoder(checkpoint)
    with pytest.raises(DataError, match="not those of this model"):
        load_encoder(checkpoint, model="RN50")
    for junk, words in ((b"", "has 0 bytes"), (b"junk" * 99, "is a text file")):
        (tmp_path / "junk.pt").write_bytes(junk)
        with pytest.raises(DataError, match=words):
            load_encoder(tmp_path / "junk.pt", model=tiny)


def test_of_several_checkpoints_one_must_be_chosen(tmp_path):
    files = [File(path=f"data/epoch_{n}.pt", bytes=1) for n in (1, 2)]
    for file in files:
        open_store(tmp_path).write(file.path, b"x")
    artifact = Artifact(str(tmp_path), Manifest(stage="model", digest="c" * 64, identity={}, files=files))
    with pytest.raises(DataError, match="several checkpoints"):
        load_encoder(artifact, model="RN50")


def test_published_weights_of_another_activation_are_an_error_that_names_both():
    """Before anything is fetched; open_clip warns and computes something else (image cosine 0.99 and less)."""
    with pytest.raises(DataError, match="openai were trained with another activation than ViT-B-32 has") as caught:
        OpenClipEncoder("ViT-B-32", "openai")
    assert caught.value.fix == "model=ViT-B-32-quickgelu"
    refused = set()
    for model, tag in open_clip.list_pretrained():
        try:
            _check_activation(model, tag)
        except DataError:
            refused.add((model, tag))
    assert {("RN50", "cc12m"), ("ViT-B-16", "dfn2b"), ("ViT-L-14", "metaclip_400m")} < refused
    assert not [model for model, _ in refused if "quickgelu" in model]
    assert ("ViT-B-32", "laion2b_s34b_b79k") not in refused


@pytest.mark.huggingface
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"hf_model_name": "nobody/no-tower", "hf_tokenizer_name": "nobody/no-tower"}, "tower of|weights of"),
        ({**CONFIG["text_cfg"], "hf_tokenizer_name": "nobody/no-words"}, "the tokenizer of data cannot be loaded"),
    ],
)
def test_parts_of_hugging_face_that_are_not_here_are_one_error(folder, tmp_path, monkeypatch, text, words):
    """With transformers, and without, as here."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = tmp_path / "data"
    place.mkdir()
    config = {"model_cfg": {**CONFIG, "text_cfg": text}, "preprocess_cfg": {}}
    (place / "open_clip_config.json").write_text(json.dumps(config))
    (place / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    with pytest.raises(DataError, match=words) as caught:
        load_encoder(place)
    assert "transformers" in str(caught.value) and "beside open_clip_config.json" in caught.value.fix


@pytest.mark.huggingface
@pytest.mark.alone
def test_a_hub_out_of_reach_is_asked_once(folder, tmp_path):
    """Hugging Face's own client would try again for half a minute."""
    parts = {
        "text tower": {"hf_model_name": "nobody/no-tower", "hf_tokenizer_name": "nobody/no-tower"},
        "tokenizer": {**CONFIG["text_cfg"], "hf_tokenizer_name": "nobody/no-words"},
    }
    for part, text in parts.items():
        (tmp_path / part).mkdir()
        config = {"model_cfg": {**CONFIG, "text_cfg": text}, "preprocess_cfg": {}}
        (tmp_path / part / "open_clip_config.json").write_text(json.dumps(config))
        (tmp_path / part / "open_clip_model.safetensors").symlink_to(folder / "open_clip_model.safetensors")
    code = """
import sys, time
from infra.encoder.open_clip import load_encoder
from infra.errors import DataError
for place in sys.argv[1:]:
    started = time.monotonic()
    try:
        load_encoder(place)
    except DataError as error:
        print(error)
    assert time.monotonic() - started < 15
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, *(str(tmp_path / part) for part in parts)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Retry" not in done.stderr, done.stderr
    assert [f"the {part} of {part} cannot be loaded" in done.stdout for part in parts] == [True, True]


@pytest.mark.alone
def test_published_weights_out_of_reach_are_told_within_seconds(tmp_path):
    code = "from infra.encoder.open_clip import load_encoder\nload_encoder('ViT-B-32', 'laion2b_s34b_b79k')"
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert time.monotonic() - started < 40  # most of it loads torch
    assert "DataError: the weights of ViT-B-32 cannot be loaded" in done.stderr
    assert "Retry" not in done.stderr
