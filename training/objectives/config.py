"""The family of objectives: what a recipe chooses from, and what the training loop asks of the choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from infra.config import Choice
from infra.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from infra.formats.region_shape import RegionShape
    from infra.store import Store
    from training.config import Config
    from training.objectives.base import Objective

__all__ = ["ObjectiveConfig"]


class ObjectiveConfig(Choice):
    """Configuration of a training objective. Members import no torch: ``implementation`` names their objective,
    unless they define :meth:`build`.

    ``model_settings``: defaults for open_clip's model configuration that the objective wants, such as the initial
    temperature; what the configuration says itself goes first. ``needs``: inputs of the training stage that it
    cannot do without, beside ``shards``.
    """

    home = "training.objectives"
    model_settings: ClassVar[Mapping[str, Any]] = {}
    needs: ClassVar[tuple[str, ...]] = ()

    def build(self, model: nn.Module, run: Config, inputs: Mapping[str, Path]) -> Objective:
        """The objective around open_clip's ``model`` for the training run ``run``.

        ``inputs``: local folders of the models in the stage's inputs, by name (``teacher``). Raises ConfigError.
        """
        made: Objective = self.implemented()(model, self, run, inputs)
        return made

    def side_by_side(self) -> int:
        """Return how many pictures of equal width lie side by side in an image; each is augmented and read alone."""
        return 1

    def regions(self, models: Mapping[str, Store]) -> RegionShape | None:
        """Return what is read of an image where that are a detector's regions; None: pixels.

        ``models``: the folders of those in the stage's inputs that are known, by name, wherever they are.
        """
        return None

    def check(self, micro_batch: int) -> None:
        """Raise ConfigError if the objective cannot work on so many samples at a time."""

    def check_divides(self, field: str, micro_batch: int) -> None:
        """Raise ConfigError unless the value of ``field`` divides the size of a micro-batch."""
        if micro_batch % (value := getattr(self, field)):
            raise ConfigError(
                f"{type(self).__module__}.{type(self).__name__}.{field} does not divide a micro-batch",
                expected=f"a divisor of {micro_batch}",
                found=str(value),
            )
