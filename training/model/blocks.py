"""Faster forward passes for open_clip's transformer blocks, with the same weights and the same results.

A tower is read at one token: the class token of an image, the end-of-text token of a caption. What the last block
computes for the other tokens is thrown away, so :func:`run_blocks` computes the last block at the pooled tokens only:
keys and values of all tokens, everything else of one. That saves 10/12 of a block: a twelfth of ViT-B, a fifth of a
tower of four blocks. And attention takes queries, keys and values as views of one projection, where
``nn.MultiheadAttention`` makes copies.

Both are exact: the same sums in the same precision. Blocks stay open_clip's modules, with their names, weights, hooks
and ``forward``, so checkpoints, FSDP, torch.compile and gradient checkpointing work as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = [
    "FastBlock",
    "compile_blocks",
    "encode_image",
    "repeated_blocks",
    "run_block",
    "run_blocks",
    "use_fast_blocks",
]


class FastBlock(ResidualAttentionBlock):  # type: ignore[misc] # open_clip has no types
    """A pre-norm block of self-attention and MLP. :func:`use_fast_blocks` makes them from open_clip's blocks."""

    def forward(
        self,
        q_x: Tensor,
        k_x: None = None,
        v_x: None = None,
        attn_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Map tokens ``q_x`` (n, l, d) to (n, l, d), or to (n, q, d) at the given ``positions`` (n, q).

        ``attn_mask`` is added to the logits: (l, l), (n, 1 or heads, l, l) or (n * heads, l, l). ``k_x`` and ``v_x``
        keep open_clip's signature; its towers use self-attention only.
        """
        assert k_x is None, "open_clip's towers use self-attention only"
        assert v_x is None, "open_clip's towers use self-attention only"
        x = q_x if positions is None else _take(q_x, positions)
        x = x + self.ls_1(self._attend(self.ln_1(q_x), attn_mask, positions))
        result: Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return result

    def _attend(self, x: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        n, length, width = x.shape
        heads, weight, bias = self.attn.num_heads, self.attn.in_proj_weight, self.attn.in_proj_bias
        # One projection for queries, keys and values; with positions, queries are needed there only.
        if positions is None:
            q, k, v = F.linear(x, weight, bias).view(n, length, 3, heads, -1).transpose(1, 3).unbind(2)
        else:
            queries = F.linear(_take(x, positions), weight[:width], bias[:width])
            q = queries.view(n, positions.shape[1], heads, -1).transpose(1, 2)
            k, v = F.linear(x, weight[width:], bias[width:]).view(n, length, 2, heads, -1).transpose(1, 3).unbind(2)
        # Bring every form of mask to (n, heads or 1, l, l), then to the rows of the queries.
        if mask is not None:
            mask = mask.to(x.dtype) if mask.ndim > 2 else mask.to(x.dtype)[None, None]
            mask = mask.view(n, heads, length, length) if mask.ndim == 3 else mask.expand(n, -1, -1, -1)
            if positions is not None:
                mask = mask.gather(2, positions[:, None, :, None].expand(n, mask.shape[1], -1, length))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.attn.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _take(x: Tensor, positions: Tensor) -> Tensor:
    """Select tokens of ``x`` (n, l, d) at ``positions`` (n, q): (n, q, d)."""
    return x.gather(1, positions[:, :, None].expand(-1, -1, x.shape[2]))


def use_fast_blocks(model: nn.Module) -> nn.Module:
    """Turn the blocks of ``model``'s towers into :class:`FastBlock`, in place, where they compute the same; return it.

    Left as they are: CoCa's decoder, blocks of other classes, and attention with dropout, without biases or with
    options that open_clip's towers do not use.
    """
    towers: list[Any] = [module for module in model.modules() if type(module) is Transformer]
    for tower in towers:
        for block in tower.resblocks:
            attention = block.attn
            if (
                type(block) is ResidualAttentionBlock
                and attention._qkv_same_embed_dim
                and attention.in_proj_bias is not None
                and attention.bias_k is None
                and not attention.add_zero_attn
                and attention.dropout == 0
            ):
                block.__class__ = FastBlock
    return model


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated blocks of a network (transformer layers, residual blocks), outermost first.

    They are what open_clip, timm and transformers keep in lists: composite modules, all of one class.
    """
    for group in module.modules():
        if isinstance(group, (nn.ModuleList, nn.Sequential)) and len(group) > 1 and len({*map(type, group)}) == 1:
            for block in group:
                if next(block.children(), None) is not None:
                    yield block


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Apply torch.compile to each repeated block of ``model``, in place; names stay, and equal blocks share their code.

    The blocks are most of the work; the code around them depends on the batch (packing, patch dropout) and would be
    recompiled again and again. Call it before wrapping the model in FSDP or DDP.
    """
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, 64)  # two towers, first and last blocks, modes, shapes
    for block in repeated_blocks(model):
        block.compile(backend=backend)


def run_blocks(transformer: Any, x: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:  # noqa: ANN401
    """Pass tokens ``x`` (n, l, d) through all blocks; return them at ``positions`` (n, q) only: (n, q, d)."""
    *blocks, last = transformer.resblocks
    for block in blocks:
        x = run_block(transformer, block, x, attn_mask=mask)
    if isinstance(last, FastBlock):
        return run_block(transformer, last, x, attn_mask=mask, positions=positions)
    return _take(run_block(transformer, last, x, attn_mask=mask), positions)


def run_block(transformer: Any, block: nn.Module, x: Tensor, **arguments: Tensor | None) -> Tensor:  # noqa: ANN401
    """Return ``block(x, **arguments)``, with gradient checkpointing where ``transformer`` is set to it."""
    if transformer.grad_checkpointing:
        recomputed: Tensor = checkpoint(partial(block, **arguments), x, use_reentrant=False)
        return recomputed
    y: Tensor = block(x, **arguments)
    return y


def encode_image(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - open_clip's models share methods, no type
    """Return ``model.encode_image(images)``: (b, 3, h, w) to (b, d).

    For a ViT that is read at its class token, the last block runs at that token only.
    """
    features: Tensor
    visual = getattr(model, "visual", None)
    if not (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and visual.transformer.batch_first
    ):
        features = model.encode_image(images)
        return features
    x = visual._embeds(images)
    x = run_blocks(visual.transformer, x, None, torch.zeros(len(x), 1, dtype=torch.int64, device=x.device))
    features = visual.ln_post(x[:, 0])
    return features if visual.proj is None else features @ visual.proj
