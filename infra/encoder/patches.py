"""An image's patches in the space that images and texts share, so that a text can be pointed at.

A ViT is trained to be right at its pooled token only, whose last attention gathers the image. Passed through that block
by their own values instead (MaskCLIP; Zhou et al. 2022, https://arxiv.org/abs/2112.01071), the other tokens stay where
they are and say what is there.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from infra.encoder import Way
from infra.errors import DataError

__all__ = ["patch_features"]


def patch_features(model: Any, images: Tensor, way: Way, name: str) -> Tensor:  # noqa: ANN401 - open_clip is untyped
    """Return a unit vector for each patch of ``images`` (b, 3, h, w): (b, rows, columns, d).

    Raises DataError, with the model's ``name``, unless its image tower is a ViT of open_clip without pooling by
    attention.
    """
    visual = getattr(model, "visual", None)
    if (
        not isinstance(visual, VisionTransformer)
        or visual.attn_pool is not None
        or not visual.transformer.batch_first
        or not isinstance(visual.transformer.resblocks[-1], ResidualAttentionBlock)
    ):
        raise DataError(
            f"the patches of {name} have no place among its texts",
            expected="a ViT of open_clip without attentional pooling",
            found=type(visual).__name__,
        )
    *blocks, last = visual.transformer.resblocks
    x = visual._embeds(images)
    for block in blocks:
        x = block(x)
    x = _own_values(last, x) if way == "value" else last(x)
    patches = visual.ln_post(x[:, 1:])
    if visual.proj is not None:
        patches = patches @ visual.proj
    rows, columns = visual.grid_size
    found: Tensor = F.normalize(patches.float(), dim=-1).view(len(images), rows, columns, -1)
    return found


def _own_values(block: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    """The block's output for tokens ``x`` (b, n, width) that attend to themselves alone."""
    attention, width = block.attn, x.shape[2]
    values = F.linear(block.ln_1(x), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    x = x + block.ls_1(attention.out_proj(values))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out
