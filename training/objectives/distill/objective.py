"""Distillation: beside the contrastive loss, rank the batch as a trained teacher does.

The student's distribution of each image over all texts, and of each text over all images, is drawn to the teacher's:
contrastive relational distillation of CLIP-KD (Yang et al. 2024, https://arxiv.org/abs/2307.12732), affinity mimicking
of TinyCLIP (Wu et al. 2023, https://arxiv.org/abs/2309.12314), open_clip's ``DistillClipLoss``. Teacher and student may
differ in everything but the tokens they read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.model.blocks import compile_blocks, lean
from training.objectives.base import Objective, features
from training.objectives.pairs import Pairs, Softmaxes, apart, attach

if TYPE_CHECKING:
    from training.objectives.distill.config import Config

__all__ = ["Distillation", "Teacher", "distillation"]


class Distillation(Objective):
    """InfoNCE plus ``config.weight`` times the cross-entropy with the teacher in the folder ``teacher``.

    Raises ConfigError as :class:`Teacher` does.
    """

    def __init__(self, model: nn.Module, config: Config, teacher: str | Path, *, compiled: bool = False) -> None:
        super().__init__(model)
        self.weight = config.weight
        trained = Teacher(teacher, model)
        if compiled:
            compile_blocks(trained.model)
        # In a tuple it is no submodule: it learns nothing, so checkpoints, DDP and FSDP have no business with it.
        self._teacher = (trained,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._teacher[0]._apply(fn)  # type: ignore[no-untyped-call] # it moves to another device with the rest
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        outputs = super().forward(images, texts)
        if self.again:
            return outputs
        taught = self._teacher[0](images, texts)
        return outputs | {f"teacher_{name}": value for name, value in taught.items()}

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        teacher = outputs["teacher_image"], outputs["teacher_text"], outputs["teacher_scale"]
        return distillation(outputs["image"], outputs["text"], outputs["scale"], teacher, self.weight)


class Teacher(nn.Module):
    """The trained model in ``folder``: a training artifact, or whatever open_clip loads with ``local-dir:``.

    Its forward pass takes what the ``student`` takes and gives "image", "text" (b, d) and "scale" (0-D) without
    gradient. Raises ConfigError if there is no model or it reads other tokens.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, folder: str | Path, student: nn.Module) -> None:
        import open_clip

        super().__init__()
        folders = [path for path in (Path(folder), Path(folder, "data")) if (path / "open_clip_config.json").is_file()]
        try:
            model = open_clip.create_model(f"local-dir:{folders[0]}", require_pretrained=True)
        except (IndexError, TypeError, KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "there is no teacher to distill from",
                expected="a folder with open_clip_config.json and the weights",
                found=f"{folder}: {error!r}"[:500] if folders else str(folder),
                fix="give the training stage a model as its input teacher",
            ) from error
        self.model: Any = lean(model).eval().requires_grad_(False)
        for name, fits in {"vocab_size": int.__eq__, "context_length": int.__le__}.items():
            reads, can_read = getattr(student, name), getattr(self.model, name)
            if not fits(reads, can_read):
                raise ConfigError(
                    "the teacher cannot read the student's tokens", expected=f"{name} {reads}", found=str(can_read)
                )
        ours, its = (open_clip.get_model_preprocess_cfg(model) for model in (student, self.model))
        self.size = (its["size"],) * 2 if isinstance(its["size"], int) else tuple(its["size"])
        mean, std, its_mean, its_std = (torch.tensor(cfg[key]) for cfg in (ours, its) for key in ("mean", "std"))
        self.register_buffer("factor", (std / its_std).view(3, 1, 1))
        self.register_buffer("shift", ((mean - its_mean) / its_std).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        images = images.to(self.factor.dtype) * self.factor + self.shift
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        return {**features(self.model, images, texts), "scale": self.model.logit_scale.exp().reshape(())}


@apart
def distillation(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    teacher: tuple[Tensor, Tensor, Tensor],
    weight: float = 1.0,
    tile: int | None = None,
) -> dict[str, Tensor]:
    """This rank's share of InfoNCE ("contrastive"), of the cross-entropy with the teacher ("distill"), and "loss".

    ``images`` and ``texts`` are (b, d), of unit length, the same b on every rank; ``scale`` is 0-D; the ``teacher``'s
    three likewise, of its own d. Two passes over the tiles, of at most ``tile`` logits, of both models together. Only
    "loss" has a gradient.
    """
    student, master = Pairs(images, texts, scale, tile), Pairs(*teacher, tile)
    softmaxes, targets = Softmaxes(student), Softmaxes(master)
    agreement = torch.zeros_like(student.scale)
    for each, taught in zip(student, master, strict=True):
        target = targets.both(taught)
        agreement += (target * each.logits).sum()
        if student.wanted:
            gradient = softmaxes.both(each).mul_(1 + weight).sub_(target, alpha=weight)
            each.matches(gradient).sub_(2)
            student.pull(each, gradient)
    contrastive = softmaxes.cross_entropy.mean()
    distill = softmaxes.normaliser.mean() - agreement / (2 * len(images))
    loss = contrastive + weight * distill
    if student.wanted:
        loss = attach(loss, (images, texts, scale), student.gradients(1 / (2 * len(images))))
    return {"loss": loss, "contrastive": contrastive, "distill": distill}
