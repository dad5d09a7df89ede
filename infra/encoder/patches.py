"""An image's patches in the space that images and texts share, so that a text can be pointed at.

A ViT is trained to be right at its pooled token only, whose last attention gathers the image. Passed through that block
by their own values instead (MaskCLIP; Zhou et al. 2022, https://arxiv.org/abs/2112.01071), the other tokens stay where
they are and say what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from infra.errors import DataError

__all__ = ["by_attention", "by_value"]


def by_value(model: nn.Module, images: Tensor) -> Tensor:
    """The patches (b, rows, columns, d) of ``images`` (b, 3, h, w), each through the last block by itself.

    Raises DataError unless the image tower is a ViT of open_clip without pooling by attention.
    """
    return _patches(model, images, _own_values)


def by_attention(model: nn.Module, images: Tensor) -> Tensor:
    """As :func:`by_value`, but with the last block's attention."""
    return _patches(model, images, lambda block, x: block(x))


def _patches(model: nn.Module, images: Tensor, pass_last: Callable[[Any, Tensor], Tensor]) -> Tensor:
    visual = getattr(model, "visual", None)
    if (
        not isinstance(visual, VisionTransformer)
        or visual.attn_pool is not None
        or not visual.transformer.batch_first
        or not isinstance(visual.transformer.resblocks[-1], ResidualAttentionBlock)
    ):
        raise DataError(
            "the model's patches have no place among its texts",
            expected="a ViT of open_clip without attentional pooling",
            found=type(visual).__name__,
        )
    *blocks, last = visual.transformer.resblocks
    x = visual._embeds(images)
    for block in blocks:
        x = block(x)
    patches = visual.ln_post(pass_last(last, x)[:, 1:])
    if visual.proj is not None:
        patches = patches @ visual.proj
    rows, columns = visual.grid_size
    found: Tensor = patches.view(len(images), rows, columns, -1)
    return found


def _own_values(block: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    """The block's output for tokens ``x`` (b, n, width) that attend to themselves alone."""
    attention, width = block.attn, x.shape[2]
    values = F.linear(block.ln_1(x), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    x = x + block.ls_1(attention.out_proj(values))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out
