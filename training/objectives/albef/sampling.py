"""ALBEF's random choices: the words that are masked and the hard negatives that are matched.

All draw by the sample's position in the run (:mod:`training.draws`), so the same is drawn however a batch is split
over ranks and parts, and again when a part is recomputed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from infra.device import to_device
from infra.errors import ConfigError
from training import draws

__all__ = [
    "HARD_NEGATIVES",
    "MASKED_REGIONS",
    "MASKING",
    "check_among",
    "gumbel",
    "hard_negatives",
    "mask_words",
    "uniform",
]

MASKING, HARD_NEGATIVES, MASKED_REGIONS = 1, 2, 3
"""Purposes of draws, the second word of their key."""


def uniform(seed: int, purpose: int, first: int, samples: int, width: int) -> Tensor:
    """Return numbers in [0, 1) for ``samples`` samples from position ``first`` on: (samples, width), float64."""
    return torch.from_numpy(draws.uniform((seed, purpose), 0, first, samples, width))


def gumbel(uniform: Tensor) -> Tensor:
    """Return standard Gumbel noise made from ``uniform``: ``argmax(logits + noise)`` draws from ``softmax(logits)``."""
    return -torch.log(-torch.log(uniform))


def mask_words(
    texts: Tensor, lengths: Tensor, draws: Tensor, rate: float, vocabulary: int, ends: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mask each word with probability ``rate``: the masked texts (b, n) and a boolean mask of the words (b, n).

    ``texts`` (b, n) are tokens of ``lengths`` (b,), ``draws`` (b, 3, n) uniform numbers. Of the masked words 80% become
    ``vocabulary`` (an id that no token has), 10% a random word, 10% stay as they are. The tokens at start and end,
    CLIP's two highest ids, are neither masked nor put in.
    BERT; Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1.

    ``ends`` (vocabulary,) says which tokens end a word; with it all tokens of a word are masked or none, and replaced
    in the same way. The token at the start counts as a word.
    """
    place = torch.arange(texts.shape[1], device=texts.device)
    chance, kind, word = draws.unbind(1)
    if ends is not None:
        begins = torch.cat([torch.ones_like(texts[:, :2], dtype=torch.bool), ends[texts[:, 1:-1]]], dim=1)
        first = torch.where(begins, place, 0).cummax(1).values  # of each token's word
        chance, kind = chance.gather(1, first), kind.gather(1, first)
    masked = (place > 0) & (place < lengths[:, None] - 1) & (chance < rate)
    random_words = (word * (vocabulary - 2)).long()
    replacement = torch.where(kind < 0.8, vocabulary, torch.where(kind < 0.9, random_words, texts))
    return torch.where(masked, replacement, texts), masked


def check_among(among: int, count: int, position: int) -> None:
    """Raise ConfigError unless blocks of ``among`` samples, counted over the run, are whole in a forward pass."""
    if count % among or position % among:
        raise ConfigError(
            "negatives_among does not divide the samples of a forward pass, so the negatives would depend on how a "
            "batch is split over ranks and parts",
            expected=f"a divisor of {math.gcd(count, position)}",
            found=str(among),
            fix="change negatives_among, or batch_size / workers / accumulate",
        )


def hard_negatives(similarity: tuple[Tensor, Tensor], captions: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a wrong text for each image and a wrong image for each text, the more similar the likelier.

    ``similarity`` holds the logits from images to texts and from texts to images, each (blocks, g, g): a sample's
    negatives come from its own block of g. ``captions`` are tokens (blocks * g, n), ``noise`` is Gumbel noise
    (blocks * g, 2 g); both may be on another device. A pair with the same caption is no negative.

    Returns sample numbers of texts and of images, (blocks * g,) each, and a boolean (blocks * g,): whether the sample
    has any negative. Li et al. 2021, https://arxiv.org/abs/2107.07651, section 3.2.
    """
    blocks, among = similarity[0].shape[:2]
    captions = captions.view(blocks, among, -1)
    same = (captions[:, :, None] == captions[:, None]).all(-1)
    text, image = (
        (logits + to_device(own.reshape(blocks, among, among).masked_fill(same, -torch.inf), logits.device)).argmax(-1)
        for logits, own in zip(similarity, noise.chunk(2, dim=1), strict=True)
    )
    start = torch.arange(blocks, device=text.device)[:, None] * among
    return (text + start).flatten(), (image + start).flatten(), to_device(~same.all(-1).flatten(), text.device)
