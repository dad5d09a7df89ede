"""A tiny random model in open_clip's folder layout, and artifacts made of a few files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_samples import MODEL, picture, tar, write_artifact

from infra.run.manifest import Artifact


@pytest.fixture(scope="session")
def model_files() -> dict[str, bytes]:
    """``data/open_clip_config.json`` and ``data/open_clip_model.safetensors`` of a random model."""
    import open_clip
    import safetensors.torch
    import torch

    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL)
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}
    return {
        "data/open_clip_config.json": json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}).encode(),
        "data/open_clip_model.safetensors": weights,
    }


@pytest.fixture
def model(model_files: dict[str, bytes], tmp_path: Path) -> Artifact:
    return write_artifact(tmp_path / "model", model_files, stage="train")


@pytest.fixture
def seen(tmp_path: Path) -> Artifact:
    """A classification set of 6 classes and 24 images in two shards."""
    members = [
        [m for i in part for m in ((f"s{i:04d}.cls", str(i % 6).encode()), (f"s{i:04d}.png", picture(i)))]
        for part in (range(14), range(14, 24))
    ]
    files = {
        "data/seen/classnames.txt": b"red circle\nblue circle\nred star\nblue star\n$x_1 cross\nheart\n",
        "data/seen/zeroshot_classification_templates.txt": b"a photo of a {c}.\na drawing of the {c}\n",
        "data/seen/test/nshards.txt": b"2\n",
        "data/seen/test/0.tar": tar(members[0]),
        "data/seen/test/1.tar": tar(members[1]),
    }
    return write_artifact(tmp_path / "seen", files)


@pytest.fixture
def holdout(tmp_path: Path) -> Artifact:
    """A retrieval set of 20 images with one to three captions each, some of them word for word the same."""
    words = ["a red circle", "the blue star", "a $10 heart", "green cross", "一つの赤い円", "<b>bold</b>"]
    members = []
    for i in range(20):
        captions = [words[i % 6], f"{words[i % 6]} number {i}", "something"][: 1 + i % 3]
        members += [(f"s{i:04d}.jpg", picture(100 + i, kind="JPEG")), (f"s{i:04d}.txt", "\n".join(captions).encode())]
    files = {
        "data/holdout/dataset_type.txt": b"retrieval\n",
        "data/holdout/test/nshards.txt": b"1",
        "data/holdout/test/0.tar": tar(members),
    }
    return write_artifact(tmp_path / "holdout", files)
