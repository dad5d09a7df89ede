"""An image tower that learns nothing runs once for each sample.

Locked-image training (LiT; Zhai et al. 2021, https://arxiv.org/abs/2111.07991) without random augmentation reads the
same features at every epoch. So the locked part's output for a sample is kept when it is first computed, and from then
on the image is neither read nor decoded. What follows the locked part (a timm tower's projection) learns as ever.

It is the same arithmetic in another order, so losses are those of running the tower, up to the rounding that depends
on a batch's size; and where one of the conditions below does not hold, the tower runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from training.data.feature_cache import FeatureCache
from training.data.samples import cache_folder
from training.model.blocks import encode_image
from training.model.precision import Precision
from training.objectives.base import Objective

if TYPE_CHECKING:
    from training.config import Config
    from training.data.loader import Batch
    from training.distributed.world import World
    from training.model.build import Towers

__all__ = ["LockedPart", "LockedTower"]

log = logging.getLogger(__name__)

DROPS = ("prob", "drop_prob", "drop_rate", "dropout", "attn_drop")
"""Attributes of layers that drop something in training, where they are numbers above 0."""


@dataclass(frozen=True)
class LockedPart:
    """The part of a model's image tower that learns nothing, and what follows it."""

    run: Callable[[Tensor], Tensor]
    """Pixels (b, 3, h, w) to the part's output (b, ...)."""
    finish: Callable[[Tensor], Tensor]
    """That output to what ``encode_image`` returns (b, d)."""

    @classmethod
    def of(cls, model: Any) -> LockedPart | None:  # noqa: ANN401 - open_clip's models share methods, no type
        """Find it in ``model``; None if all learns, or an image's output is not the same at every step."""
        if not isinstance(model, CLIP | CustomTextCLIP):
            return None
        visual = model.visual
        if isinstance(visual, TimmModel) and _fixed(visual.trunk):
            # Partials, because a module would become a submodule of whatever holds it.
            return cls(partial(_call, visual.trunk), partial(_call, visual.head))
        return cls(partial(encode_image, model), lambda output: output) if _fixed(visual) else None


def _call(module: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = module(x)
    return result


def _fixed(part: nn.Module) -> bool:
    """Return whether nothing in ``part`` learns, gathers statistics or drops anything in training."""
    return not any(weight.requires_grad for weight in part.parameters()) and not any(map(_varies, part.modules()))


def _varies(layer: nn.Module) -> bool:
    if isinstance(layer, _BatchNorm):  # frozen ones are of another class
        return True
    rates = [getattr(layer, name, None) for name in (*DROPS, *(("p",) if isinstance(layer, _DropoutNd) else ()))]
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


class LockedTower:
    """The locked part's output for each batch: from the cache, or computed and kept there."""

    def __init__(self, part: LockedPart, cache: FeatureCache, config: Config, towers: Towers, world: World) -> None:
        self.part, self.cache = part, cache
        self._towers, self._device = towers, world.device
        self._precision = Precision(config.precision, config.tf32)
        self._step = config.batch_size // world.size // config.cluster.accumulate

    @classmethod
    def of(
        cls, config: Config, towers: Towers, objective: Objective, samples: int, total: int, world: World
    ) -> LockedTower | None:
        """Open it for a run of ``total`` samples seen, of ``samples``, and let ``objective`` read its outputs.

        None where images must be read at every step: something of the tower learns or varies, augmentation is random,
        the objective reads more of an image than its feature, weights are sharded, or there is one epoch only. All
        ranks must call it, once the model is on its device.
        """
        part = LockedPart.of(towers.model)
        loading, sharded = config.loading, config.cluster.parallel == "fsdp" and world.size > 1
        own_forward = type(objective).forward is not Objective.forward and not objective.features_only
        if part is None or own_forward or sharded or total <= samples or not config.augment.deterministic:
            return None
        below = Path(loading.cache_folder) if loading.cache_folder else cache_folder()
        precision = Precision(config.precision, config.tf32)
        with torch.no_grad(), precision.autocast(world.device):
            pixels = torch.zeros(1, *towers.image_size, 3, dtype=torch.uint8, device=world.device)
            (example,) = part.run(towers.normalise(pixels))
        cache = FeatureCache.open(below, loading.feature_cache_mb * 1_000_000, samples, example, world)
        if cache is None:
            return None
        log.info("the locked image tower runs once for each of %d samples of %d", cache.rows, samples)
        objective.finish_image = part.finish
        return cls(part, cache, config, towers, world)

    def outputs(self, batch: Batch) -> Tensor:
        """The locked part's outputs for ``batch``, on this rank's device.

        Images of samples in the cache are not looked at: the loader leaves them out.
        """
        images = batch.images
        outputs = self.cache.filled(batch.numbers, self._step, lambda rows: self._run(images[rows.to(images.device)]))
        return outputs.to(self._device, non_blocking=True)

    def _run(self, images: Tensor) -> Tensor:
        with torch.no_grad(), self._precision.autocast(self._device):
            return self.part.run(self._towers.normalise(images.to(self._device))).cpu()
