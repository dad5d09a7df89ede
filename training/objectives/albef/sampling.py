"""What ALBEF leaves to chance: which words are hidden, and which wrong pairs are shown.

Each sample draws from its own place in one long stream of random numbers, found by its number in the run, so the same
is drawn however a batch is split over ranks and parts, and again when a part is computed again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.objectives.towers import send

__all__ = ["HARD_NEGATIVES", "MASKING", "gumbel", "hard_negatives", "hide_words", "uniform"]

MASKING, HARD_NEGATIVES = 1, 2  # the streams


def uniform(seed: int, stream: int, first: int, samples: int, width: int) -> Tensor:
    """Numbers from [0, 1) for each of ``samples`` samples from number ``first`` on: (samples, width), float64.

    From a counter-based generator (Philox; Salmon et al. 2011), which gives four numbers per count.
    """
    counts = -(-width // 4)
    bits = np.random.Philox(key=[seed, stream], counter=[first * counts, 0, 0, 0])
    return torch.from_numpy(np.random.Generator(bits).random((samples, 4 * counts))[:, :width])


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform: ``argmax(logits + noise)`` is a draw from ``softmax(logits)``."""
    return -torch.log(-torch.log(uniform))


def hide_words(texts: Tensor, lengths: Tensor, draws: Tensor, rate: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    """``texts`` (b, n) of ``lengths`` (b,) with words hidden, and which (b, n): each with probability ``rate``.

    Of those hidden 80% become ``vocabulary`` (an id that no token has), 10% a random word, 10% stay. The tokens at
    start and end, CLIP's two highest ids, are never hidden nor put in. ``draws`` is (b, 3, n), uniform.
    BERT; Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1.
    """
    place = torch.arange(texts.shape[1], device=texts.device)
    whether, how, which = draws.unbind(1)
    hidden = (place > 0) & (place < lengths[:, None] - 1) & (whether < rate)
    words = (which * (vocabulary - 2)).long()
    hiding = torch.where(how < 0.8, vocabulary, torch.where(how < 0.9, words, texts))
    return torch.where(hidden, hiding, texts), hidden


def hard_negatives(similarity: tuple[Tensor, Tensor], captions: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each image a text, for each text an image that do not belong to it, the likelier the more similar.

    ``similarity`` are the logits from images to texts and from texts to images, each (blocks, g, g): samples are told
    apart only within their block of g. ``captions`` are tokens (blocks * g, n), ``noise`` is (blocks * g, 2 g),
    Gumbel's; both may lie elsewhere. A pair with the same caption is no negative. Gives numbers of samples, twice
    (blocks * g,), and for which samples there was a negative at all. Li et al. 2021,
    https://arxiv.org/abs/2107.07651, section 3.2.
    """
    blocks, among = similarity[0].shape[:2]
    captions = captions.view(blocks, among, -1)
    same = (captions[:, :, None] == captions[:, None]).all(-1)
    text, image = (
        (logits + send(own.reshape(blocks, among, among).masked_fill(same, -torch.inf), logits.device)).argmax(-1)
        for logits, own in zip(similarity, noise.chunk(2, dim=1), strict=True)
    )
    start = torch.arange(blocks, device=text.device)[:, None] * among
    return (text + start).flatten(), (image + start).flatten(), send(~same.all(-1).flatten(), text.device)
