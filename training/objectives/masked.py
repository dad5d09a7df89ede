"""Masked language modelling with an image: what ALBEF and ViLT share."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from infra.device import to_device
from infra.fusion.towers import lengths_of
from training.objectives.albef.sampling import MASKING, mask_words, uniform

__all__ = ["Captions", "Masked", "mask_captions"]


class Masked(NamedTuple):
    """The masked words of a batch of captions: their places, and the words as targets."""

    mask: Tensor  # (b, context), on the CPU
    places: Tensor  # (k,): of each masked word among the tokens of all captions, one after the other
    samples: Tensor  # (k,)
    targets: Tensor  # (k,)

    def per_sample(self, losses: Tensor) -> Tensor:
        """Sum the losses (k,) of the words of each sample: (b,)."""
        # Scattered to rows before the sum, so that the order of addition is always the same.
        count, width = self.mask.shape
        where = to_device(self.mask.flatten().nonzero()[:, 0], losses.device)
        per_token: Tensor = losses.new_zeros(count * width).index_copy(0, where, losses)
        return per_token.view(count, width).sum(-1)

    def losses(self, logits: Tensor) -> Tensor:
        """Cross-entropy of the masked words, whose logits are (k, vocabulary), summed by sample: (b,)."""
        return self.per_sample(F.cross_entropy(logits, self.targets, reduction="none"))

    def counts(self, like: Tensor) -> Tensor:
        """The number of masked words of each sample (b,)."""
        return to_device(self.mask.sum(-1), like.device).to(like.dtype)


class Captions(NamedTuple):
    """Captions on the CPU, where their lengths are known without waiting for a GPU."""

    texts: Tensor  # (b, context)
    lengths: Tensor  # (b,)
    masked_texts: Tensor | None  # (b, context): the texts with words masked
    masked: Tensor | None  # (b, context): whether a word is masked

    def words(self, device: torch.device) -> Masked:
        """Return the masked words with their places, on ``device`` but for the mask."""
        assert self.masked is not None, "nothing is masked"
        real = torch.arange(self.masked.shape[1]) < self.lengths[:, None]
        places = to_device(self.masked[real].nonzero()[:, 0], device)
        samples, columns = self.masked.nonzero(as_tuple=True)
        targets = to_device(self.texts[samples, columns], device)
        return Masked(self.masked, places, to_device(samples, device), targets)


def mask_captions(
    texts: Tensor, rate: float, vocabulary: int, *, seed: int, position: int, ends: Tensor | None = None
) -> Captions:
    """Bring ``texts`` (b, context) to the CPU and mask a share ``rate`` of their words, by ``position`` in the run.

    ``ends``: a boolean for each token, whether it is the last of a word; then words are masked whole. ``rate`` 0: none.
    """
    texts, lengths = texts.cpu(), lengths_of(texts)
    if not rate:
        return Captions(texts, lengths, None, None)
    count, context = texts.shape
    draws = uniform(seed, MASKING, position, count, 3 * context).view(count, 3, context)
    return Captions(texts, lengths, *mask_words(texts, lengths, draws, rate, vocabulary, ends))
