"""A test set of pictures in CLIP_benchmark's layout, with a split to learn from, and a model with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from infra.run.context import Context
from infra.run.manifest import Artifact, File, Manifest
from infra.store import open_store
from tests.benchmarks.served import picture

__all__ = ["CLASSES", "adopted", "make"]

CLASSES, _SHARD = 20, 256
SPLITS = ("train", "test")


def make(folder: Path, images: int, model: str) -> None:
    """Write ``images`` pictures of each split to ``folder/sets``, and a ``model`` to ``folder/model``.

    The model is an architecture of open_clip by name, or ``lite``: EfficientNet-Lite0 and a small text tower.
    """
    import open_clip
    import safetensors.torch
    import torch

    from infra.formats.shards import TarWriter

    home = folder / "sets/data/pictures"
    for split_number, split in enumerate(SPLITS):
        (home / split).mkdir(parents=True)
        parts = np.array_split(np.arange(images), -(-images // _SHARD))
        for shard, numbers in enumerate(parts):
            with (home / split / f"{shard}.tar").open("wb") as sink, TarWriter(sink) as tar:
                for number in numbers.tolist():
                    rng = np.random.default_rng([number, split_number])
                    size = (round(256 / rng.uniform(0.6, 1)), 256)
                    data = cv2.imencode(".jpg", picture(rng, *size), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
                    tar.add(f"{number:06d}.jpg", data)
                    tar.add(f"{number:06d}.cls", str(number % CLASSES).encode())
        (home / split / "nshards.txt").write_text(str(len(parts)))
    (home / "classnames.txt").write_text("\n".join(f"thing {number}" for number in range(CLASSES)))
    (home / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\na picture of {c}")

    torch.manual_seed(0)
    if model == "lite":
        tower = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
        text = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}
        config = {"embed_dim": 256, "vision_cfg": {**tower, "timm_model_pretrained": False}, "text_cfg": text}
        towers = open_clip.CustomTextCLIP(**config)
        config["custom_text"] = True
    else:
        config, towers = open_clip.get_model_config(model), open_clip.create_model(model)
    (folder / "model").mkdir()
    described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "model/open_clip_config.json").write_text(json.dumps(described))
    safetensors.torch.save_file(towers.state_dict(), folder / "model/open_clip_model.safetensors")


def adopted(folder: Path) -> dict[str, Artifact]:
    """The test set as input ``dataset``, the model as input ``model``."""
    from pipelines import adopt

    config = adopt.Config(path=f"{folder}/model", contents=adopt.Model())
    context = Context(f"{folder}/adopted", location=config.location(), digest="a" * 64)
    model = Artifact(context.store, adopt.run(config, {}, context))
    sets = open_store(folder / "sets")
    files = [File(path=path, bytes=sets.size(path)) for path in sets.paths("data")]
    dataset = Manifest(stage="sets", digest="5" * 64, identity={}, files=files)
    return {"dataset": Artifact(sets, dataset), "model": model}
