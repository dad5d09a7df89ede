"""The two-stream fusion encoder: words and a detector's regions, each in a stream that attends to the other.

Lu et al. 2019, https://arxiv.org/abs/1908.02265, section 2. The words come from open_clip's text tower; the regions
begin where co-attention does, as there. A layer of either stream is ALBEF's (:class:`.network.FusionBlock`), pre-norm
in place of BERT's, and both streams are as wide as the text tower. Whether image and text match is read at the text's
last token, as in the other encoders here, in place of the paper's product of two tokens. open_clip's image tower is not
used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from infra.formats.region_shape import RegionShape
from infra.fusion.heads import FusionModel, Heads, linear_in_fp32, parameters_of
from infra.fusion.network import FusionBlock, Layout
from infra.fusion.towers import Widths, encode_texts, text_width

__all__ = ["CoAttention"]


class CoAttention(FusionModel):
    """The modules that ViLBERT adds to open_clip's text tower, for regions of ``shape``.

    With classes in the shape, masked regions' classes are guessed. Raises ConfigError for a text tower without tokens.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - open_clip is untyped
        layers: int,
        shape: RegionShape,
        heads: Heads,
    ) -> None:
        super().__init__()
        width, attention_heads = text_width(model)
        widths, damp, self.shape = Widths(width, width, attention_heads), (3 * layers) ** -0.5, shape
        self.feature_in, self.place_in = nn.Linear(shape.features, width), nn.Linear(5, width)
        self.region_norm = nn.LayerNorm(width)
        self.word_blocks = nn.ModuleList(FusionBlock(widths, damp) for _ in range(layers))
        # Without classes to guess nobody reads what the last layer would make of the regions.
        self.region_blocks = nn.ModuleList(FusionBlock(widths, damp) for _ in range(layers - (not shape.classes)))
        self.norm = nn.LayerNorm(width)
        if shape.classes:
            hidden = nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)
            self.class_head = nn.Sequential(*hidden, nn.Linear(width, shape.classes))
        self.add_heads(width, width, heads)

    @property
    def regions(self) -> RegionShape:
        return self.shape._replace(classes=0, pictures=self.images)

    def unused(self, model: Any) -> list[nn.Parameter]:  # noqa: ANN401
        return super().unused(model) + parameters_of([model.visual])

    def split(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split regions (b, n, columns): features (b, n, d), boxes (b, n, 4), class probabilities (b, n, c or 0)."""
        width = self.shape.features
        return table[..., :width], table[..., width : width + 4], table[..., width + 4 :]

    def apart(self, images: Tensor) -> Tensor:
        samples, rows, columns = images.shape
        return images.reshape(samples * self.images, rows // self.images, columns)

    def read_images(self, model: Any, images: Tensor) -> Tensor:  # noqa: ANN401
        """The tokens (b, n, width) of tables of regions ``images`` (b, n, columns); zeros where there is no region."""
        features, boxes, _ = self.split(images)
        sides = boxes[..., 2:] - boxes[..., :2]
        places = torch.cat([boxes, sides.prod(-1, keepdim=True)], dim=-1)
        tokens: Tensor = self.region_norm(self.feature_in(features) + self.place_in(places))
        return tokens * (sides[..., :1] > 0)

    def read_texts(self, model: Any, texts: Tensor, lengths: Tensor, *, masked: bool = False) -> Tensor:  # noqa: ANN401
        return encode_texts(model, texts, lengths, self.mask_embedding if masked else None)[1]

    def fuse(self, model: Any, tokens: Tensor, layout: Layout, images: Tensor, image_of: Tensor) -> Tensor:  # noqa: ANN401
        return self.forward(tokens, layout, images, image_of)[0]

    def forward(self, tokens: Tensor, layout: Layout, images: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the tokens of t texts with regions: (tokens, width), and each text's regions (t, n, width).

        Of the latter those that :meth:`read_images` left at zero mean nothing. They are before the last norm.
        """
        regions = images[image_of]
        rows = _Rows(regions)
        words, seen = tokens, regions.flatten(0, 1)
        for number, block in enumerate(self.word_blocks):
            # Each stream reads the other as it was before this layer.
            beside, read = rows.rows(seen), layout.rows(words)
            words = self._run(block, words, layout, beside, rows.real)
            if number < len(self.region_blocks):
                seen = self._run(self.region_blocks[number], seen, rows, read, layout.real)
        return self.norm(words), rows.rows(seen)

    def guess_classes(self, regions: Tensor) -> Tensor:
        """Return logits (k, classes) of the detector's classes at regions (k, width); at least fp32."""
        *hidden, last = self.class_head
        for layer in hidden:
            regions = layer(regions)
        return linear_in_fp32(regions, last.weight, last.bias)  # type: ignore[arg-type]

    def _run(self, block: nn.Module, x: Tensor, layout: Layout | _Rows, beside: Tensor, real: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            done: Tensor = checkpoint(block, x, layout, beside, None, real, use_reentrant=False)
        else:
            done = block(x, layout, beside, None, real)
        return done


class _Rows:
    """A :class:`.network.Layout` of regions, which stay in their rows: nearly every image has all of them."""

    def __init__(self, regions: Tensor) -> None:
        self._shape = regions.shape
        self.real = regions.ne(0).any(-1)[:, None, None]  # (t, 1, 1, n)

    def rows(self, tokens: Tensor) -> Tensor:
        return tokens.view(*self._shape[:2], -1)

    def tokens(self, rows: Tensor) -> Tensor:
        return rows.flatten(0, 1)
