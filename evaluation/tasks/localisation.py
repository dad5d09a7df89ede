"""Language-guided localisation: the patch of an image that is most like a phrase should lie on what the phrase names.

A set has a phrase a line in a sample's ``txt``, and a box for each in its ``json``, as COCO writes it:
``{"boxes": [[left, top, width, height]]}`` in pixels of the image.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task
from infra.encoder import Way

__all__ = ["Localisation"]


class Localisation(Task):
    """Localisation: ``pointing_acc``, the share of phrases whose likest patch has its centre inside their box.

    ``centre_acc`` points at the middle of every image, ``blind_acc`` at the patch that is most like all phrases of the
    set together. Models whose image tower is a ViT of open_clip can be measured.
    """

    kind: ClassVar[str] = "localisation"
    implementation: ClassVar[str] = "evaluation.tasks.work.localisation:measure"
    needs: ClassVar[tuple[str, ...]] = ("localisation",)
    main: ClassVar[str] = "pointing_acc"
    units: ClassVar[str] = "phrases"

    patches: Way = Field(
        "value", description="how patches pass the last block: by their own value (MaskCLIP), or by attention"
    )

    def inputs(self) -> tuple[str, ...]:
        return ("model",)
