"""A teacher that learns nothing runs once for each sample.

Without random augmentation the teacher of a distillation sees the same pixels of a sample at every epoch, and, where
samples have one caption each, the same tokens. So its features are kept when they are first computed. Where a caption
is drawn at each epoch only those of images are kept, and its text tower runs at every step.

It is the same arithmetic in another order, so losses are those of running the teacher, up to the rounding that depends
on a batch's size. With random augmentation the teacher must see what the student sees, and runs at every step.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training.data.feature_cache import FeatureCache
from training.data.samples import cache_folder
from training.model.precision import Precision
from training.objectives.base import Objective, Teacher

if TYPE_CHECKING:
    from training.config import Config
    from training.data.loader import Batch
    from training.data.samples import Samples
    from training.distributed.world import World
    from training.model.build import Towers

__all__ = ["KeptTeacher"]

log = logging.getLogger(__name__)


class KeptTeacher:
    """A teacher's features for each batch: from the cache, or computed and kept there."""

    def __init__(
        self, teacher: Teacher, cache: FeatureCache, texts: bool, config: Config, towers: Towers, world: World
    ) -> None:
        """``texts``: whether a row of the cache has the caption's feature, too, behind the image's."""
        self.teacher, self.cache, self.texts = teacher, cache, texts
        self._towers, self._device = towers, world.device
        self._precision = Precision(config.precision, config.tf32)
        self._step = config.batch_size // world.size // config.cluster.accumulate

    @classmethod
    def of(
        cls, config: Config, towers: Towers, objective: Objective, samples: Samples, total: int, world: World
    ) -> KeptTeacher | None:
        """Open it for a run of ``total`` samples seen, of ``samples``.

        None where ``objective`` has no teacher, it must run at every step, or there is one epoch only. All ranks must
        call it, once the model is on its device.
        """
        teacher, loading = objective.teacher, config.loading
        if teacher is None or total <= len(samples):
            return None
        if not config.augment.deterministic:
            log.warning(
                "the teacher runs at every step, because images are augmented at random; without (augment.crop_scale = "
                "1, 1) its features would be kept"
            )
            return None
        below = Path(loading.cache_folder) if loading.cache_folder else cache_folder()
        texts = samples.index.one_caption
        empty = torch.zeros(1, *towers.image_size, 3, dtype=torch.uint8)
        with torch.no_grad(), Precision(config.precision, config.tf32).autocast(world.device):
            image = teacher.image(towers.normalise(empty.to(world.device)))[0]
        example = image.repeat(2) if texts else image  # both features have the model's width
        cache = FeatureCache.open(below, loading.feature_cache_mb * 1_000_000, len(samples), example, world)
        if cache is None:
            return None
        what = "" if texts else "image tower "
        log.info("the teacher's %sruns once for each of %d samples of %d", what, cache.rows, len(samples))
        return cls(teacher, cache, texts, config, towers, world)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """The features of ``batch`` by the names of the objective's outputs: "image" and, if they are kept, "text"."""
        kept = self.cache.filled(batch.numbers, self._step, lambda rows: self._run(batch, rows))
        names = ("image", "text") if self.texts else ("image",)
        return dict(zip(names, kept.to(self._device, non_blocking=True).chunk(len(names), dim=1), strict=True))

    def _run(self, batch: Batch, rows: Tensor) -> Tensor:
        images = batch.images[rows.to(batch.images.device)].to(self._device)
        with torch.no_grad(), self._precision.autocast(self._device):
            found = [self.teacher.image(self._towers.normalise(images))]
            if self.texts:
                found.append(self.teacher.text(batch.texts[rows]))
        return torch.cat(found, dim=1).cpu()
