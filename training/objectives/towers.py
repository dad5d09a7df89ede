"""The text tower's tokens with several captions in a row: most of a batch's captions are far shorter than a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.fusion import towers
from infra.fusion.towers import Rows, text_tower
from training.model.blocks import FastBlock
from training.model.text import pack

__all__ = ["encode_texts"]


def encode_texts(
    model: Any,  # noqa: ANN401
    texts: Tensor,
    lengths: Tensor,
    mask_embedding: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`infra.fusion.towers.encode_texts`, without computing padding where the tower allows it."""
    tower = text_tower(model)
    rows = _packed(texts, lengths) if _takes_packed(tower) else None
    return towers.encode_texts(model, texts, lengths, mask_embedding, rows)


def _packed(texts: Tensor, lengths: Tensor) -> Rows:
    """Pack several captions into a row, with a mask that lets a token see its own caption up to itself."""
    packing = pack(lengths.numpy(), texts.shape[1])
    source, segment = packing.source.ravel(), torch.from_numpy(packing.segment)
    used = np.flatnonzero(packing.segment.ravel() >= 0)
    places = torch.from_numpy(used[np.argsort(source[used])])
    unseen = (segment[:, None, :, None] != segment[:, None, None, :]).logical_or_(
        torch.ones(2 * segment.shape[1:], dtype=torch.bool).triu_(1)
    )
    mask = torch.zeros(unseen.shape).masked_fill_(unseen, -torch.inf)
    ids = texts.flatten()[torch.from_numpy(packing.source)]
    return Rows(ids, torch.from_numpy(packing.position), places, mask)


def _takes_packed(tower: Any) -> bool:  # noqa: ANN401
    """Return whether attention is causal and takes a mask per row, which ``nn.MultiheadAttention`` does not."""
    return tower.attn_mask is not None and all(isinstance(block, FastBlock) for block in tower.transformer.resblocks)
