"""ViLT: image-text matching and masked language modelling by a single transformer, without any contrast.

Kim et al. 2021, https://arxiv.org/abs/2102.03334. The model stays open_clip's: see :mod:`infra.fusion.single_stream`
for what of it is used. A caption's image is replaced by another one half the time, and the transformer says whether it
was; words are masked whole, beside their own image. On request words and patches of matched pairs are brought near each
other by optimal transport, those of others apart: :mod:`training.objectives.vilt.alignment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.device import to_device
from infra.errors import ConfigError
from infra.fusion.encoder import FOLDER
from infra.fusion.network import Layout
from infra.fusion.single_stream import SingleStream
from infra.fusion.towers import word_embedding
from training.distributed.collectives import global_mean
from training.objectives.albef.matcher import Matcher
from training.objectives.albef.sampling import HARD_NEGATIVES, check_among, gumbel, hard_negatives, uniform
from training.objectives.base import Companion, Objective
from training.objectives.masked import Captions, mask_captions
from training.objectives.vilt.alignment import alignment_cost

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.data.tokens import Tokenizer
    from training.objectives.vilt.config import Config

__all__ = ["ViLT"]


class ViLT(Objective):
    """The objective, on open_clip's CLIP or CustomTextCLIP with a ViT of open_clip; others raise ConfigError."""

    learnt = ()

    def __init__(self, model: nn.Module, config: Config, run: Run, *_: object) -> None:
        super().__init__(model)
        self.config, self.seed = config, run.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.fusion = SingleStream(
                model,
                vocabulary=int(self.model.vocab_size) if config.mlm_weight else None,
                matching=config.itm_weight > 0,
            )
        for unused in self.fusion.unused(model):
            unused.requires_grad_(False)
        self.ends_of_words: Tensor | None = None

    def use_tokenizer(self, tokenize: Tokenizer) -> None:
        if not (self.config.whole_words and self.config.mlm_weight):
            return
        ends = tokenize.word_ends()
        if ends is None:
            raise ConfigError(
                "whole words cannot be masked: this tokenizer does not say which tokens end a word",
                expected="CLIP's tokenizer",
                fix="set objective.whole_words to false",
            )
        self.ends_of_words = torch.from_numpy(ends)

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Read images (b, 3, h, w) and texts (b, context) together.

        ``itm`` and ``alignment`` are each sample's losses, ``mlm`` is its sum of losses and ``mlm_words`` their number.
        """
        rate = self.config.mask_rate if self.config.mlm_weight else 0.0
        captions = mask_captions(
            texts, rate, self.model.vocab_size, seed=self.seed, position=self.position, ends=self.ends_of_words
        )
        count, lengths, device = len(captions.texts), captions.lengths, images.device
        patches, own = self.fusion.read_images(self.model, images), torch.arange(count, device=device)
        words, of_texts, of_images, replaced = [], [], [], None
        if self.config.itm_weight:
            image, replaced = self._paired(captions, device)
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
            if self.config.word_patch_alignment:
                cost = self._alignment(rows[:count], layout.width, lengths)
                outputs["alignment"] = torch.where(replaced, -cost, cost)
        if captions.masked is not None:
            masked = captions.words(device)
            guessed = self.fusion.words(fused[-int(lengths.sum()) :][masked.places], word_embedding(self.model))
            outputs["mlm"] = masked.losses(guessed)
            outputs["mlm_words"] = masked.counts(outputs["mlm"])
        return outputs

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return all losses and their weighted sum; the mean over ranks is that of the whole batch."""
        losses, total = {}, torch.zeros((), device=next(iter(outputs.values())).device)
        if "itm" in outputs:
            losses["itm"] = outputs["itm"].mean()
            total = total + self.config.itm_weight * losses["itm"]
        if "alignment" in outputs:
            losses["alignment"] = outputs["alignment"].mean()
            total = total + self.config.word_patch_alignment * losses["alignment"]
        if "mlm" in outputs:
            losses["mlm"] = global_mean(outputs["mlm"], outputs["mlm_words"])
            total = total + self.config.mlm_weight * losses["mlm"]
        return losses | {"loss": total}

    def matcher(self) -> Matcher:
        """Return the model as it scores pairs. Raises ConfigError if it was made without matching."""
        return Matcher(self.model, self.fusion)

    def companions(self) -> dict[str, Companion]:
        config = {
            "kind": "single_stream",
            "vocabulary": int(self.model.vocab_size) if self.config.mlm_weight else None,
            "matching": self.config.itm_weight > 0,
        }
        return {FOLDER: Companion(self.fusion, config)}

    def _words(self, texts: Tensor, lengths: Tensor, *, masked: bool = False) -> Tensor:
        return self.fusion.read_texts(self.model, texts, lengths, masked=masked)

    def _alignment(self, rows: Tensor, width: int, lengths: Tensor) -> Tensor:
        """The cost (b,) of carrying words to patches; without the tokens at start and end, and the image's class."""
        place = torch.arange(width)
        real = to_device((place > 0) & (place < lengths[:, None] - 1), rows.device)
        states = self.model.visual.ln_post(rows)
        return alignment_cost(states[:, :width], real, states[:, width + 1 :])

    def _paired(self, captions: Captions, device: torch.device) -> tuple[Tensor, Tensor]:
        """The image that each caption is matched with (b,), and whether it is another one than its own (b,)."""
        count, among = len(captions.texts), self.config.negatives_among
        check_among(among, count, self.position)
        draws = uniform(self.seed, HARD_NEGATIVES, self.position, count, 2 * among + 1)
        level = torch.zeros(count // among, among, among)  # all are equally likely
        _, other, found = hard_negatives((level, level), captions.texts, gumbel(draws[:, :-1]))
        replaced = found & (draws[:, -1] < self.config.wrong_images)
        image = torch.where(replaced, other, torch.arange(count))
        return to_device(image, device), to_device(replaced, device)
