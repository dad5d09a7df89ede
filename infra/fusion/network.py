"""The fusion encoder: text tokens attend to image tokens, for image-text matching and masked language modelling.

Li et al. 2021, https://arxiv.org/abs/2107.07651, section 3.1, with CLIP's pre-norm layers in place of BERT's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from infra.device import to_device
from infra.fusion.heads import FusionModel, Heads
from infra.fusion.towers import Widths, encode_images, encode_texts

__all__ = ["Fusion", "FusionBlock", "Layout", "token_places"]


class Layout:
    """The mapping between unpadded tokens of several texts, one after the other, and padded rows.

    Layers that work on tokens one by one (nearly all the work) need no padding; only attention needs rows.
    """

    def __init__(self, lengths: Tensor, device: torch.device) -> None:
        """``lengths`` (t,), on the CPU."""
        self.texts, self.width = len(lengths), -(-int(lengths.max()) // 8) * 8
        real = torch.arange(self.width) < lengths[:, None]
        self.real = to_device(real[:, None, None], device)  # (t, 1, 1, width): attention mask
        self.places = to_device(real.flatten().nonzero()[:, 0], device)  # index of each token in the flattened rows
        self.ends = to_device(lengths.cumsum(0) - 1, device)  # index of each text's last token

    def rows(self, tokens: Tensor) -> Tensor:
        """Pad: (tokens, d) to (t, width, d)."""
        rows = tokens.new_zeros(self.texts * self.width, tokens.shape[1]).index_copy(0, self.places, tokens)
        return rows.view(self.texts, self.width, -1)

    def tokens(self, rows: Tensor) -> Tensor:
        """Remove the padding: (t, width, d) to (tokens, d)."""
        return rows.flatten(0, 1)[self.places]


def token_places(lengths: Tensor, chosen: Tensor) -> Tensor:
    """Return the indices of the tokens of the texts ``chosen`` (k,) among all tokens; all on the CPU.

    ``lengths`` (t,) are those of all texts, whose tokens lie one text after the other.
    """
    starts, counts = lengths.cumsum(0) - lengths, lengths[chosen]
    return torch.arange(int(counts.sum())) + (starts[chosen] - counts.cumsum(0) + counts).repeat_interleave(counts)


class Fusion(FusionModel):
    """A transformer over text tokens with cross-attention to image tokens, on the tokens of open_clip's two towers."""

    def __init__(self, widths: Widths, layers: int, heads: Heads) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FusionBlock(widths, (3 * layers) ** -0.5) for _ in range(layers))
        self.norm = nn.LayerNorm(widths.text)
        self.add_heads(widths.text, widths.text, heads)

    def forward(self, tokens: Tensor, layout: Layout, images: Tensor, image_of: Tensor) -> Tensor:
        """Fuse ``tokens`` (tokens of t texts, width) with ``images`` (i, n, image width): same shape as ``tokens``.

        ``image_of`` (t,) is the number of each text's image. A token attends to all tokens of its text, in both
        directions, and of its image.
        """
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, layout, images, image_of, use_reentrant=False)
            else:
                tokens = block(tokens, layout, images, image_of)
        fused: Tensor = self.norm(tokens)
        return fused

    def read_images(self, model: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - open_clip is untyped
        return encode_images(model, images)[1]

    def read_texts(self, model: Any, texts: Tensor, lengths: Tensor, *, masked: bool = False) -> Tensor:  # noqa: ANN401
        return encode_texts(model, texts, lengths, self.mask_embedding if masked else None)[1]

    def fuse(self, model: Any, tokens: Tensor, layout: Layout, images: Tensor, image_of: Tensor) -> Tensor:  # noqa: ANN401
        fused: Tensor = self(tokens, layout, images, image_of)
        return fused


class FusionBlock(nn.Module):
    """A pre-norm block of self-attention, cross-attention to the other stream's tokens and an MLP."""

    def __init__(self, widths: Widths, damp: float) -> None:
        super().__init__()
        width, self.heads = widths.text, widths.heads
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_in, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.cross_query, self.cross_out = nn.Linear(width, width), nn.Linear(width, width)
        self.cross_image = nn.Linear(widths.image, 2 * width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for name, layer in self.named_children():
            if isinstance(layer, nn.Linear):  # as CLIP: the sum of all residual branches has unit variance
                nn.init.normal_(layer.weight, std=width**-0.5 * (damp if name.endswith("_out") else 1.0))
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.cross_image.weight, std=widths.image**-0.5)
        nn.init.normal_(self.mlp_in.weight, std=(2 * width) ** -0.5)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        images: Tensor,
        image_of: Tensor | None = None,
        real: Tensor | None = None,
    ) -> Tensor:
        """Tokens ``x`` of several texts and ``images`` (i, n, width): same shape as ``x``.

        ``image_of`` (t,) is the number of each text's image, without it each has its own. ``real`` (i, 1, 1, n) says
        which tokens of an image there are; without it all.
        """
        query, key, value = self._split(layout.rows(self.self_in(self.self_norm(x))), 3)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=layout.real)
        x = x + self.self_out(layout.tokens(_join(attended)))
        # An image has more tokens than a text and is paired with several texts: its keys and values are computed once.
        key, value = self._split(self.cross_image(images), 2)
        if image_of is not None:
            key, value = key[image_of], value[image_of]
        (query,) = self._split(layout.rows(self.cross_query(self.cross_norm(x))), 1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=real)
        x = x + self.cross_out(layout.tokens(_join(attended)))
        out: Tensor = x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))
        return out

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (b, n, parts * width) into ``parts`` tensors (b, heads, n, width / heads)."""
        batch, length, width = x.shape
        heads = x.view(batch, length, parts, self.heads, width // (parts * self.heads))
        return tuple(heads.permute(2, 0, 3, 1, 4))


def _join(x: Tensor) -> Tensor:
    """Merge the heads: (b, heads, n, width / heads) to (b, n, width)."""
    return x.transpose(1, 2).flatten(2)
