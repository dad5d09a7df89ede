"""Exponential moving average of a run's weights, which is often the better model (Polyak averaging).

The decay is given as a half-life in samples: a batch of n samples keeps 2^(-n / half-life) of the old average, so the
average hardly depends on the batch size. As with Adam's moments, it starts at zero and is divided by the sum of its
coefficients, so the initial random weights have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.distributed.parallel import local

__all__ = ["Ema"]


class Ema(nn.Module):
    """The average of ``weights`` (name, value), in fp32; the last values of integer tensors.

    It is kept in buffers, so ``state_dict()`` carries it into checkpoints. ``half_life`` is in samples.
    """

    _coefficients: Tensor

    def __init__(self, weights: Iterable[tuple[str, Tensor]], half_life: float) -> None:
        super().__init__()
        self.half_life = half_life  # samples
        self._names: list[str] = []
        for name, value in weights:
            self._names.append(name)
            dtype = torch.float32 if value.is_floating_point() else value.dtype
            self.register_buffer(_escaped(name), torch.zeros_like(value, dtype=dtype))
        self.register_buffer("_coefficients", torch.zeros((), dtype=torch.float64))
        """The sum of the coefficients, from 0 to 1."""

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]], samples: int) -> None:
        """Add the ``weights`` after a batch of ``samples`` to the average."""
        new = 1 - 2 ** (-samples / self.half_life)
        self._coefficients += new * (1 - self._coefficients)
        values = dict(weights)
        averages, current = [], []
        for name in self._names:
            average = self.get_buffer(_escaped(name))
            if average.is_floating_point():
                averages.append(local(average))  # FSDP shards it like the weight
                current.append(local(values[name]).float())
            else:
                average.copy_(values[name])
        torch._foreach_lerp_(averages, current, new)

    def weights(self) -> dict[str, Tensor]:
        """Return the average by the weights' names. Raises ValueError before the first update."""
        coefficients = float(self._coefficients)
        if coefficients == 0:
            raise ValueError("there is no average before the first update")
        return {
            name: value / coefficients if value.is_floating_point() else value.clone()
            for name in self._names
            for value in [self.get_buffer(_escaped(name))]
        }


def _escaped(name: str) -> str:
    return f"of/{name.replace('.', '/')}"  # a buffer's name must have no dots and must not hide a module's attribute
