"""Language-guided localisation: the patch of an image that is most like a phrase should lie on what the phrase names.

A set has a phrase a line in a sample's ``txt``, and a box for each in its ``json``, as COCO writes it:
``{"boxes": [[left, top, width, height]]}`` in pixels of the image.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task
from infra.encoder.patch_features import PatchFeatures, Value

__all__ = ["Localisation"]


class Localisation(Task):
    """Localisation: ``pointing_acc``, the share of phrases whose likest patch has its centre inside their box.

    ``centre_acc`` points at the middle of every image, ``blind_acc`` at the patch that is most like all phrases of the
    set together. Our two ways to take patches are for models whose image tower is a ViT of open_clip.
    """

    kind: ClassVar[str] = "localisation"
    implementation: ClassVar[str] = "evaluation.tasks.work.localisation:measure"
    needs: ClassVar[tuple[str, ...]] = ("localisation",)
    main: ClassVar[str] = "pointing_acc"
    units: ClassVar[str] = "phrases"
    code_version: ClassVar[int] = 2

    patches: PatchFeatures = Field(
        Value(),
        description="how patches pass the last block: by value (MaskCLIP), by attention, or a way of your own",
    )

    def inputs(self) -> tuple[str, ...]:
        return ("model",)
