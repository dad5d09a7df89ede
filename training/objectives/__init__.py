"""What can be minimised, one small file each.

An objective is a module that owns the model and turns a worker's share of a batch into a loss::

    objective = infonce.InfoNCE(model)          # model: open_clip's; what else it learns or remembers is its own state
    loss = objective(images, texts)             # this rank's part; collectives inside see the whole batch
    objective.after_step()                      # constraints on weights, moving averages

Its gradients, averaged over ranks (as DDP does), must be those of the loss of the whole batch on one rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from training.objectives.infonce import InfoNCE

__all__ = ["OBJECTIVES", "Objective"]


class Objective(Protocol):
    model: nn.Module

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """The loss of this rank's ``images`` (b, 3, h, w) and ``texts`` (b, context); its mean over ranks counts."""
        ...

    def after_step(self) -> None:
        """Called after each step of the optimizer."""
        ...


OBJECTIVES: dict[str, Callable[[nn.Module], InfoNCE]] = {"infonce": InfoNCE}
