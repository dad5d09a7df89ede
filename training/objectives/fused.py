"""The base of ViLT's and ViLBERT's objectives: image-text matching, and masked words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from infra.device import to_device
from infra.errors import ConfigError
from infra.fusion.config import FOLDER
from infra.fusion.towers import vocabulary_size
from training.distributed.collectives import global_mean
from training.objectives.albef.matcher import Matcher
from training.objectives.albef.sampling import HARD_NEGATIVES, check_among, gumbel, hard_negatives, uniform
from training.objectives.base import Companion, Objective
from training.objectives.fusion import fusion_encoder
from training.objectives.masked import Captions, mask_captions

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.data.tokens import Tokenizer
    from training.objectives.vilbert.config import Config as ViLBERTConfig
    from training.objectives.vilt.config import Config as ViLTConfig

__all__ = ["Fused"]


class Fused(Objective):
    """An objective of a fusion encoder, the one that ``described`` has :func:`infra.fusion.build.build_fusion` build.

    ``weights`` of its losses by name. The outputs have each loss by sample (b,); where it is a sum of several terms,
    their number is the output of that name with ``_terms`` behind it.
    """

    learnt = ()

    def __init__(
        self,
        model: nn.Module,
        config: ViLTConfig | ViLBERTConfig,
        run: Run,
        described: dict[str, Any],
        weights: dict[str, float],
    ) -> None:
        super().__init__(model)
        self.seed, self.weights = run.seed, weights
        self.mask_rate = config.mask_rate if config.mlm_weight else 0.0
        self.whole_words = config.whole_words and config.mlm_weight > 0
        self.among, self.wrong_images = config.negatives_among, config.wrong_images
        vocabulary = vocabulary_size(model) if config.mlm_weight else None
        self.described = {**described, "vocabulary": vocabulary, "matching": config.itm_weight > 0}
        self.fusion = fusion_encoder(model, self.described, run)
        for unused in self.fusion.unused(model):
            unused.requires_grad_(False)
        self.ends_of_words: Tensor | None = None

    def use_tokenizer(self, tokenize: Tokenizer) -> None:
        if not self.whole_words:
            return
        ends = tokenize.word_ends()
        if ends is None:
            raise ConfigError(
                "whole words cannot be masked: this tokenizer does not say which tokens end a word",
                expected="CLIP's tokenizer",
                fix="set objective.whole_words to false",
            )
        self.ends_of_words = torch.from_numpy(ends)

    def masked(self, texts: Tensor) -> Captions:
        """Mask words of ``texts`` (b, context), if that is a loss."""
        vocabulary, ends = self.model.vocab_size, self.ends_of_words
        return mask_captions(texts, self.mask_rate, vocabulary, seed=self.seed, position=self.position, ends=ends)

    def paired(self, captions: Captions, device: torch.device) -> tuple[Tensor, Tensor]:
        """The image that each caption is matched with (b,), and whether it is another one than its own (b,)."""
        count, among = len(captions.texts), self.among
        check_among(among, count, self.position)
        draws = uniform(self.seed, HARD_NEGATIVES, self.position, count, 2 * among + 1)
        level = torch.zeros(count // among, among, among)  # all are equally likely
        _, other, found = hard_negatives((level, level), captions.texts, gumbel(draws[:, :-1]))
        replaced = found & (draws[:, -1] < self.wrong_images)
        image = torch.where(replaced, other, torch.arange(count))
        return to_device(image, device), to_device(replaced, device)

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return all losses and their weighted sum; the mean over ranks is that of the whole batch."""
        losses, total = {}, torch.zeros((), device=next(iter(outputs.values())).device)
        for name in filter(outputs.__contains__, self.weights):
            each, terms = outputs[name], outputs.get(f"{name}_terms")
            losses[name] = each.mean() if terms is None else global_mean(each, terms)
            total = total + self.weights[name] * losses[name]
        return losses | {"loss": total}

    def matcher(self) -> Matcher:
        """Return the model as it scores pairs. Raises ConfigError if it was made without matching."""
        return Matcher(self.model, self.fusion)

    def companions(self) -> dict[str, Companion]:
        return {FOLDER: Companion(self.fusion, self.described)}
