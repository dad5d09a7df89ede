"""open_clip's towers token by token: what a fusion encoder reads, beside the pooled features.

Tokens of captions come without padding, one caption after the other, as (tokens of all, width): captions have twelve
tokens of 77 on average, so that is most of the work. The image tower has a public way to its tokens; the text tower is
run from its parts, as open_clip's own ways allow neither an embedding of ours nor rows of several captions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.model.blocks import Block, pixels_for
from training.model.text import pack

__all__ = ["Widths", "encode_images", "encode_texts", "lengths_of", "measure", "send", "shared_width", "word_embedding"]


class Widths(NamedTuple):
    """Of the tokens of the two towers; of the text tower also its heads."""

    image: int
    text: int
    heads: int


def measure(model: nn.Module) -> Widths:
    """The widths of ``model``'s tokens. Raises ConfigError if its towers do not hand out tokens."""
    return Widths(_image_width(model), *_text_width(model))


def shared_width(model: Any) -> int:  # noqa: ANN401 - open_clip is untyped
    """The width of the features that images and texts are compared by; of any model with two towers."""
    tower = _text_tower(model)
    if tower is not model:
        return int(tower.output_dim)
    match tower.text_projection:
        case None:
            return int(tower.transformer.width)
        case nn.Linear() as projection:
            return projection.out_features
        case projection:
            return int(projection.shape[1])


def _image_width(model: Any) -> int:  # noqa: ANN401
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    visual = getattr(model, "visual", None)
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return int(visual.transformer.width)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "num_prefix_tokens"):
        return int(visual.trunk.embed_dim)
    raise ConfigError(
        "this objective attends to the image tower's tokens, and this tower has none to give",
        expected="a ViT of open_clip without attentional pooling, or a ViT of timm",
        found=_kind(visual),
        fix="take another vision_cfg, or another objective",
    )


def _text_width(model: Any) -> tuple[int, int]:  # noqa: ANN401
    from open_clip import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    tower = _text_tower(model)
    if isinstance(model, CLIP) or (isinstance(model, CustomTextCLIP) and isinstance(tower, TextTransformer)):
        pool = tower.text_pool_type if tower is model else tower.pool_type
        if pool == "argmax" and getattr(tower, "cls_emb", None) is None:
            return int(tower.transformer.width), int(tower.transformer.resblocks[0].attn.num_heads)
        found = f"pool_type {pool!r}" if pool != "argmax" else "a class token"
    else:
        found = f"{_kind(tower)} in {_kind(model)}"
    raise ConfigError(
        "this objective attends to the text tower's tokens, up to the end-of-text token; this tower does not fit",
        expected="open_clip's CLIP or CustomTextCLIP with its own text tower and pool_type 'argmax'",
        found=found,
        fix="take another text_cfg, or another objective",
    )


def encode_images(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Pooled features (b, d), those of ``model.encode_image``, and all tokens (b, n, width) after the last norm."""
    outputs = model.visual.forward_intermediates(
        pixels_for(model.visual, images),
        indices=1,
        normalize_intermediates=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    (tokens,) = outputs["image_intermediates"]
    if prefix := outputs.get("image_intermediates_prefix"):
        tokens = torch.cat([prefix[0], tokens], dim=1)
    return outputs["image_features"], tokens


def lengths_of(texts: Tensor) -> Tensor:
    """Tokens of each of ``texts`` (b, context) up to its end-of-text token, CLIP's highest id: (b,), on the CPU."""
    return (texts.argmax(dim=-1) + 1).cpu()


def encode_texts(model: Any, texts: Tensor, lengths: Tensor, blank: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Pooled features (b, d), those of ``model.encode_text``, and all captions' tokens (t, width) after the last norm.

    ``texts`` (b, context) and :func:`lengths_of` them lie on the CPU. Where ``texts`` holds the vocabulary's size,
    which no token has, ``blank`` (width,) stands in for the embedding.
    """
    tower = _text_tower(model)
    device, dtype = tower.positional_embedding.device, tower.transformer.get_cast_dtype()
    rows = _packed(tower, texts, lengths) if _takes_packed(tower) else _padded(tower, texts, lengths)
    ids, positions, places = (send(part, device) for part in (rows.ids, rows.positions, rows.places))

    embedded = tower.token_embedding(ids if blank is None else ids.clamp(max=model.vocab_size - 1))
    if blank is not None:
        embedded = torch.where((ids == model.vocab_size)[..., None], blank.to(embedded.dtype), embedded)
    x = embedded.to(dtype) + F.embedding(positions, tower.positional_embedding).to(dtype)
    mask = rows.mask if rows.mask is None else send(rows.mask, device)
    tokens = tower.ln_final(tower.transformer(x, attn_mask=mask).flatten(0, 1)[places])
    pooled = tokens[send(lengths.cumsum(0) - 1, device)]
    match tower.text_projection:
        case None:
            return pooled, tokens
        case nn.Linear() as projection:
            return projection(pooled), tokens
        case projection:
            return pooled @ projection, tokens


class _Rows(NamedTuple):
    """Captions as the text tower takes them, on the CPU."""

    ids: Tensor  # (rows, width)
    positions: Tensor  # (rows, width): each token's in its caption
    places: Tensor  # (t,): where, in the flattened rows, the captions' tokens are, one caption after the other
    mask: Tensor | None  # added to the logits of attention


def _packed(tower: Any, texts: Tensor, lengths: Tensor) -> _Rows:  # noqa: ANN401
    """Several captions in a row, each token seeing its own caption up to itself."""
    packing = pack(lengths.numpy(), texts.shape[1])
    source, segment = packing.source.ravel(), torch.from_numpy(packing.segment)
    used = np.flatnonzero(packing.segment.ravel() >= 0)
    places = torch.from_numpy(used[np.argsort(source[used])])
    unseen = (segment[:, None, :, None] != segment[:, None, None, :]).logical_or_(
        torch.ones(2 * segment.shape[1:], dtype=torch.bool).triu_(1)
    )
    mask = torch.zeros(unseen.shape).masked_fill_(unseen, -torch.inf)
    ids = texts.flatten()[torch.from_numpy(packing.source)]
    return _Rows(ids, torch.from_numpy(packing.position), places, mask)


def _padded(tower: Any, texts: Tensor, lengths: Tensor) -> _Rows:  # noqa: ANN401
    """A caption in a row, as open_clip has it; up to the longest if none sees what comes after it."""
    mask = tower.attn_mask
    width = texts.shape[1] if mask is None else int(lengths.max())
    positions = torch.arange(width).expand(len(texts), -1)
    places = (positions < lengths[:, None]).flatten().nonzero()[:, 0]
    return _Rows(texts[:, :width], positions, places, None if mask is None else mask[:width, :width])


def _takes_packed(tower: Any) -> bool:  # noqa: ANN401
    """Whether attention is causal and takes a mask per row, which ``nn.MultiheadAttention`` does not."""
    return tower.attn_mask is not None and all(isinstance(block, Block) for block in tower.transformer.resblocks)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; to a GPU from pinned memory, or the copy would wait for what the GPU has yet to do."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def word_embedding(model: Any) -> Tensor:  # noqa: ANN401
    """The text tower's, (vocabulary, width)."""
    weight: Tensor = _text_tower(model).token_embedding.weight
    return weight


def _text_tower(model: Any) -> Any:  # noqa: ANN401
    return getattr(model, "text", model)


def _kind(module: object) -> str:
    if trunk := getattr(module, "trunk", None):
        return f"{type(module).__name__} of {type(trunk).__name__}"
    return type(module).__name__
