"""The moving average of a run's weights, which is often the better model (Polyak averaging).

Its memory is given as a half-life in samples: after so many samples half of what it holds has been replaced. So it is
the same average for any batch size, as far as weights seen more or less often allow: a batch of n samples keeps
2^(-n / half-life) of the old. At the start there is nothing to remember, and weights count from the first step on: the
average is divided by the sum of its coefficients (as Adam's moments are), so no random weights linger in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.distributed.parallel import local

__all__ = ["Ema", "half_life"]


class Ema(nn.Module):
    """The average of ``weights`` (name, value), in fp32, as buffers; what is no floating point number is copied.

    Buffers go into checkpoints by ``state_dict()`` like any module's.
    """

    _known: Tensor

    def __init__(self, weights: Iterable[tuple[str, Tensor]], half_life: float) -> None:
        super().__init__()
        self.half_life = half_life  # samples
        self._names: list[str] = []
        for name, value in weights:
            self._names.append(name)
            exact = torch.float32 if value.is_floating_point() else value.dtype
            self.register_buffer(_escaped(name), torch.zeros_like(value, dtype=exact))
        self.register_buffer("_known", torch.zeros((), dtype=torch.float64))
        """The sum of the coefficients, from 0 to 1."""

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]], samples: int) -> None:
        """Take in the ``weights`` after a batch of ``samples``."""
        new = 1 - 2 ** (-samples / self.half_life)
        self._known += new * (1 - self._known)
        values = dict(weights)
        averages, current = [], []
        for name in self._names:
            average = self.get_buffer(_escaped(name))
            if average.is_floating_point():
                averages.append(local(average))  # FSDP shards it as it shards the weight
                current.append(local(values[name]).float())
            else:
                average.copy_(values[name])
        torch._foreach_lerp_(averages, current, new)

    def weights(self) -> dict[str, Tensor]:
        """The average by the weights' own names."""
        known = float(self._known)
        if known == 0:
            raise ValueError("there is no average before the first update")
        return {
            name: value / known if value.is_floating_point() else value.clone()
            for name in self._names
            for value in [self.get_buffer(_escaped(name))]
        }

    def extra_repr(self) -> str:
        return f"half_life={self.half_life:g}"


def half_life(decay: float, batch_size: int) -> float:
    """The half-life in samples of an average that keeps ``decay`` of the old at each step, as others give it."""
    return batch_size * math.log(2) / -math.log(decay)


def _escaped(name: str) -> str:
    return f"of/{name.replace('.', '/')}"  # a buffer's name has no dots and is no attribute of modules
