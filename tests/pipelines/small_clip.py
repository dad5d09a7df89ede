"""A small random CLIP on disk, that of the demo, and scenes to look at."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import safetensors.torch
import torch
from PIL import Image

from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import adopt
from workflows.demo import drawing, scenes

MODEL = json.loads((Path(scenes.__file__).parent / "model.json").read_text())


def write_model(folder: Path, seed: int = 1) -> Path:
    """A model of random weights in open_clip's layout."""
    torch.manual_seed(seed)
    folder.mkdir()
    config = {"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(open_clip.CLIP(**MODEL).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def adopted(path: Path, contents: adopt.Contents, to: Path) -> Artifact:
    """What the adopt stage makes of ``path``."""
    config = adopt.Config(path=str(path), contents=contents)
    context = Context(to, location=config.location())
    return Artifact(context.store, adopt.run(config, {}, context))


def scene(number: int, side: int = 96, **changes) -> tuple[str, Image.Image]:
    """A caption and its picture."""
    rng = np.random.default_rng(number)
    names = (scenes.SHAPES, scenes.COLOURS, scenes.SIZES, scenes.TEXTURES, scenes.POSITIONS, scenes.BACKGROUNDS)
    drawn = replace(scenes.Scene(*(str(rng.choice(choices)) for choices in names), number), **changes)
    return f"a {drawn.colour} {drawn.shape} number {number}", Image.fromarray(drawing.render(drawn, side))


def encoded(image: Image.Image, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    image.save(out, form, quality=90)
    return out.getvalue()
