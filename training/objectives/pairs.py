"""Losses over all image-text pairs of a batch, in tiles: memory is linear in the batch size.

A loss over all pairs needs their logits only briefly: what it keeps is a few numbers per row and column. So tiles of
the matrix are computed, used and discarded, in as many passes as the loss needs, and the gradient is computed in the
last pass along with the loss, so that only the features' gradients are kept for the backward pass (Inf-CL; Cheng et al.
2024, https://arxiv.org/abs/2410.17243, after online softmax, Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867). Plain losses hold the matrix several times, and are slower: they multiply both ways,
images by texts and texts by images.

Over ranks, a rank's tiles are those of its images with all ranks' texts: one all-gather of texts in the forward
direction, one reduce-scatter of their gradients. Each pair of the global batch is computed by one rank only. So a rank
has the complete rows of its images, and its own part of every column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from training.distributed.collectives import all_gather, all_reduce, rank, reduce_scatter

__all__ = ["Pairs", "Softmaxes", "Tile", "eager_fp32", "logits_per_tile", "slices", "with_precomputed_gradient"]

P = ParamSpec("P")
T = TypeVar("T")


def logits_per_tile(device: torch.device) -> int:
    """Return the number of logits in a tile: on a CPU they fit its cache (4 MB), on a GPU they keep it busy (64 MB)."""
    return 1 << (20 if device.type == "cpu" else 24)


def eager_fp32(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function of tensors to run without autocast and outside of torch.compile's graphs.

    Autocast would round the logits, and a compiled graph would unroll the loops over tiles.
    """

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @wraps(function)
    def outside(*arguments: P.args, **options: P.kwargs) -> T:
        (first, *_) = arguments
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            return function(*arguments, **options)

    return cast(Callable[P, T], outside)


