"""ViLT: image-text matching and masked language modelling by a single transformer, without any contrast.

Kim et al. 2021, https://arxiv.org/abs/2102.03334. The model stays open_clip's: see :mod:`infra.fusion.single_stream`
for what of it is used. A caption's image is replaced by another one half the time, and the transformer says whether it
was; words are masked whole, beside their own image. On request words and patches of matched pairs are brought near each
other by optimal transport, those of others apart: :mod:`training.objectives.vilt.alignment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.device import to_device
from infra.fusion.network import Layout
from infra.fusion.towers import word_embedding
from training.objectives.fused import Fused
from training.objectives.vilt.alignment import alignment_cost

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.objectives.vilt.config import Config

__all__ = ["ViLT"]


class ViLT(Fused):
    """The objective, on open_clip's CLIP or CustomTextCLIP with a ViT of open_clip; others raise ConfigError."""

    fusion: Any  # a SingleStream

    def __init__(self, model: nn.Module, config: Config, run: Run, *_: object) -> None:
        weights = {"itm": config.itm_weight, "alignment": config.word_patch_alignment, "mlm": config.mlm_weight}
        super().__init__(model, config, run, {"kind": "single_stream"}, weights)

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Read images (b, 3, h, w) and texts (b, context) together.

        ``itm`` and ``alignment`` are each sample's losses, ``mlm`` is its sum of losses and ``mlm_terms`` their number.
        """
        captions = self.masked(texts)
        count, lengths, device = len(captions.texts), captions.lengths, images.device
        patches, own = self.fusion.read_images(self.model, images), torch.arange(count, device=device)
        words, of_texts, of_images, replaced = [], [], [], None
        if self.weights["itm"]:
            image, replaced = self.paired(captions, device)
            words, of_texts, of_images = [self._words(captions.texts, lengths)], [lengths], [image]
        if captions.masked_texts is not None:
            words.append(self._words(captions.masked_texts, lengths, masked=True))
            of_texts, of_images = [*of_texts, lengths], [*of_images, own]
        layout = Layout(torch.cat(of_texts), device)
        rows = self.fusion.fuse_rows(self.model, torch.cat(words), layout, patches, torch.cat(of_images))
        fused = self.model.visual.ln_post(layout.tokens(rows[:, : layout.width]))
        outputs: dict[str, Tensor] = {}
        if replaced is not None:
            logits = self.fusion.match(fused, layout.ends[:count])
            outputs["itm"] = F.softplus(torch.where(replaced, logits, -logits))
            if self.weights["alignment"]:
                cost = self._alignment(rows[:count], layout.width, lengths)
                outputs["alignment"] = torch.where(replaced, -cost, cost)
        if captions.masked is not None:
            masked = captions.words(device)
            guessed = self.fusion.words(fused[-int(lengths.sum()) :][masked.places], word_embedding(self.model))
            outputs["mlm"] = masked.losses(guessed)
            outputs["mlm_terms"] = masked.counts(outputs["mlm"])
        return outputs

    def _words(self, texts: Tensor, lengths: Tensor, *, masked: bool = False) -> Tensor:
        read: Tensor = self.fusion.read_texts(self.model, texts, lengths, masked=masked)
        return read

    def _alignment(self, rows: Tensor, width: int, lengths: Tensor) -> Tensor:
        """The cost (b,) of carrying words to patches; without the tokens at start and end, and the image's class."""
        place = torch.arange(width)
        real = to_device((place > 0) & (place < lengths[:, None] - 1), rows.device)
        states = self.model.visual.ln_post(rows)
        return alignment_cost(states[:, :width], real, states[:, width + 1 :])
