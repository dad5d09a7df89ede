"""A small CLIP that has learnt which captions go with which pictures: real towers, and two linear heads learnt here.

The towers are those of ``real_towers``; they stay as they are, so every picture and caption is encoded once and the
heads learn from the vectors within seconds. It is the weakest model that can tell a wrong caption at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import open_clip
import safetensors.torch
import torch
from torch.nn import functional

from tests.benchmarks.real_pool import Picture
from tests.benchmarks.real_towers import start_model

SIDE, BATCH, STEPS = 128, 512, 400


def learn(folder: Path, pairs: Sequence[Picture]) -> Path:
    """Write a model in open_clip's layout that has learnt from clean ``pairs``."""
    config = start_model(folder, SIDE)
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=32)([one.caption for one in pairs])
    model.eval()
    with torch.inference_mode():
        model.text.text_projection.copy_(torch.eye(256))
        images = torch.cat([model.visual.trunk(prepare(one.image(SIDE * 2))[None]) for one in pairs])
        texts = torch.cat([model.text(part) for part in tokens.split(64)])
    heads = _heads(images.clone(), texts.clone())
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(heads[0])
        model.text.text_projection.copy_(heads[1].T)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _heads(images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (256, n) of both heads, learnt by CLIP's loss."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(part.shape[1], 256, bias=False) for part in (images, texts)]
    scale = torch.nn.Parameter(torch.tensor(2.66))
    optimizer = torch.optim.AdamW([*layers[0].parameters(), *layers[1].parameters(), scale], lr=1e-3, weight_decay=0.1)
    for _ in range(STEPS):
        chosen = torch.randperm(len(images))[:BATCH]
        one = functional.normalize(layers[0](functional.dropout(images[chosen], 0.2)), dim=1)
        other = functional.normalize(layers[1](functional.dropout(texts[chosen], 0.1)), dim=1)
        logits = scale.exp().clamp(max=100) * one @ other.T
        right = torch.arange(len(chosen))
        loss = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layers[0].weight.detach(), layers[1].weight.detach()