def slices(length: int, step: int) -> Iterator[slice]:
    """Split ``range(length)`` into slices of ``step``; the last one may be shorter."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


@dataclass(frozen=True)
class Tile:
    """A rectangle of the logits."""

    rows: slice  # of this rank's images
    columns: slice  # of all ranks' texts
    logits: Tensor
    offset: int  # of the diagonal of matching pairs, which most tiles do not touch

    def matches(self, x: Tensor) -> Tensor:
        """Return the entries of ``x`` (of the tile's shape) at the tile's matching pairs: (k,), a view."""
        return x.diagonal(self.offset)

    @property
    def matched(self) -> slice:
        """The images of the matching pairs, among this rank's images."""
        start = self.rows.start + max(0, -self.offset)
        return slice(start, start + len(self.matches(self.logits)))


class Pairs:
    """The tiles of logits of this rank's ``images`` (b, d) with all ranks' texts, and the gradient through them.

    ``texts`` are this rank's (b, d). Works in fp32, or double if the features are. ``needs_gradient`` says whether any
    input requires a gradient; ``tile`` is the number of logits in a tile.
    """

    def __init__(self, images: Tensor, texts: Tensor, scale: Tensor, tile: int | None = None) -> None:
        self.needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (images, texts, scale))
        dtype = torch.promote_types(images.dtype, torch.float32)
        self.images, self.scale = images.detach().to(dtype), scale.detach().to(dtype)
        self.scaled = self.images * self.scale
        self.texts = all_gather(texts.detach().to(dtype))
        self.own = slice(rank() * len(images), (rank() + 1) * len(images))  # the columns of this rank's texts
        # Tiles are square, or as wide as it takes if there are few images.
        tile = tile or logits_per_tile(images.device)
        self.height = min(len(images), math.isqrt(tile))
        self.width = tile // self.height
        self._images, self._texts = (
            torch.zeros_like(x) if self.needs_gradient else x for x in (self.images, self.texts)
        )

    def __iter__(self) -> Iterator[Tile]:
        for rows in slices(len(self.images), self.height):
            for columns in slices(len(self.texts), self.width):
                logits = self.scaled[rows] @ self.texts[columns].T
                yield Tile(rows, columns, logits, self.own.start + rows.start - columns.start)

    def add_gradient(self, tile: Tile, gradient: Tensor) -> None:
        """Add the ``gradient`` of a tile's logits to that of the features; call it once per tile."""
        self._images[tile.rows].addmm_(gradient, self.texts[tile.columns])
        self._texts[tile.columns].addmm_(gradient.T, self.scaled[tile.rows])

    def gradients(self, factor: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``factor`` times the accumulated gradients of images, texts and scale; call it once.

        Those of images and texts are of the sum of all ranks' losses, that of scale is of this rank's loss.
        """
        scale = torch.einsum("bd,bd->b", self._images, self.images).sum() * factor
        return self._images.mul_(self.scale * factor), reduce_scatter(self._texts).mul_(factor), scale


class Softmaxes:
    """The softmax statistics of all rows and columns of the logits, from one pass over ``pairs``."""

    def __init__(self, pairs: Pairs) -> None:
        rows, columns = _LogSumExp.empty(pairs.images), _LogSumExp.empty(pairs.texts)
        positives = torch.empty_like(rows.top)
        for tile in pairs:
            rows.add(tile.rows, tile.logits, 1)
            columns.add(tile.columns, tile.logits, 0)
            positives[tile.matched] = tile.matches(tile.logits)
        columns.all_reduce()
        own = columns[pairs.own]
        self.rows, self.columns = rows, columns
        self.normaliser = (rows.minus(0) + own.minus(0)) / 2
        """(b,): the log normalisers of each matching pair's row and column, averaged."""
        self.cross_entropy = (rows.minus(positives) + own.minus(positives)) / 2
        """(b,): of each matching pair, the image's among the texts and the text's among the images, averaged."""

    def probabilities(self, tile: Tile) -> Tensor:
        """Return the tile's softmax over rows plus its softmax over columns; overwrites its logits."""
        rows, columns = self.rows[tile.rows], self.columns[tile.columns]
        by_row = (tile.logits - rows.top[:, None]).exp_().div_(rows.sum[:, None])
        return by_row.addcdiv_((tile.logits - columns.top).exp_(), columns.sum)


class _LogSumExp:
    """A running log(sum(exp)) of vectors, kept as the largest term and the sum relative to it.

    The two are not added up before a logit is subtracted, because a confident match has a loss near 0 and a logit near
    100: in fp32 the difference would be lost.
    """

    def __init__(self, top: Tensor, total: Tensor) -> None:
        self.top, self.sum = top, total  # (n,)

    @classmethod
    def empty(cls, vectors: Tensor) -> _LogSumExp:
        return cls(vectors.new_full((len(vectors),), -torch.inf), vectors.new_zeros(len(vectors)))

    def __getitem__(self, place: slice) -> _LogSumExp:
        return _LogSumExp(self.top[place], self.sum[place])

    def add(self, place: slice, x: Tensor, dim: int) -> None:
        part = self[place]
        top = torch.maximum(part.top, x.amax(dim))
        part.sum.mul_((part.top - top).exp_()).add_((x - top.unsqueeze(dim)).exp_().sum(dim))
        part.top.copy_(top)

    def all_reduce(self) -> None:
        top = all_reduce(self.top, dist.ReduceOp.MAX)
        self.sum = all_reduce(self.sum * (self.top - top).exp())
        self.top = top

    def minus(self, x: Tensor | float) -> Tensor:
        """Return log(sum(exp)) minus ``x``, exactly enough for differences near 0."""
        return self.top - x + self.sum.log()


def with_precomputed_gradient(loss: Tensor, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> Tensor:
    """Return ``loss`` (0-D) with autograd edges to ``inputs``, whose ``gradients`` are already known.

    All ranks must weight their losses equally, as the mean over ranks does: the gradients contain parts of other ranks'
    losses.
    """
    result: Tensor = _PrecomputedGradient.apply(loss, gradients, *inputs)
    return result


class _PrecomputedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(*(gradient.to(x.dtype) for gradient, x in zip(gradients, inputs, strict=True)))
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, None, *(outer * gradient for gradient in ctx.saved_tensors)
