"""Dropout that draws the same for a sample on any number of workers.

The layers of torch, open_clip and timm draw from the worker's generator, so the number of workers would decide what is
dropped. Here the draw belongs to the sample's position in the run (:mod:`training.draws`), like its crop.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from infra.device import to_device
from training import draws

__all__ = ["Dropout", "PatchDropout", "Position"]


class Position:
    """A shared counter: samples seen before the next forward's first image, counted over the global batch."""

    def __init__(self) -> None:
        self.samples = 0

    def __deepcopy__(self, _: object) -> Self:
        return self  # copies of a model (momentum encoders) see the same images


class PatchDropout(nn.Module):
    """Keep a random ``1 - prob`` of an image's patch tokens in training, all of them in evaluation.

    The first ``prefix`` tokens (the class token) are always kept. It saves that part of the image tower's work (FLIP;
    Li et al. 2022, https://arxiv.org/abs/2212.00794).
    """

    def __init__(self, prob: float, prefix: int, seed: int, position: Position) -> None:
        super().__init__()
        self.prob, self.prefix, self.seed, self.position = prob, prefix, seed, position

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, prefix + n, d) to (b, prefix + max(1, n (1 - prob)), d)."""
        if not self.training:
            return x
        prefix, patches = x[:, : self.prefix], x[:, self.prefix :]
        count = patches.shape[1]
        noise = _noise((self.seed, 0), 2, self.position, len(x), count, x.device)
        kept = noise.topk(max(1, int(count * (1 - self.prob))), dim=1).indices
        return torch.cat([prefix, patches.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))], dim=1)


class Dropout(nn.Module):
    """Zero a random ``prob`` of a sample's activations in training and scale the rest up, so that the mean stays.

    With ``whole_sample``, all or none of a sample's activations are dropped (stochastic depth; Huang et al. 2016,
    https://arxiv.org/abs/1603.09382). ``layer`` is the layer's number among those that draw.
    """

    def __init__(self, prob: float, whole_sample: bool, seed: int, layer: int, position: Position) -> None:
        super().__init__()
        self.prob, self.whole_sample, self.position = prob, whole_sample, position
        self.seed, self.layer = seed, layer

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, ...) to (b, ...)."""
        if not self.training:
            return x
        width = 1 if self.whole_sample else x[0].numel()
        noise = _noise((self.seed, self.layer), 3, self.position, len(x), width, x.device)
        shape = (len(x), *(1 for _ in x.shape[1:])) if self.whole_sample else x.shape
        kept: Tensor = (noise >= self.prob).view(shape).to(x.dtype)
        return x * kept / (1 - self.prob)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _noise(
    key: tuple[int, int], stream: int, position: Position, samples: int, width: int, device: torch.device
) -> Tensor:
    """Return :func:`training.draws.uniform` for the next ``samples`` images: (samples, width), float64."""
    return to_device(torch.from_numpy(draws.uniform(key, stream, position.samples, samples, width)), device)
