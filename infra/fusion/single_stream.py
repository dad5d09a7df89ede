"""The single-stream fusion encoder: words and patches, each by one linear layer, in one transformer.

Kim et al. 2021, https://arxiv.org/abs/2102.03334. As there the transformer is a ViT: the blocks, the projection of
patches and the last norm are those of open_clip's image tower, the embedding of words is that of its text tower, so the
model's weights stay loadable by open_clip and may start from a trained one's. The text tower's blocks are not used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from infra.device import to_device
from infra.errors import ConfigError
from infra.fusion.heads import FusionModel, Heads, parameters_of
from infra.fusion.network import Layout
from infra.fusion.towers import image_width, text_tower, text_width

__all__ = ["SingleStream"]


class SingleStream(FusionModel):
    """The modules that ViLT adds to the image tower: the projection of words, the embeddings of token kinds, the heads.

    Raises ConfigError unless ``model``'s image tower is a ViT of open_clip.
    """

    def __init__(self, model: Any, heads: Heads) -> None:  # noqa: ANN401
        super().__init__()
        width, (embedding, _) = image_width(model), text_width(model)
        visual = model.visual
        if not isinstance(visual, VisionTransformer) or not visual.transformer.batch_first:
            raise ConfigError(
                "words and patches share the image tower's transformer, and this tower has none that could be shared",
                expected="a ViT of open_clip",
                found=type(visual).__name__,
                fix="take another vision_cfg, or another objective",
            )
        self.word_in = nn.Linear(embedding, width)
        self.word_norm = nn.LayerNorm(width)
        self.kinds = nn.Parameter(0.02 * torch.randn(2, width))  # of words and of patches
        self.add_heads(width, embedding, heads)

    def unused(self, model: Any) -> list[nn.Parameter]:  # noqa: ANN401
        tower = text_tower(model)
        return super().unused(model) + parameters_of([tower.transformer, tower.ln_final])

    def read_images(self, model: Any, images: Tensor) -> Tensor:  # noqa: ANN401
        patches: Tensor = model.visual._embeds(images)
        return patches + self.kinds[1]

    def read_texts(self, model: Any, texts: Tensor, lengths: Tensor, *, masked: bool = False) -> Tensor:  # noqa: ANN401
        tower = text_tower(model)
        device = tower.positional_embedding.device
        places = torch.arange(texts.shape[1]).expand(len(texts), -1)
        real = places < lengths[:, None]
        ids, places = to_device(texts[real], device), to_device(places[real], device)
        words = tower.token_embedding(ids.clamp(max=model.vocab_size - 1) if masked else ids)
        if masked:
            words = torch.where((ids == model.vocab_size)[:, None], self.mask_embedding.to(words.dtype), words)
        words = words + F.embedding(places, tower.positional_embedding)
        entered: Tensor = self.word_norm(self.word_in(words))
        return entered + self.kinds[0]

    def fuse(self, model: Any, tokens: Tensor, layout: Layout, images: Tensor, image_of: Tensor) -> Tensor:  # noqa: ANN401
        rows = self.fuse_rows(model, tokens, layout, images, image_of)
        fused: Tensor = model.visual.ln_post(layout.tokens(rows[:, : layout.width]))
        return fused

    def fuse_rows(self, model: Any, tokens: Tensor, layout: Layout, images: Tensor, image_of: Tensor) -> Tensor:  # noqa: ANN401
        """The rows of texts, padded, with the tokens of their images behind: (t, layout.width + n, width).

        They are before the last norm, which :meth:`fuse` spares the patches.
        """
        transformer = model.visual.transformer
        rows, patches = layout.rows(tokens), images[image_of]
        x = torch.cat([rows, patches.to(rows.dtype)], dim=1)
        real = F.pad(layout.real, (0, patches.shape[1]), value=True)  # (t, 1, 1, width + patches)
        hidden = torch.zeros_like(real, dtype=x.dtype).masked_fill_(~real, -torch.inf)
        texts, length = x.shape[:2]
        for block in transformer.resblocks:
            # torch's attention wants a mask for each head.
            plain = type(block) is ResidualAttentionBlock
            heads = block.attn.num_heads if plain else 1
            mask = hidden.expand(texts, heads, length, length)
            mask = mask.flatten(0, 1) if plain else mask
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, None, None, mask, use_reentrant=False)
            else:
                x = block(x, attn_mask=mask)
        return x
