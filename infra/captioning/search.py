"""Ways to choose a caption's tokens, for several images at once: one after the other, or many captions side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from infra.captioning.config import Beam, Decoding, Greedy, Nucleus
    from infra.captioning.decoder import Decoder, Memory

__all__ = ["beam", "greedy", "nucleus"]

Chooser = Callable[[Tensor, int], Tensor]
"""A token for each row (rows,), by log-probabilities (rows, vocabulary) and the number of tokens so far."""


def greedy(decoder: Decoder, config: Greedy) -> Tensor:
    """Write the captions whose every token is the likeliest: (images, t)."""
    return _token_by_token(decoder, config, lambda likely, length: likely.argmax(dim=-1))


def nucleus(decoder: Decoder, config: Nucleus) -> Tensor:
    """Write captions whose tokens are drawn among the fewest that have ``top_p`` of the probability: (images, t)."""
    longest = _longest(decoder, config)
    draws = [np.random.default_rng([config.seed, number]).random(longest) for number in decoder.numbers]
    uniform = torch.from_numpy(np.stack(draws)).to(decoder.device)

    def choose(likely: Tensor, length: int) -> Tensor:
        shares, tokens = (likely / config.temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        before = shares.cumsum(dim=-1) - shares
        reached = torch.where(before < config.top_p, shares, 0.0).cumsum(dim=-1)  # the first is always among them
        wanted = uniform[:, length].to(reached.dtype) * reached[:, -1]
        place = (reached <= wanted[:, None]).sum(dim=-1, keepdim=True)
        return tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))[:, 0]

    return _token_by_token(decoder, config, choose)


def _token_by_token(decoder: Decoder, config: Decoding, choose: Chooser) -> Tensor:
    memory, images = decoder.begin(1), len(decoder.numbers)
    texts = torch.full((images, 1), decoder.start, device=decoder.device)
    ended = torch.zeros(images, dtype=torch.bool, device=decoder.device)
    for length in range(1, _longest(decoder, config)):
        likely = _scores(decoder, texts[:, -1], memory, config, length)
        chosen = torch.where(ended, decoder.pad, choose(likely, length))
        texts = torch.cat([texts, chosen[:, None]], dim=1)
        ended |= chosen == decoder.end
        if ended.all():
            break
    return texts


def beam(decoder: Decoder, config: Beam) -> Tensor:
    """Write the caption of each image with the best score that a beam finds: (images, t).

    The same captions as transformers' BeamSearchScorer: of the 2k best continuations of an image's k captions those
    that end are kept apart if they are among the first k, the others go on. An image is done when k captions have ended
    and none that goes on can become better at its length.
    """
    images, beams, device = len(decoder.numbers), config.beams, decoder.device
    memory, longest = decoder.begin(beams), _longest(decoder, config)
    texts = torch.full((images, beams, 1), decoder.start, device=device)
    scores = torch.full((images, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all captions begin alike
    best = torch.full((images, beams), -torch.inf, device=device)  # scores of what has ended
    ended = torch.full((images, beams, longest), decoder.pad, device=device)
    done = torch.zeros(images, dtype=torch.bool, device=device)
    first = torch.arange(images, device=device)[:, None] * beams
    for length in range(1, longest):
        likely = _scores(decoder, texts[..., -1].flatten(), memory, config, length)
        total = scores[..., None] + likely.view(images, beams, -1)
        values, places = total.flatten(1).topk(2 * beams)
        origin, tokens = places // likely.shape[1], places % likely.shape[1]
        longer = torch.cat([texts.gather(1, origin[..., None].expand(-1, -1, length)), tokens[..., None]], dim=2)
        ends = tokens == decoder.end
        penalty = (length + 1) ** config.length_penalty

        finished = torch.where(ends & ~done[:, None], values / penalty, -torch.inf)
        best, ended = _best(best, ended, finished[:, :beams], longer[:, :beams], decoder.pad)
        going = ends.to(torch.int8).argsort(dim=1, stable=True)[:, :beams]  # in order of their scores
        scores, origin = values.gather(1, going), origin.gather(1, going)
        texts = longer.gather(1, going[..., None].expand(-1, -1, length + 1))
        memory.choose((first + origin).flatten())
        done |= best.isfinite().all(dim=1) & (best.min(dim=1).values >= values.max(dim=1).values / penalty)
        if done.all():
            break
    left = torch.where(done[:, None], -torch.inf, scores / texts.shape[2] ** config.length_penalty)
    best, ended = _best(best, ended, left, texts, decoder.pad)
    winner = best.argmax(dim=1)
    return ended[torch.arange(images, device=device), winner]


def _best(best: Tensor, ended: Tensor, scores: Tensor, texts: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """The best captions (images, beams) of those that had ended and new ones; earlier ones go first among equals."""
    filled = F.pad(texts, (0, ended.shape[2] - texts.shape[2]), value=pad)
    every, order = torch.cat([best, scores], dim=1).sort(dim=1, descending=True, stable=True)
    beams = best.shape[1]
    both = torch.cat([ended, filled], dim=1)
    return every[:, :beams], both.gather(1, order[:, :beams, None].expand(-1, -1, ended.shape[2]))


def _longest(decoder: Decoder, config: Decoding) -> int:
    return min(config.longest, decoder.context)


def _scores(decoder: Decoder, tokens: Tensor, memory: Memory, config: Decoding, length: int) -> Tensor:
    """Log-probabilities (rows, vocabulary) of the next token, in fp32 at least.

    Padding is none; the end is impossible before a caption's ``shortest`` length, and leaves the others as they are.
    """
    logits = decoder.step(tokens, memory)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits[:, decoder.pad] = -torch.inf
    scores = logits.log_softmax(dim=-1)
    if length < config.shortest:
        scores[:, decoder.end] = -torch.inf
    return scores
