"""The pooled features and the tokens of open_clip's towers, as a fusion encoder reads them.

Tokens of captions are returned without padding, one caption after the other, as (tokens of all, width): captions have
twelve tokens of 77 on average, so padding would be most of the work. The image tower has a public method for its
tokens; the text tower is run from its parts, because open_clip's methods allow neither an extra embedding nor rows of
several captions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from infra.device import to_device
from infra.errors import ConfigError

__all__ = [
    "Rows",
    "Widths",
    "encode_images",
    "encode_texts",
    "image_width",
    "lengths_of",
    "shared_width",
    "text_tower",
    "text_width",
    "token_widths",
    "vocabulary_size",
    "word_embedding",
]


class Widths(NamedTuple):
    """Widths of the two towers' tokens, and the text tower's number of heads."""

    image: int
    text: int
    heads: int


def token_widths(model: nn.Module) -> Widths:
    """Return the widths of ``model``'s tokens. Raises ConfigError if its towers have no tokens to return."""
    return Widths(image_width(model), *text_width(model))


def shared_width(model: Any) -> int:  # noqa: ANN401 - open_clip is untyped
    """Return the width of the features that images and texts share, of any model with two towers."""
    tower = text_tower(model)
    if tower is not model:
        return int(tower.output_dim)
    match tower.text_projection:
        case None:
            return int(tower.transformer.width)
        case nn.Linear() as projection:
            return projection.out_features
        case projection:
            return int(projection.shape[1])


def image_width(model: Any) -> int:  # noqa: ANN401
    """Return the width of the image tower's tokens. Raises ConfigError if it has none to return."""
    visual = getattr(model, "visual", None)
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return int(visual.transformer.width)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "num_prefix_tokens"):
        return int(visual.trunk.embed_dim)
    raise ConfigError(
        "this objective attends to the image tower's tokens, and this image tower returns none",
        expected="a ViT of open_clip without attentional pooling, or a ViT of timm",
        found=_kind(visual),
        fix="take another vision_cfg, or another objective",
    )


def text_width(model: Any) -> tuple[int, int]:  # noqa: ANN401
    """Return the width of the text tower's tokens and its heads. Raises ConfigError if it has none to return."""
    tower = text_tower(model)
    if isinstance(model, CLIP) or (isinstance(model, CustomTextCLIP) and isinstance(tower, TextTransformer)):
        pool = tower.text_pool_type if tower is model else tower.pool_type
        if pool == "argmax" and getattr(tower, "cls_emb", None) is None:
            return int(tower.transformer.width), int(tower.transformer.resblocks[0].attn.num_heads)
        found = f"pool_type {pool!r}" if pool != "argmax" else "a class token"
    else:
        found = f"{_kind(tower)} in {_kind(model)}"
    raise ConfigError(
        "this objective attends to the text tower's tokens up to end-of-text, and this text tower does not fit",
        expected="open_clip's CLIP or CustomTextCLIP with its own text tower and pool_type 'argmax'",
        found=found,
        fix="take another text_cfg, or another objective",
    )


def vocabulary_size(model: Any) -> int:  # noqa: ANN401
    """Return how many words the text tower knows. Raises ConfigError if :func:`text_width` does."""
    text_width(model)
    return int(model.vocab_size)


def encode_images(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return pooled features (b, d), as ``model.encode_image`` does, and tokens (b, n, width) after the last norm."""
    outputs = model.visual.forward_intermediates(
        images,
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
    """Count the tokens of each of ``texts`` (b, context) up to end-of-text, CLIP's highest id: (b,), on the CPU."""
    return (texts.argmax(dim=-1) + 1).cpu()


def encode_texts(
    model: Any,  # noqa: ANN401
    texts: Tensor,
    lengths: Tensor,
    mask_embedding: Tensor | None = None,
    rows: Rows | None = None,
) -> tuple[Tensor, Tensor]:
    """Return pooled features (b, d), equal to ``model.encode_text``'s, and tokens (t, width) after the last norm.

    ``texts`` (b, context) and their ``lengths`` (of :func:`lengths_of`) are on the CPU. Where ``texts`` holds the size
    of the vocabulary, an id that no token has, ``mask_embedding`` (width,) replaces the embedding. ``rows``: the
    texts as the tower is to read them; one in a row without it.
    """
    tower = text_tower(model)
    device, dtype = tower.positional_embedding.device, tower.transformer.get_cast_dtype()
    rows = rows or _padded(tower, texts, lengths)
    ids, positions, places = (to_device(part, device) for part in (rows.ids, rows.positions, rows.places))

    embedded = tower.token_embedding(ids if mask_embedding is None else ids.clamp(max=model.vocab_size - 1))
    if mask_embedding is not None:
        embedded = torch.where((ids == model.vocab_size)[..., None], mask_embedding.to(embedded.dtype), embedded)
    x = embedded.to(dtype) + F.embedding(positions, tower.positional_embedding).to(dtype)
    mask = rows.mask if rows.mask is None else to_device(rows.mask, device)
    tokens = tower.ln_final(tower.transformer(x, attn_mask=mask).flatten(0, 1)[places])
    pooled = tokens[to_device(lengths.cumsum(0) - 1, device)]
    match tower.text_projection:
        case None:
            return pooled, tokens
        case nn.Linear() as projection:
            return projection(pooled), tokens
        case projection:
            return pooled @ projection, tokens


class Rows(NamedTuple):
    """The text tower's input, on the CPU."""

    ids: Tensor  # (rows, width)
    positions: Tensor  # (rows, width): each token's in its caption
    places: Tensor  # (t,): indices of the captions' tokens in the flattened rows, one caption after the other
    mask: Tensor | None  # added to the logits of attention


def _padded(tower: Any, texts: Tensor, lengths: Tensor) -> Rows:  # noqa: ANN401
    """Put one caption into a row, as open_clip does; cut to the longest caption if attention is causal."""
    mask = tower.attn_mask
    width = texts.shape[1] if mask is None else int(lengths.max())
    positions = torch.arange(width).expand(len(texts), -1)
    places = (positions < lengths[:, None]).flatten().nonzero()[:, 0]
    return Rows(texts[:, :width], positions, places, None if mask is None else mask[:width, :width])


def word_embedding(model: Any) -> Tensor:  # noqa: ANN401
    """Return the text tower's token embedding, (vocabulary, width)."""
    weight: Tensor = text_tower(model).token_embedding.weight
    return weight


def text_tower(model: Any) -> Any:  # noqa: ANN401
    """Return the module that has the text tower's parts."""
    return getattr(model, "text", model)


def _kind(module: object) -> str:
    if trunk := getattr(module, "trunk", None):
        return f"{type(module).__name__} of {type(trunk).__name__}"
    return type(module).__name__
