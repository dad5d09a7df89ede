"""Validation during training: zero-shot accuracy and retrieval on test sets, by all ranks at once.

The images are prepared once and kept as bytes; at each validation every rank encodes an equal part of images and texts,
so none waits for another. Rank 0 scores the gathered features by the same functions as the evaluation stages; that may
take seconds and needs nobody else, so it is left to whoever called, to be done beside the next steps.
Nothing in here touches a random number, a weight or the artifact: validating more often changes no result.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from infra import metrics, ranking
from infra.encoder.open_clip import Preparation
from infra.errors import DataError
from infra.formats.testset import EvalSet, prompts
from training.model.blocks import encode_image
from training.model.text import encode_text
from training.objectives.base import l2_normalise
from training.observe.pictures import Pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from infra.measures import Metric
    from infra.store import Store
    from training.config import Validation as Config
    from training.distributed.world import World
    from training.model.build import Towers

__all__ = ["Encoded", "Validation"]

RECALL_AT = (1, 5)


@dataclass(frozen=True)
class _Set:
    """A test set in memory. ``owners`` is the label of each image, or the image of each caption."""

    name: str
    images: Tensor  # of this rank, uint8 (n, h, w, 3)
    texts: Tensor  # of this rank, int64 (m, context)
    classes: int  # 0: a retrieval set
    owners: list[int]
    wordings: list[int]  # of each caption, the number of its text
    pictures: Pictures | None  # on rank 0


class Validation:
    """The test sets in ``folder`` (CLIP_benchmark's layout) that ``config`` names; ``batch`` images encoded at a time.

    Raises ConfigError for a set that is not there, DataError for one that is not as it must be.
    """

    def __init__(self, folder: Store, config: Config, towers: Towers, world: World, batch: int) -> None:
        self._towers, self._world, self._batch = towers, world, batch
        preprocess = PreprocessCfg(**towers.description["preprocess_cfg"])
        self._prepare = Preparation(image_transform_v2(preprocess, is_train=False))
        self._sets = [self._read(EvalSet.at(folder, name, config.split), config.images) for name in config.sets]

    def __call__(self, model: Any, autocast: AbstractContextManager[object]) -> Encoded:  # noqa: ANN401
        """Encode all sets with open_clip's ``model``. Every rank must call it; what others get than rank 0 is empty."""
        encoded = []
        training = model.training
        model.eval()
        with torch.no_grad(), autocast:
            for one in self._sets:
                images = self._encode(one.images, lambda part: encode_image(model, self._normalised(part)))
                texts = self._encode(one.texts, lambda part: encode_text(model, part))
                encoded.append((one, images, texts))
        model.train(training)
        scale = float(model.logit_scale.detach().exp())
        return Encoded(encoded if self._world.rank == 0 else [], scale)

    def _read(self, examples: EvalSet, most: int) -> _Set:
        images, owners, wordings = [], [], []
        sentences: dict[str, int] = {}
        pictures = Pictures(examples.name, examples.classes) if self._world.rank == 0 else None
        if examples.kind not in ("classification", "retrieval"):
            raise DataError(
                f"test set {examples.name!r} is for {examples.kind}",
                expected="one class an image, or captions that are all right, to validate on",
                fix="evaluate it after training",
            )
        for number, sample in enumerate(examples):
            if number == most:
                break
            if number % self._world.size == self._world.rank:
                images.append(self._prepare(sample.image))
            if pictures is not None:
                pictures.add(sample.image)
            if examples.retrieval:
                owners += [number] * len(sample.captions)
                wordings += [sentences.setdefault(caption, len(sentences)) for caption in sample.captions]
            else:
                owners.append(sample.label)
        if not owners:
            raise DataError(f"test set {examples.name!r} is empty", expected="an image at least")
        if pictures is not None and examples.retrieval:
            pictures.words = list(sentences)
        texts = list(sentences) if examples.retrieval else prompts(examples.classes, examples.templates)
        own = [self._towers.tokenize(text) for text in texts[self._world.rank :: self._world.size]]
        width = len(self._towers.tokenize(""))
        return _Set(
            examples.name,
            torch.from_numpy(np.stack(images)) if images else torch.empty(0, *self._towers.image_size, 3).byte(),
            torch.from_numpy(np.stack(own)) if own else torch.empty(0, width, dtype=torch.int64),
            0 if examples.retrieval else len(examples.classes),
            owners,
            wordings,
            pictures,
        )

    def _normalised(self, images: Tensor) -> Tensor:
        return self._towers.normalise(images.to(self._world.device))

    def _encode(self, items: Tensor, encode: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
        """Features of all ranks' ``items`` in their common order; all ranks encode equally often."""
        counts = self._world.gather(len(items))
        parts = []
        for start in range(0, max(counts), self._batch):
            part = items[start : start + self._batch]
            # A rank that has none left takes part all the same: the layers of a sharded model are gathered by all.
            filled = part if len(part) else items.new_zeros(1, *items.shape[1:])
            parts.append(l2_normalise(encode(filled))[: len(part)].float().cpu().numpy())
        own = np.concatenate(parts)
        every = np.empty((sum(counts), own.shape[1]), np.float32)
        for rank, features in enumerate(self._world.gather(own)):
            every[rank :: self._world.size] = features
        return every


@dataclass(frozen=True)
class Encoded:
    """Test sets with the features of their images and texts; ``scale`` turns cosines into logits."""

    sets: list[tuple[_Set, NDArray[np.float32], NDArray[np.float32]]]
    scale: float

    def __call__(self) -> dict[str, float]:
        """The scores, ``{set}/{metric}``."""
        return {
            f"{one.name}/{name.replace('@', '_at_')}": metric.value
            for one, images, texts in self.sets
            for name, metric in _score(one, images, texts).items()
        }

    def pictures(self) -> dict[str, bytes]:
        """The model's answers as PNG, by the names ``{set} errors`` and ``{set} retrieval``."""
        found = {}
        for one, images, texts in self.sets:
            if one.pictures is not None and one.classes:
                classifier = metrics.ensemble(texts, one.classes)
                found[f"{one.name} errors"] = one.pictures.errors(images, classifier, one.owners, self.scale)
            elif one.pictures is not None:
                found[f"{one.name} retrieval"] = one.pictures.retrieval(images, texts, one.wordings, one.owners)
        return found


def _score(one: _Set, images: NDArray[np.float32], texts: NDArray[np.float32]) -> dict[str, Metric]:
    if one.classes:
        return metrics.classify(images, metrics.ensemble(texts, one.classes), one.owners).metrics()
    return ranking.retrieve(images, texts, one.wordings, one.owners).metrics(RECALL_AT)
