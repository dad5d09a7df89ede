"""A small model of every family of towers that open_clip's configurations name, and of its own.

A module of its own: the processes of several ranks find it by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch
from safetensors.torch import save_file
from small_data import MODEL

from training.config import Config, Model
from training.distributed.parallel import wrap
from training.distributed.world import World
from training.model.blocks import encode_image
from training.model.build import Towers, build
from training.model.text import encode_text
from training.objectives.infonce.objective import InfoNCE

__all__ = ["FAMILIES", "OTHERS", "distances", "embed", "inputs", "made", "reference", "write"]

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2}
FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "EVA01-g-14": (28, TINY),
    "EVA02-B-16": (32, TINY),
    "MobileCLIP2-L-14": (28, TINY),
    "MobileCLIP-B": (64, {"depth": 1}),
    "MobileCLIP2-S0": (64, {"layers": (1, 1, 1, 1)}),
    "PE-Core-T-16-384": (32, TINY),
    "ViT-B-16-SigLIP": (32, TINY),
    "ViTamin-S": (64, {"depth": 2}),
    "convnext_tiny": (64, {"depths": (2, 2, 2, 2), "dims": (8, 16, 24, 32)}),
    "swin_base_patch4_window7_224": (56, {"depths": (2, 2, 2, 2), "embed_dim": 16, "num_heads": (1, 2, 2, 2)}),
    "vit_medium_patch16_gap_256": (32, TINY),
    "vit_relpos_medium_patch16_cls_224": (32, TINY),
}
"""Of each family of timm's: a configuration of open_clip's, an image size, and what makes the tower small."""

OTHERS: dict[str, dict[str, Any]] = {
    "ViT": MODEL["vision_cfg"] | {"layers": 2},
    "ViT, scaled": MODEL["vision_cfg"] | {"layers": 2, "ls_init_value": 0.1, "pool_type": "avg"},
    "ViT, attentional": MODEL["vision_cfg"] | {"attentional_pool": True, "attn_pooler_heads": 2},
    "ResNet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "EfficientNet": {"timm_model_name": "test_efficientnet", "timm_proj": "linear", "timm_pool": "", "image_size": 32},
    "ResNet of timm": {"timm_model_name": "test_resnet", "timm_proj": "linear", "timm_pool": "", "image_size": 32},
}
TEXTS: dict[str, dict[str, Any]] = {
    "ViT, scaled": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},  # as SigLIP's
    "ViT, attentional": {"embed_cls": True},  # as CoCa's
}


def config(name: str) -> dict[str, Any]:
    """A small model's configuration."""
    text = MODEL["text_cfg"] | {"layers": 2} | TEXTS.get(name, {})
    if name in OTHERS:
        vision = OTHERS[name]
    else:
        vision = open_clip.get_model_config(name)["vision_cfg"] | {"image_size": FAMILIES[name][0]}
        vision = {field: value for field, value in vision.items() if field not in ("timm_drop_path", "timm_drop")}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "custom_text": name in TEXTS, "quick_gelu": True}


@contextmanager
def small(name: str) -> Iterator[None]:
    """Inside, timm makes the family's tower small."""
    size, smaller = FAMILIES.get(name, (0, {}))
    real = timm.create_model
    if "convnext" not in name and "MobileCLIP2-S" not in name:
        smaller = smaller | ({"img_size": size} if size else {})

    def create(*names: str, **options: Any) -> Any:
        return real(*names, **(options | smaller))

    with patch.object(timm, "create_model", create):
        yield


def inputs(towers: Towers, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and captions of several lengths."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, *towers.image_size, 3), dtype=torch.uint8, generator=draw)
    texts = torch.zeros(count, 8, dtype=torch.int64)
    for row in range(count):
        end = row % 5 + 2
        texts[row, :end] = torch.randint(1, 1000, (end,), generator=draw)
        texts[row, end] = 49407
    return towers.normalise(images), texts


def write(name: str, folder: Path) -> None:
    """A checkpoint of the family as we export it, with statistics of its batch norms that are not those of new ones."""
    with small(name):
        towers = build(config(name), 0, World())
    with torch.no_grad():
        for _ in range(3):
            towers.model.train().encode_image(inputs(towers, 16)[0])
    (folder / "open_clip_config.json").write_text(json.dumps(towers.description))
    weights = {key: value.contiguous() for key, value in towers.model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def made(name: str, folder: Path, world: World | None = None, **options: Any) -> Towers:
    """The checkpoint of the family, prepared for training with these fields of ``Model``."""
    checkpointing = options.pop("grad_checkpointing", False)
    with small(name):
        part = Model(architecture=f"local-dir:{folder}", **options)
        return build(part, 5, world or World(), pretrained=folder, grad_checkpointing=checkpointing)


def embed(model: Any, images: torch.Tensor, texts: torch.Tensor) -> list[torch.Tensor]:
    """Vectors of unit length, by our ways through the model."""
    both = encode_image(model, images), encode_text(model, texts)
    return [torch.nn.functional.normalize(features.float(), dim=-1) for features in both]


def reference(name: str, folder: Path, images: torch.Tensor, texts: torch.Tensor) -> list[torch.Tensor]:
    """What open_clip itself computes with the folder."""
    with small(name), torch.no_grad():
        model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()
        return [model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)]


def distances(folders: dict[str, Path]) -> dict[str, float]:
    """On this rank: how far the embeddings of each model, sharded with FSDP2, are from open_clip's, at most."""
    found = {}
    world = World.join(torch.device("cpu"))
    for name, folder in folders.items():
        towers = made(name, folder, world, lock_image=0)
        settings = Config(batch_size=8, cluster={"parallel": "fsdp"})
        objective = InfoNCE(towers.model)
        model = wrap(objective, settings, world)
        towers.model.eval()
        images, texts = inputs(towers)
        with torch.no_grad():
            ours = model.call(embed, towers.model, images, texts)
        expected = reference(name, folder, images, texts)
        found[name] = max(float((a - b).abs().max()) for a, b in zip(ours, expected, strict=True))
    return found
