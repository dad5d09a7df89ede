"""The likelihood of captions, word by word: what CoCa and ClipCap share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from infra.device import to_device

__all__ = ["caption_nll"]


def caption_nll(words: Tensor, labels: Tensor, real: Tensor, logits_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the negative log-likelihood (b,), in nats, of the tokens ``labels`` (b, n) that are ``real`` (b, n).

    Both are on the CPU. ``words`` (b, w, d) are the decoder's outputs at least as far as a real token goes, and
    ``logits_of`` turns some of these (k, d) to logits (k, vocabulary). These cost more than the decoder, and most of a
    row is padding: they are computed for real tokens only.
    """
    captions, places = real.nonzero(as_tuple=True)
    width = words.shape[1]
    where = to_device(captions * width + places, words.device)
    logits = logits_of(words.flatten(0, 1)[where])
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats = F.cross_entropy(logits, to_device(labels[real], logits.device), reduction="none")
    # Scattered to rows before the sum, so that the order of addition is always the same.
    return nats.new_zeros(len(labels) * width).index_copy(0, where, nats).view(-1, width).sum(1)
