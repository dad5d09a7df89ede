"""open_clip's transformer blocks, doing no more work than the result needs.

A tower is read at one token: the class token of an image, the end-of-text token of a caption. What the last block makes
of the other tokens is thrown away, so :func:`through` computes it for the pooled tokens only: keys and values of all,
everything else of one. That spares 10/12 of a block: a twelfth of ViT-B, a fifth of a tower of four blocks. And
attention takes queries, keys and values as views of one projection, where ``nn.MultiheadAttention`` makes copies.

Both are exact: the same sums in the same precision. Blocks stay open_clip's modules, with their names, weights, hooks
and ``forward``, so checkpoints, FSDP, torch.compile and gradient checkpointing see nothing new.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["Block", "compile_blocks", "encode_image", "lean", "pixels_for", "run", "through"]


class Block(ResidualAttentionBlock):  # type: ignore[misc] # open_clip has no types
    """A pre-norm block of attention and MLP. Instances are made by :func:`lean` from open_clip's."""

    def forward(
        self,
        q_x: Tensor,
        k_x: None = None,
        v_x: None = None,
        attn_mask: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """``q_x`` (n, l, d) -> (n, l, d), or (n, q, d) at the positions ``at`` (n, q).

        ``attn_mask`` is added to the logits: (l, l), (n, 1 or heads, l, l) or (n * heads, l, l). Others than self
        attention open_clip's towers do not ask for, so ``k_x`` and ``v_x`` only keep their places.
        """
        assert k_x is None, "open_clip's towers know self-attention only"
        assert v_x is None, "open_clip's towers know self-attention only"
        x = q_x if at is None else _take(q_x, at)
        x = x + self.ls_1(self._attend(self.ln_1(q_x), attn_mask, at))
        result: Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return result

    def _attend(self, x: Tensor, mask: Tensor | None, at: Tensor | None) -> Tensor:
        n, length, width = x.shape
        heads, weight, bias = self.attn.num_heads, self.attn.in_proj_weight, self.attn.in_proj_bias
        if at is None:
            q, k, v = F.linear(x, weight, bias).view(n, length, 3, heads, -1).transpose(1, 3).unbind(2)
        else:
            q = F.linear(_take(x, at), weight[:width], bias[:width]).view(n, at.shape[1], heads, -1).transpose(1, 2)
            k, v = F.linear(x, weight[width:], bias[width:]).view(n, length, 2, heads, -1).transpose(1, 3).unbind(2)
        if mask is not None:
            mask = mask.to(x.dtype) if mask.ndim > 2 else mask.to(x.dtype)[None, None]
            mask = mask.view(n, heads, length, length) if mask.ndim == 3 else mask.expand(n, -1, -1, -1)
            if at is not None:
                mask = mask.gather(2, at[:, None, :, None].expand(n, mask.shape[1], -1, length))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.attn.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _take(x: Tensor, at: Tensor) -> Tensor:
    """(n, l, d) at the positions (n, q) -> (n, q, d)."""
    return x.gather(1, at[:, :, None].expand(-1, -1, x.shape[2]))


def lean(model: nn.Module) -> nn.Module:
    """``model`` with the blocks of its towers as :class:`Block`, wherever they are what that class can stand for."""
    towers: list[Any] = [module for module in model.modules() if type(module) is Transformer]  # not CoCa's decoder
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
                block.__class__ = Block
    return model


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """torch.compile for each block of ``model``, in place: names stay, and equal blocks share their code.

    The blocks are most of the work; around them is what depends on the batch (packing, patch dropout), which would be
    compiled again and again. To be called before FSDP or DDP is wrapped around.
    """
    import torch._dynamo

    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, 64)  # two towers, first and last blocks, modes, shapes
    for group in model.modules():
        if isinstance(group, (nn.ModuleList, nn.Sequential)) and len(group) > 1 and len({*map(type, group)}) == 1:
            for block in group:
                if next(block.children(), None) is not None:
                    block.compile(backend=backend)


def through(transformer: Any, x: Tensor, mask: Tensor | None, at: Tensor) -> Tensor:  # noqa: ANN401 - open_clip's
    """Tokens ``x`` (n, l, d) through all blocks -> (n, q, d) at the positions ``at`` (n, q)."""
    *blocks, last = transformer.resblocks
    for block in blocks:
        x = run(transformer, block, x, attn_mask=mask)
    if isinstance(last, Block):
        return run(transformer, last, x, attn_mask=mask, at=at)
    return _take(run(transformer, last, x, attn_mask=mask), at)


def run(transformer: Any, block: nn.Module, x: Tensor, **arguments: Tensor | None) -> Tensor:  # noqa: ANN401
    """``block(x, **arguments)``, its activations kept or computed again as ``transformer`` has it."""
    kept = not transformer.grad_checkpointing
    y: Tensor = block(x, **arguments) if kept else checkpoint(partial(block, **arguments), x, use_reentrant=False)
    return y


def pixels_for(visual: nn.Module, images: Tensor) -> Tensor:
    """``images`` in what the tower's first layer is kept in: weights may be bf16, all but gains and embeddings."""
    return images.to(next((weight.dtype for weight in visual.parameters() if weight.ndim == 4), images.dtype))


def encode_image(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - open_clip's models share methods, no type
    """``model.encode_image(images)``: (b, 3, h, w) -> (b, d); a ViT read at its class token stops there."""
    features: Tensor
    visual = getattr(model, "visual", None)
    if visual is not None:
        images = pixels_for(visual, images)
    if not (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and visual.transformer.batch_first
    ):
        features = model.encode_image(images)
        return features
    x = visual._embeds(images)
    x = through(visual.transformer, x, None, torch.zeros(len(x), 1, dtype=torch.int64, device=x.device))
    features = visual.ln_post(x[:, 0])
    return features if visual.proj is None else features @ visual.proj
