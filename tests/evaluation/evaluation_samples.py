"""Build what evaluation tests need: a tiny model, images, tars, test sets, artifacts."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.config import digest
from infra.formats.shards import TarWriter
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, File, Manifest

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with TarWriter(buffer) as writer:
        for name, data in members:
            writer.add(name, data)
    return buffer.getvalue()


def picture(seed: int, side: int = 40, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_artifact(folder: Path, files: Mapping[str, bytes], stage: str = "data", name: str = "a" * 64) -> Artifact:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    listed = [File(path=path, bytes=len(data), sha256="0" * 64) for path, data in files.items()]
    return Artifact(str(folder), Manifest(stage=stage, digest=name, identity={}, files=listed))


def model_files(seed: int = 0) -> dict[str, bytes]:
    """``data/open_clip_config.json`` and ``data/open_clip_model.safetensors`` of a random model."""
    import open_clip
    import safetensors.torch
    import torch

    torch.manual_seed(seed)
    model = open_clip.CLIP(**MODEL)
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}
    return {
        "data/open_clip_config.json": json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}).encode(),
        "data/open_clip_model.safetensors": weights,
    }


def classification_files() -> dict[str, bytes]:
    """``data/seen``: a classification set of 6 classes and 24 images in two shards."""
    members = [
        [m for i in part for m in ((f"s{i:04d}.cls", str(i % 6).encode()), (f"s{i:04d}.png", picture(i)))]
        for part in (range(14), range(14, 24))
    ]
    return {
        "data/seen/classnames.txt": b"red circle\nblue circle\nred star\nblue star\n$x_1 cross\nheart\n",
        "data/seen/zeroshot_classification_templates.txt": b"a photo of a {c}.\na drawing of the {c}\n",
        "data/seen/test/nshards.txt": b"2\n",
        "data/seen/test/0.tar": tar(members[0]),
        "data/seen/test/1.tar": tar(members[1]),
    }


def retrieval_files() -> dict[str, bytes]:
    """``data/holdout``: 20 images with one to three captions each, some of them word for word the same."""
    words = ["a red circle", "the blue star", "a $10 heart", "green cross", "一つの赤い円", "<b>bold</b>"]
    members = []
    for i in range(20):
        captions = [words[i % 6], f"{words[i % 6]} number {i}", "something"][: 1 + i % 3]
        members += [(f"s{i:04d}.jpg", picture(100 + i, kind="JPEG")), (f"s{i:04d}.txt", "\n".join(captions).encode())]
    return {
        "data/holdout/dataset_type.txt": b"retrieval\n",
        "data/holdout/test/nshards.txt": b"1",
        "data/holdout/test/0.tar": tar(members),
    }


def embed_here(folder: Path, model: Artifact, dataset: Artifact, *sets: str, **fields: Any) -> Artifact:
    """The vectors of test sets, made in this process."""
    from evaluation import embed

    def in_this_process(context, specs, work, limits, size):
        return list(work([(spec, ShardOutput(context.store, name)) for name, spec in specs]))

    config = embed.Config(sets=sets, **fields)
    inputs = {"model": model.manifest.digest, "dataset": dataset.manifest.digest}
    identity = {"config": config.identity(), "inputs": inputs}
    context = Context(folder, stage="embed", digest=digest(identity), identity=identity, config=config.resolved())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed.stage, "run_batches", in_this_process)
        patch.setattr(embed.stage, "slots", lambda limits: 1)
        manifest = embed.run(config, {"model": model, "dataset": dataset}, context)
    context.store.write("manifest.json", manifest.to_bytes())
    return Artifact(context.store, manifest)
