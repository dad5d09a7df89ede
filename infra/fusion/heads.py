"""The base of fusion encoders: how one reads an image and a text, and heads for matching, words and answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.fusion.towers import text_tower

if TYPE_CHECKING:
    from infra.formats.region_shape import RegionShape
    from infra.fusion.network import Layout

__all__ = ["FusionModel", "Heads", "linear_in_fp32", "parameters_of"]


@dataclass(frozen=True)
class Heads:
    """The heads that a fusion encoder is made with.

    ``vocabulary``: how many words the head for masked words tells apart; None: there is none. ``matching``: whether
    there is one for matching. ``answers``: how many answers to questions there are, about ``images`` pictures at once;
    0: no head for them.
    """

    vocabulary: int | None = None
    matching: bool = False
    answers: int = 0
    images: int = 1


class FusionModel(nn.Module, ABC):
    """A module that reads images and texts together, on top of open_clip's ``model``, which each method is given.

    ``mask_embedding`` replaces the embedding of a masked word: CLIP's vocabulary has no such token, and the tower must
    stay loadable by open_clip. The word head shares the text tower's embedding, so it has only a bias per word. Heads
    are made on request only, because DDP waits for the gradients of all weights.
    """

    grad_checkpointing = False  # set it to recompute activations in the backward pass
    match_head: nn.Linear | None
    answer_head: nn.Sequential | None
    images: int

    def add_heads(self, width: int, embedding: int, heads: Heads) -> None:
        """Make the ``heads`` on fused tokens of ``width``; ``embedding`` is the width of a word's."""
        self.images = heads.images
        self.match_head = nn.Linear(width, 1) if heads.matching else None
        if heads.vocabulary is not None:
            self.mask_embedding = nn.Parameter(0.02 * torch.randn(embedding))
            self.word_head = nn.Sequential(nn.Linear(width, embedding), nn.GELU(), nn.LayerNorm(embedding))
            self.word_bias = nn.Parameter(torch.zeros(heads.vocabulary))
        self.answer_head = None
        if heads.answers:
            hidden = nn.Linear(heads.images * width, 2 * width), nn.LayerNorm(2 * width), nn.GELU()
            self.answer_head = nn.Sequential(*hidden, nn.Linear(2 * width, heads.answers))

    def apart(self, images: Tensor) -> Tensor:
        """Cut each of ``images`` (b, ...) into the ``self.images`` pictures side by side in it: (b * self.images, ...).

        Each has an equal part of the width of pixels (b, 3, h, w), or of the rows of regions (b, n, columns).
        """
        samples, channels, height, width = images.shape
        parts = images.reshape(samples, channels, height, self.images, width // self.images)
        return parts.permute(0, 3, 1, 2, 4).flatten(0, 1)

    @property
    def regions(self) -> RegionShape | None:
        """The regions that are read of an image, in a table (:mod:`infra.formats.regions`); None: pixels are."""
        return None

    @abstractmethod
    def read_images(self, model: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - open_clip is untyped
        """The tokens (b, n, d) of ``images``: pixels (b, 3, h, w), or tables of regions (b, n, columns)."""

    @abstractmethod
    def read_texts(self, model: Any, texts: Tensor, lengths: Tensor, *, masked: bool = False) -> Tensor:  # noqa: ANN401
        """The tokens (t, d) of ``texts`` (b, context), on the CPU, without padding, one text after the other.

        ``masked``: where ``texts`` hold the size of the vocabulary, an id that no token has, a word is masked.
        """

    @abstractmethod
    def fuse(self, model: Any, tokens: Tensor, layout: Layout, images: Tensor, image_of: Tensor) -> Tensor:  # noqa: ANN401
        """Fuse the tokens of texts with those of images: (t, width). ``image_of`` (texts,) is the number of each's."""

    def unused(self, model: Any) -> list[nn.Parameter]:  # noqa: ANN401
        """The weights of ``model`` that nothing here depends on: DDP would wait for their gradients in vain."""
        projections = [model.visual.head] if hasattr(model.visual, "head") else [model.visual.proj]
        return parameters_of([*projections, text_tower(model).text_projection])

    def match(self, fused: Tensor, ends: Tensor) -> Tensor:
        """Return logits (t,) that text and image match, read at the texts' last tokens; at least fp32."""
        assert self.match_head is not None, "made without matching"
        return linear_in_fp32(fused[ends], self.match_head.weight, self.match_head.bias).squeeze(-1)

    def words(self, fused: Tensor, embedding: Tensor) -> Tensor:
        """Return logits (k, vocabulary) of the words at tokens ``fused`` (k, width); at least fp32."""
        return linear_in_fp32(self.word_head(fused), embedding, self.word_bias)

    def answers(self, fused: Tensor, ends: Tensor) -> Tensor:
        """Return logits (t, answers) of the answers to the texts, read at their last tokens; at least fp32.

        ``ends`` (images * t,): those of all texts beside their first image, then beside their second, and so on.
        """
        assert self.answer_head is not None, "made without answers"
        *hidden, last = self.answer_head
        x = fused[ends.view(self.images, -1).T].flatten(1)
        for layer in hidden:
            x = layer(x)
        return linear_in_fp32(x, last.weight, last.bias)  # type: ignore[arg-type]


def parameters_of(parts: Iterable[nn.Module | nn.Parameter | None]) -> list[nn.Parameter]:
    """All weights of modules and of weights."""
    found: list[nn.Parameter] = []
    for part in parts:
        found += part.parameters() if isinstance(part, nn.Module) else [] if part is None else [part]
    return found


def linear_in_fp32(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a linear layer's output in at least fp32, also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        x, weight, bias = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (x, weight, bias))
        return F.linear(x, weight, bias)
