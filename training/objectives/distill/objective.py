"""Distillation: the contrastive loss plus the cross-entropy with a trained teacher's similarities.

The student's distribution of each image over all texts, and of each text over all images, is fitted to the teacher's:
contrastive relational distillation of CLIP-KD (Yang et al. 2024, https://arxiv.org/abs/2307.12732), affinity mimicking
of TinyCLIP (Wu et al. 2023, https://arxiv.org/abs/2309.12314), open_clip's ``DistillClipLoss``. Teacher and student may
differ in everything but the tokens they read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import CliplineError, ConfigError
from infra.formats.merges import FILE, read_merges
from infra.formats.text_tower import with_own_tower
from training.model.blocks import compile_blocks, encode_image, use_fast_blocks
from training.model.pretrained import Pretrained
from training.model.text import encode_text
from training.objectives.base import Objective, l2_normalise
from training.objectives.pairs import Pairs, Softmaxes, eager_fp32, with_precomputed_gradient

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.objectives.distill.config import Config

__all__ = ["Distillation", "Teacher", "distillation"]


class Distillation(Objective):
    """The objective: InfoNCE plus ``weight`` times the cross-entropy with the teacher, a folder of ``inputs``.

    Raises ConfigError as :class:`Teacher` does.
    """

    contrastive = "contrastive"

    def __init__(self, model: nn.Module, config: Config, run: Run, inputs: Mapping[str, Path]) -> None:
        super().__init__(model)
        self.weight = config.weight
        trained = Teacher(inputs["teacher"], model, run.model.merges)
        if run.cluster.compile:
            compile_blocks(trained.model)
        # In a tuple it is no submodule: it is not trained, so checkpoints, DDP and FSDP must not see it.
        self._teacher = (trained,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._teacher[0]._apply(fn)  # type: ignore[no-untyped-call] # moves it to another device with the rest
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        outputs = super().forward(images, texts)
        if self.again:
            return outputs
        taught = self._teacher[0](images, texts, self.taught)
        return outputs | {f"teacher_{name}": value for name, value in taught.items()}

    @property
    def teacher(self) -> Teacher:
        return self._teacher[0]

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        teacher = outputs["teacher_image"], outputs["teacher_text"], outputs["teacher_scale"]
        return distillation(outputs["image"], outputs["text"], outputs["scale"], teacher, self.weight)


class Teacher(nn.Module):
    """The trained model in ``folder``: a training artifact, or a folder that open_clip loads with ``local-dir:``.

    Its forward pass takes the ``student``'s inputs and returns "image", "text" (b, d) and "scale" (0-D) without
    gradient; features that are ``kept`` from an earlier one are not computed again. Raises ConfigError if there is no
    model or it reads other tokens.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, folder: str | Path, student: nn.Module, merges: Sequence[str] | None = None) -> None:
        super().__init__()
        try:
            source = Pretrained.at(str(folder))
            source.check()
            with with_own_tower(source.weights.parent) as place:
                model = open_clip.create_model(f"local-dir:{place}", require_pretrained=True)
        except (CliplineError, TypeError, KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "the teacher cannot be loaded",
                expected="a folder with open_clip_config.json and the weights",
                found=f"{folder}: {error}"[:500],
                fix="give the training stage a model as its input teacher",
            ) from error
        self.model: Any = use_fast_blocks(model).eval().requires_grad_(False)
        for name, fits in {"vocab_size": int.__eq__, "context_length": int.__le__}.items():
            reads, can_read = getattr(student, name), getattr(self.model, name)
            if not fits(reads, can_read):
                raise ConfigError(
                    "the teacher cannot read the student's tokens", expected=f"{name} {reads}", found=str(can_read)
                )
        own = source.tokenizer().get(FILE)
        if (read_merges(own, FILE) if own else None) != (tuple(merges) if merges else None):
            raise ConfigError(
                "the teacher cannot read the student's tokens", expected="the same merges", found="others"
            )
        # The teacher's normalisation is applied to the student's normalised images by one affine map.
        ours, its = (open_clip.get_model_preprocess_cfg(model) for model in (student, self.model))
        self.size = (its["size"],) * 2 if isinstance(its["size"], int) else tuple(its["size"])
        mean, std, its_mean, its_std = (torch.tensor(cfg[key]) for cfg in (ours, its) for key in ("mean", "std"))
        self.register_buffer("factor", (std / its_std).view(3, 1, 1))
        self.register_buffer("shift", ((mean - its_mean) / its_std).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Tensor, kept: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        known = dict(kept or {})
        image = known["image"] if "image" in known else self.image(images)
        text = known["text"] if "text" in known else self.text(texts)
        return {"image": image, "text": text, "scale": self.model.logit_scale.exp().reshape(())}

    def image(self, images: Tensor) -> Tensor:
        """Features (b, d) of the student's images."""
        images = images.to(self.factor.dtype) * self.factor + self.shift
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        return l2_normalise(encode_image(self.model, images))

    def text(self, texts: Tensor) -> Tensor:
        """Features (b, d) of the student's tokens."""
        return l2_normalise(encode_text(self.model, texts))


@eager_fp32
def distillation(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    teacher: tuple[Tensor, Tensor, Tensor],
    weight: float = 1.0,
    tile: int | None = None,
) -> dict[str, Tensor]:
    """Return this rank's part of InfoNCE ("contrastive"), of the teacher's cross-entropy ("distill"), and "loss".

    ``images`` and ``texts`` are (b, d), l2-normalised, with the same b on every rank; ``scale`` is 0-D; the
    ``teacher``'s three likewise, with its own d. Two passes over the tiles, of at most ``tile`` logits, of both models
    together. Only "loss" has a gradient.
    """
    # The first pass over each model's tiles finds the normalisers, the second the agreement and the gradient.
    student, taught = Pairs(images, texts, scale, tile), Pairs(*teacher, tile)
    softmaxes, targets = Softmaxes(student), Softmaxes(taught)
    agreement = torch.zeros_like(student.scale)
    for each, teacher_tile in zip(student, taught, strict=True):
        target = targets.probabilities(teacher_tile)
        agreement += (target * each.logits).sum()
        if student.needs_gradient:
            gradient = softmaxes.probabilities(each).mul_(1 + weight).sub_(target, alpha=weight)
            each.matches(gradient).sub_(2)
            student.add_gradient(each, gradient)
    contrastive = softmaxes.cross_entropy.mean()
    distill = softmaxes.normaliser.mean() - agreement / (2 * len(images))
    loss = contrastive + weight * distill
    if student.needs_gradient:
        loss = with_precomputed_gradient(loss, (images, texts, scale), student.gradients(1 / (2 * len(images))))
    return {"loss": loss, "contrastive": contrastive, "distill": distill}
