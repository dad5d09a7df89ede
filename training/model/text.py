"""Encoding of captions by a causal text tower, without computing their padding.

CLIP's text tower attends backwards only, and its feature is read at the end-of-text token: later tokens change nothing,
yet open_clip computes all 77 tokens of captions that have twelve. Here several captions are packed into a row, each
with its own positions and a mask that hides the other captions, so nearly every token computed counts. Features and
gradients are the same up to rounding.

The tower runs once per step, whatever the lengths, as FSDP's prefetching, torch.compile and gradient checkpointing need
it (one pass per length would pay for each of them). Shapes are (rows, width), with few different widths and rows in
steps of about 3%, so that kernels and memory are reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP
from open_clip.transformer import CustomResidualAttentionBlock, TextTransformer, Transformer
from torch import Tensor, nn

from infra.device import to_device
from training.model.blocks import FastBlock, run_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Packing", "encode_text", "pack"]

WIDTH_STEP = 16
"""Row widths are multiples of it; attention kernels need multiples of 8."""


def encode_text(model: Any, texts: Tensor) -> Tensor:  # noqa: ANN401 - open_clip's models share methods, no type
    """Return ``model.encode_text(texts)``: tokens (b, context) to (b, d), on the model's device.

    Keep ``texts`` on the CPU: there its lengths are known without waiting for a GPU. Captions are not packed for models
    without :func:`training.model.blocks.use_fast_blocks`, nor for towers that are not causal or not read at the
    end-of-text token (SigLIP's, CoCa's, Hugging Face's).
    """
    tower = _Tower.of(model)
    features: Tensor
    if tower is None:
        features = model.encode_text(to_device(texts, next(model.parameters()).device))
        return features
    lengths = tower.lengths(texts).cpu().numpy()
    packing = pack(lengths, texts.shape[1])
    return tower(texts, packing)


@dataclass(frozen=True)
class Packing:
    """The layout of b captions of at most ``context`` tokens in rows of ``width``; all arrays are int64.

    A place that no caption fills has segment -1 and holds a copy of the batch's first token.
    """

    source: NDArray[np.int64]  # (rows, width): the token's index in the flattened (b, context)
    position: NDArray[np.int64]  # (rows, width): its position in its caption
    segment: NDArray[np.int64]  # (rows, width): its caption's number
    ends: NDArray[np.int64]  # (rows, n): where the captions of a row end; 0 where a row has fewer than n
    slots: NDArray[np.int64]  # (b,): each caption's index in the flattened ends

    @property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The three arrays of shape (rows, width)."""
        return self.source, self.position, self.segment


def pack(lengths: NDArray[np.int64], context: int) -> Packing:
    """Pack captions of the given ``lengths`` (b,) into few rows: longest first, each into the fullest row it fits.

    A row holds about four captions of average length: wide enough that little room is left over (under 3% with web
    captions), and no wider, because attention is quadratic in the width.
    """
    # Widths and numbers of rows are rounded up, so that few different shapes occur.
    widest = _round_up(context, WIDTH_STEP)
    width = min(widest, _round_up(max(int(lengths.max()), int(4 * lengths.mean())), WIDTH_STEP))
    row_of, start_of, nth_of, rows = _best_fit(lengths, width)
    rows = _round_up(rows, max(1, (1 << rows.bit_length()) // 64))
    most = _round_up(int(nth_of.max()) + 1, 4)

    # Scatter every token's source, position and caption to its place in the rows.
    caption = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(caption)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = (row_of * width + start_of)[caption] + position
    filled = [np.zeros(rows * width, np.int64) for _ in range(2)] + [np.full(rows * width, -1, np.int64)]
    for target, values in zip(filled, (caption * context + position, position, caption), strict=True):
        target[place] = values
    ends = np.zeros(rows * most, np.int64)
    slots = row_of * most + nth_of
    ends[slots] = start_of + lengths - 1
    source, positions, segment = (target.reshape(rows, width) for target in filled)
    return Packing(source, positions, segment, ends.reshape(rows, most), slots)


def _best_fit(
    lengths: NDArray[np.int64], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Best-fit-decreasing bin packing: each caption's row, its start and its number in it; and the number of rows."""
    by_room: list[list[int]] = [[] for _ in range(width + 1)]  # rows by the room they have left
    room: list[int] = []
    count: list[int] = []
    placed = np.empty((3, len(lengths)), np.int64)
    for caption in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[caption])
        left = next((left for left in range(length, width) if by_room[left]), width)
        if left == width:
            row = len(room)
            room.append(width)
            count.append(0)
        else:
            row = by_room[left].pop()
        placed[:, caption] = row, width - left, count[row]
        count[row] += 1
        room[row] = left - length
        by_room[room[row]].append(row)
    return placed[0], placed[1], placed[2], len(room)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


@dataclass(frozen=True)
class _Tower:
    """The parts of a causal text tower, which open_clip keeps in different places."""

    token_embedding: Any
    positional_embedding: Tensor  # (context, d)
    transformer: Any
    ln_final: Any
    projection: Any  # a linear layer, a matrix or none
    eos: int | None  # id of the token at which the feature is read; None: the caption's highest id

    @classmethod
    def of(cls, model: Any) -> _Tower | None:  # noqa: ANN401
        """Return the text tower of ``model``; None if its padding may change the features."""
        if isinstance(model, CLIP):  # keeps the parts of its text tower itself
            text, pool, eos = model, model.text_pool_type, model.text_eos_id
        elif isinstance(text := getattr(model, "text", None), TextTransformer):
            if text.cls_emb is not None or text.output_tokens:
                return None
            pool, eos = text.pool_type, text.eos_id
        else:
            return None
        transformer = text.transformer
        if pool not in ("argmax", "eos") or text.attn_mask is None:
            return None
        if type(transformer) is not Transformer or not transformer.batch_first:
            return None
        if not all(isinstance(block, FastBlock | CustomResidualAttentionBlock) for block in transformer.resblocks):
            return None  # nn.MultiheadAttention takes no mask per row
        return cls(
            text.token_embedding,
            text.positional_embedding,
            transformer,
            text.ln_final,
            text.text_projection,
            eos if pool == "eos" else None,
        )

    def lengths(self, texts: Tensor) -> Tensor:
        """Count the tokens of each caption up to the one its feature is read at: (b,)."""
        ends = texts if self.eos is None else (texts == self.eos).int()
        return ends.argmax(dim=-1) + 1

    def __call__(self, texts: Tensor, packing: Packing) -> Tensor:
        device = self.positional_embedding.device
        source, position, segment = (to_device(torch.from_numpy(part), device) for part in packing.places)
        ends, slots = (to_device(torch.from_numpy(part), device) for part in (packing.ends, packing.slots))
        tokens = to_device(texts, device).flatten()[source]

        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(tokens).to(dtype) + F.embedding(position, self.positional_embedding).to(dtype)
        x = run_blocks(self.transformer, x, _mask(segment, x.dtype), ends)
        features: Tensor = self.ln_final(x.flatten(0, 1)[slots])
        if self.projection is not None:
            linear = isinstance(self.projection, nn.Module)
            features = self.projection(features) if linear else features @ self.projection
        return features


def _mask(segment: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive attention mask (rows, 1, w, w): a token sees its own caption up to itself."""
    same = segment[:, None, :, None] == segment[:, None, None, :]
    mask = torch.full(same.shape, float("-inf"), dtype=dtype, device=segment.device)
    return mask.masked_fill_(same.tril(), 0.0)
