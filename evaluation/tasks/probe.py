"""Linear probes: how far a linear classifier gets that learns on the vectors (Radford et al., 2021, appendix A.3)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task

__all__ = ["FewShot", "LinearProbe"]


class LinearProbe(Task):
    """Linear probe: logistic regression by L-BFGS, its L2 penalty chosen on a part of the training split.

    Of several classes an image there is a regression for each class, and ``lp_mean_average_precision``.
    """

    kind: ClassVar[str] = "linear_probe"
    implementation: ClassVar[str] = "evaluation.tasks.work.probes:probe"
    needs: ClassVar[tuple[str, ...]] = ("classification", "multilabel")
    main: ClassVar[str] = "lp_acc1"

    train: str = Field("train", description="split it learns from, which must be embedded, too")
    validation: float = Field(0.2, gt=0, lt=1, description="share of that split on which the penalty is chosen")
    seed: int = Field(0, description="seed of the choice of that part")

    def splits(self) -> tuple[str, ...]:
        return self.split, self.train


class FewShot(Task):
    """Few-shot linear probe, from ``shots`` images of each class: mean accuracy over several draws of them."""

    kind: ClassVar[str] = "few_shot"
    implementation: ClassVar[str] = "evaluation.tasks.work.probes:few_shot"
    needs: ClassVar[tuple[str, ...]] = ("classification",)
    main: ClassVar[str] = "few_shot_acc1@16"

    shots: int = Field(16, ge=1, description="images of each class to learn from")
    draws: int = Field(3, ge=1, description="draws of these images; the accuracy is the mean over them")
    train: str = Field("train", description="split they are drawn from, which must be embedded, too")
    seed: int = Field(0, description="seed of the draws")

    def splits(self) -> tuple[str, ...]:
        return self.split, self.train
