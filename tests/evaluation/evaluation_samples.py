"""What the tests of this folder are made of: a tiny model's configuration, pictures, tars and artifacts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from infra.formats.shards import TarWriter
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


def write_artifact(folder: Path, files: Mapping[str, bytes], stage: str = "data") -> Artifact:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    listed = [File(path=path, bytes=len(data), sha256="0" * 64) for path, data in files.items()]
    return Artifact(str(folder), Manifest(stage=stage, digest="a" * 64, identity={}, files=listed))
