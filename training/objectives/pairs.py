"""Every image of a batch with every text, a tile at a time: memory linear in the batch, the square never stored.

A loss over all pairs needs their logits only in passing: what it keeps is a few numbers per row and column. So tiles
of the matrix are computed, used and forgotten, in as many passes as the loss needs, and the gradient is taken in the
last of them, along with the loss, so that nothing but the features' gradients waits for the backward pass. (Inf-CL,
Cheng et al. 2024, https://arxiv.org/abs/2410.17243, after online softmax, Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867.) Plain losses hold the matrix several times over, and they are slower: they multiply
both ways, images by texts and texts by images.

Over ranks, the tiles of a rank are those of its images with everybody's texts: one gather of texts on the way in, one
sum of their gradients on the way out. Each pair of the global batch is computed by one rank only. A rank thereby has
the rows of its images complete, and of every column its own part.
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

__all__ = ["Pairs", "Softmaxes", "Tile", "apart", "attach", "most_logits", "spans"]

P = ParamSpec("P")
T = TypeVar("T")


def most_logits(device: torch.device) -> int:
    """How many there may be at a time: on a CPU they stay in the cache (4 MB), on a GPU they keep it busy (64 MB)."""
    return 1 << (20 if device.type == "cpu" else 24)


def apart(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` of tensors, kept out of autocast, which would round logits, and out of ``torch.compile``'s graphs,
    in which its loops would be written out tile by tile."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @wraps(function)
    def outside(*arguments: P.args, **options: P.kwargs) -> T:
        (first, *_) = arguments
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            return function(*arguments, **options)

    return cast(Callable[P, T], outside)


def spans(length: int, step: int) -> Iterator[slice]:
    """``range(length)`` in slices of ``step``, the last one as it comes."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


@dataclass(frozen=True)
class Tile:
    rows: slice  # of this rank's images
    columns: slice  # of everybody's texts
    logits: Tensor
    offset: int  # of the diagonal that holds images with their own texts; most tiles lie beside it

    def matches(self, x: Tensor) -> Tensor:
        """The entries of ``x``, of the tile's shape, for images with their own texts: (k,), a view."""
        return x.diagonal(self.offset)

    @property
    def matched(self) -> slice:
        """The images of these, among this rank's."""
        start = self.rows.start + max(0, -self.offset)
        return slice(start, start + len(self.matches(self.logits)))


class Pairs:
    """Logits of this rank's ``images`` (b, d) with everybody's ``texts`` (b * ranks, d), and the gradient through them.

    Works in fp32, or double if the features are. ``wanted`` says whether anybody asks for the gradient.
    """

    def __init__(self, images: Tensor, texts: Tensor, scale: Tensor, tile: int | None = None) -> None:
        self.wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (images, texts, scale))
        dtype = torch.promote_types(images.dtype, torch.float32)
        self.images, self.scale = images.detach().to(dtype), scale.detach().to(dtype)
        self.scaled = self.images * self.scale
        self.texts = all_gather(texts.detach().to(dtype))
        self.own = slice(rank() * len(images), (rank() + 1) * len(images))  # the columns of this rank's texts
        tile = tile or most_logits(images.device)
        self.height = min(len(images), math.isqrt(tile))
        self.width = tile // self.height
        self._images, self._texts = (torch.zeros_like(x) if self.wanted else x for x in (self.images, self.texts))

    def __iter__(self) -> Iterator[Tile]:
        for rows in spans(len(self.images), self.height):
            for columns in spans(len(self.texts), self.width):
                logits = self.scaled[rows] @ self.texts[columns].T
                yield Tile(rows, columns, logits, self.own.start + rows.start - columns.start)

    def pull(self, tile: Tile, gradient: Tensor) -> None:
        """Take up the ``gradient`` of a tile's logits; each tile once."""
        self._images[tile.rows].addmm_(gradient, self.texts[tile.columns])
        self._texts[tile.columns].addmm_(gradient.T, self.scaled[tile.rows])

    def gradients(self, factor: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """``factor`` times what was pulled, of this rank's images and texts, as the sum of all ranks' losses has them,
        and of scale, this rank's part. To be called once."""
        scale = torch.einsum("bd,bd->b", self._images, self.images).sum() * factor
        return self._images.mul_(self.scale * factor), reduce_scatter(self._texts).mul_(factor), scale


class Softmaxes:
    """The softmax of each row and of each column of the logits, without holding them: one pass over ``pairs``."""

    def __init__(self, pairs: Pairs) -> None:
        rows, columns = _LogSumExp.of_nothing(pairs.images), _LogSumExp.of_nothing(pairs.texts)
        positives = torch.empty_like(rows.top)
        for tile in pairs:
            rows.add(tile.rows, tile.logits, 1)
            columns.add(tile.columns, tile.logits, 0)
            positives[tile.matched] = tile.matches(tile.logits)
        columns.over_ranks()
        own = columns[pairs.own]
        self.rows, self.columns = rows, columns
        self.normaliser = (rows.less(0) + own.less(0)) / 2
        """(b,): log of what the softmaxes of each own pair's row and column divide by, averaged."""
        self.cross_entropy = (rows.less(positives) + own.less(positives)) / 2
        """(b,): of each own pair, the image's among the texts and the text's among the images, averaged."""

    def both(self, tile: Tile) -> Tensor:
        """The probabilities of the tile's rows and of its columns, added."""
        rows, columns = self.rows[tile.rows], self.columns[tile.columns]
        by_row = (tile.logits - rows.top[:, None]).exp_().div_(rows.sum[:, None])
        return by_row.addcdiv_((tile.logits - columns.top).exp_(), columns.sum)


class _LogSumExp:
    """log(sum(exp)) of vectors that arrive in pieces, kept as the largest term and the sum relative to it.

    In two parts, since a certain match has a loss near 0 and a logit near 100: added up, fp32 could not tell it from 0.
    """

    def __init__(self, top: Tensor, total: Tensor) -> None:
        self.top, self.sum = top, total  # (n,)

    @classmethod
    def of_nothing(cls, vectors: Tensor) -> _LogSumExp:
        return cls(vectors.new_full((len(vectors),), -torch.inf), vectors.new_zeros(len(vectors)))

    def __getitem__(self, place: slice) -> _LogSumExp:
        return _LogSumExp(self.top[place], self.sum[place])

    def add(self, place: slice, x: Tensor, dim: int) -> None:
        part = self[place]
        top = torch.maximum(part.top, x.amax(dim))
        part.sum.mul_((part.top - top).exp_()).add_((x - top.unsqueeze(dim)).exp_().sum(dim))
        part.top.copy_(top)

    def over_ranks(self) -> None:
        top = all_reduce(self.top, dist.ReduceOp.MAX)
        self.sum = all_reduce(self.sum * (self.top - top).exp())
        self.top = top

    def less(self, x: Tensor | float) -> Tensor:
        """What it is above ``x``."""
        return self.top - x + self.sum.log()


def attach(loss: Tensor, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> Tensor:
    """``loss`` (0-D) as a function of ``inputs``, whose ``gradients`` are known beforehand.

    Every rank must weigh its loss alike, as the mean over ranks does: in its gradients are parts of the others' losses.
    """
    attached: Tensor = _Attach.apply(loss, gradients, *inputs)
    return attached


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(*(gradient.to(x.dtype) for gradient, x in zip(gradients, inputs, strict=True)))
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, None, *(outer * gradient for gradient in ctx.saved_tensors)
