"""Choosing among hard negatives, as SugarCrepe and Winoground ask it: which caption is the image's, which image the
caption's?

The first caption of an image is right, the others are wrong. Images whose ``json`` names the same ``group`` are one
group: their captions are wrong for each other. An image alone with a right and a wrong caption is SugarCrepe's form
(Hsieh et al., 2023), two images with a caption each are Winoground's (Thrush et al., 2022). A ``category`` in the
``json`` makes a table by category.

What scores level is decided by chance, each choice by itself, and counts as its expectation: a model that cannot tell
the captions apart gets what guessing gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from evaluation.tasks.task import Columns, Scores, Task
from infra.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evaluation.embedded import Embedded
    from evaluation.groups import Group
    from infra.measures import Metric

__all__ = ["ImageCaptionSelection"]


class ImageCaptionSelection(Task):
    """Winoground's text, image and group score and the group match; ``acc`` alone where every image is alone."""

    kind: ClassVar[str] = "image_caption_selection"

    def evaluate(self, data: Embedded) -> Scores:
        # Here, because they load numpy and matplotlib and recipes import this module.
        import numpy as np

        from evaluation import galleries
        from evaluation.groups import chance, groups_of, outcomes
        from infra.measures import ClassMean, Mean

        if data.examples.kind != self.kind:
            raise DataError(
                f"test set {data.examples.name!r} has no wrong captions",
                expected=f"{self.kind} in dataset_type.txt",
                found=data.examples.kind,
            )
        groups = groups_of(data)
        found = outcomes(data, groups)
        categories = [group.category for group in groups]
        names, category = np.unique(categories, return_inverse=True)
        metrics: dict[str, Metric] = {name: Mean(values) for name, values in found.items()}
        by_category: dict[str, dict[str, Metric]] = {}
        if len(names) > 1:
            metrics["mean_per_category_acc"] = ClassMean(found["acc"], category)
            for number, name in enumerate(names.tolist()):
                by_category[name] = {metric: Mean(values[category == number]) for metric, values in found.items()}
        return Scores(
            metrics=metrics,
            groups={"categories": by_category} if by_category else {},
            tables={"selections": _table(data, groups, found)},
            figures={"selections": galleries.selections(data, groups, found["acc"])},
            facts={"groups": len(groups), "images": len(data.keys), "captions": len(data.text_of)} | chance(groups),
        )


def _table(data: Embedded, groups: Sequence[Group], found: dict[str, NDArray[np.float64]]) -> Columns:
    """A row for each group: its images, its captions (the right ones first, in the order of images), and outcomes."""
    return {
        "group": [group.name for group in groups],
        "category": [group.category for group in groups],
        "keys": [[data.keys[image] for image in group.images] for group in groups],
        "captions": [[data.captions[data.text_of[caption]] for caption in group.captions] for group in groups],
        **found,
    }
