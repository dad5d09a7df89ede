"""Transformers that write a token at a time: keys and values of earlier tokens are kept, never computed again.

A row is a caption in the making. Each image has ``beams`` of them, side by side, and its own keys and values, which all
its rows read, are held once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from infra.errors import DataError

__all__ = ["Decoder", "Memory", "check_blocks", "look", "read"]


class Memory:
    """Keys and values by layer: of the tokens so far (rows, heads, t, d), and of images (images, heads, m, d)."""

    def __init__(self, images: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        self.images = images
        self.tokens: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new tokens to a layer; all of it."""
        if layer in self.tokens:
            before = self.tokens[layer]
            keys, values = torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)
        self.tokens[layer] = keys, values
        return keys, values

    def choose(self, rows: Tensor) -> None:
        """Keep these ``rows`` of the tokens, in this order. Rows of one image must stay adjacent."""
        self.tokens = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.tokens.items()}


class Decoder(ABC):
    """A model that has looked at some images and writes about them.

    ``start``, ``end`` and ``pad`` are tokens, ``context`` the most of them; ``numbers`` says which images of the set
    these are.
    """

    start: int
    end: int
    pad: int
    context: int
    numbers: range
    device: torch.device

    @abstractmethod
    def begin(self, beams: int) -> Memory:
        """Return what is known before the first token, for so many captions of each image."""

    @abstractmethod
    def step(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Logits (rows, vocabulary) of what follows ``tokens`` (rows,), which are added to the ``memory``."""


def read(block: Any, layer: int, x: Tensor, memory: Memory) -> Tensor:  # noqa: ANN401 - open_clip is untyped
    """Pass new tokens ``x`` (rows, t, width) through a block of causal self-attention and MLP, behind those before.

    Several at once only as the first ones.
    """
    query, key, value = _heads(block, block.ln_1(x), slice(None))
    keys, values = memory.extend(layer, key, value)
    mixed = F.scaled_dot_product_attention(query, keys, values, is_causal=x.shape[1] > 1)
    return _rest(block, x, mixed.transpose(1, 2).flatten(2))


def look(block: Any, layer: int, x: Tensor, memory: Memory) -> Tensor:  # noqa: ANN401
    """Pass one token of each row, ``x`` (rows, 1, width), through a block of attention to its image and MLP."""
    keys, values = memory.images[layer]
    rows = block.ln_1(x).view(len(keys), -1, x.shape[2])  # the rows of an image are queries of one attention
    (query,) = _heads(block, rows, slice(0, x.shape[2]))
    mixed = F.scaled_dot_product_attention(query, keys, values)
    return _rest(block, x, mixed.transpose(1, 2).reshape(x.shape))


def seen(block: Any, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Keys and values of images' tokens (images, m, width) for :func:`look`."""
    key, value = _heads(block, block.ln_1_kv(images), slice(images.shape[2], None))
    return key, value


def _heads(block: Any, x: Tensor, part: slice) -> tuple[Tensor, ...]:  # noqa: ANN401
    """Queries, keys and values of ``x``, or a part of these: each (rows, heads, t, d)."""
    attention = block.attn
    mapped = F.linear(x, attention.in_proj_weight[part], attention.in_proj_bias[part])
    heads = mapped.view(*x.shape[:2], -1, attention.num_heads, x.shape[2] // attention.num_heads)
    return tuple(heads.permute(2, 0, 3, 1, 4))


def _rest(block: Any, x: Tensor, mixed: Tensor) -> Tensor:  # noqa: ANN401
    x = x + block.ls_1(block.attn.out_proj(mixed))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out


def check_blocks(blocks: Sequence[nn.Module], name: str) -> None:
    """Raise DataError if a block attends in other ways than open_clip's own."""
    for block in blocks:
        attention = getattr(block, "attn", None)
        if not isinstance(block, ResidualAttentionBlock) or getattr(attention, "in_proj_bias", None) is None:
            raise DataError(
                f"{name} has blocks that cannot write a token at a time",
                expected="open_clip's ResidualAttentionBlock",
                found=type(block).__name__,
            )
