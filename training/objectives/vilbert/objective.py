"""ViLBERT: matching, masked words and masked regions by two streams that attend to each other.

Lu et al. 2019, https://arxiv.org/abs/1908.02265, section 3.1. A caption's regions are those of another image half the
time, and the model says whether they are. Beside its own image, words are masked, and so are regions: their features
become zero nine times of ten, their places stay. What is guessed of a masked region are the detector's probabilities;
the loss is the divergence (KL) of the guess from them. Regions that overlap with a masked one are not masked along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.device import to_device
from infra.fusion.network import Layout
from infra.fusion.towers import word_embedding
from training.objectives.albef.sampling import MASKED_REGIONS, uniform
from training.objectives.fused import Fused

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.objectives.vilbert.config import Config

__all__ = ["ViLBERT"]

_ZEROED = 0.9  # of the masked regions; the others stay as they are


class ViLBERT(Fused):
    """The objective, on the text tower of open_clip's CLIP or CustomTextCLIP; others raise ConfigError."""

    fusion: Any  # a CoAttention

    def __init__(self, model: nn.Module, config: Config, run: Run, *_: object) -> None:
        described = {"kind": "co_attention", "layers": config.layers, "regions": list(config.regions({})[:3])}
        weights = {"itm": config.itm_weight, "mlm": config.mlm_weight, "mrm": config.mrm_weight}
        super().__init__(model, config, run, described, weights)
        self.region_rate = config.mask_rate

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Read tables of regions ``images`` (b, most, columns) and texts (b, context) together.

        ``itm`` is each sample's loss; ``mlm`` and ``mrm`` are sums, with the numbers of their terms beside them.
        """
        captions = self.masked(texts)
        count, lengths, device = len(captions.texts), captions.lengths, images.device
        read, own = self.fusion.read_images, torch.arange(count, device=device)
        words, seen, image_of, outputs = [], [], [], {}
        if self.weights["itm"]:
            image, replaced = self.paired(captions, device)
            words.append(self.fusion.read_texts(self.model, captions.texts, lengths))
            seen.append(read(self.model, images))
            image_of.append(image)
        hides = captions.masked_texts is not None or self.weights["mrm"]
        if hides:
            hidden, masked_regions = self._mask_regions(images)
            masked_texts = captions.texts if captions.masked_texts is None else captions.masked_texts
            words.append(
                self.fusion.read_texts(self.model, masked_texts, lengths, masked=captions.masked_texts is not None)
            )
            image_of.append(own + count * len(seen))
            seen.append(read(self.model, hidden))
        layout = Layout(lengths.repeat(len(words)), device)
        fused, regions = self.fusion(torch.cat(words), layout, torch.cat(seen), torch.cat(image_of))
        if self.weights["itm"]:
            logits = self.fusion.match(fused, layout.ends[:count])
            outputs["itm"] = F.softplus(torch.where(replaced, logits, -logits))
        if captions.masked is not None:
            masked = captions.words(device)
            guessed = self.fusion.words(fused[-int(lengths.sum()) :][masked.places], word_embedding(self.model))
            outputs["mlm"] = masked.losses(guessed)
            outputs["mlm_terms"] = masked.counts(outputs["mlm"])
        if self.weights["mrm"]:
            outputs["mrm"] = self._divergence(images, regions[-count:], masked_regions)
            outputs["mrm_terms"] = masked_regions.sum(1).to(outputs["mrm"].dtype)
        return outputs

    def _mask_regions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mask regions of ``images`` (b, n, columns): the same without the features of most, and which (b, n)."""
        count, most = images.shape[:2]
        draws = uniform(self.seed, MASKED_REGIONS, self.position, count, 2 * most).view(count, 2, most)
        chance, kind = to_device(draws, images.device).unbind(1)
        features, boxes, classes = self.fusion.split(images)
        masked = (chance < self.region_rate) & (boxes[..., 2] > boxes[..., 0])
        features = features.masked_fill((masked & (kind < _ZEROED))[..., None], 0.0)
        return torch.cat([features, boxes, classes], dim=-1), masked

    def _divergence(self, images: Tensor, regions: Tensor, masked: Tensor) -> Tensor:
        """Sum KL(detector || guess) of the masked regions (b, n) by sample: (b,). ``regions`` (b, n, width)."""
        *_, classes = self.fusion.split(images)
        guessed = self.fusion.guess_classes(regions.flatten(0, 1)).view(*masked.shape, -1)
        divergence = F.kl_div(guessed.log_softmax(-1), classes, reduction="none").sum(-1)
        return (divergence * masked).sum(1)
