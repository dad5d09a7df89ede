"""The base of training objectives.

An objective is a module that owns the model and works in two halves::

    objective = config.objective.build(model, config, inputs)   # model: open_clip's
    outputs = objective(images, texts)                  # this rank's samples, encoded; all parameters are used here
    losses = objective.loss(outputs)                    # no parameters; collectives inside see the whole batch
    losses["loss"].backward()
    objective.after_step(samples)                       # constraints on weights, moving averages

Two halves, because the first can be done in pieces and the second cannot: a batch too large for memory is encoded
micro-batch by micro-batch, its loss taken once over all features, and the gradients of these handed back to each piece
(GradCache, Gao et al. 2021, https://arxiv.org/abs/2101.06983). That is exact only if nothing but features and learnt
scalars passes from one half to the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.blocks import encode_image
from training.model.text import encode_text

if TYPE_CHECKING:
    from training.data.tokens import Tokenizer

__all__ = ["MAX_LOGIT_SCALE", "Companion", "Objective", "Teacher", "features", "l2_normalise"]

MAX_LOGIT_SCALE = math.log(100)
"""CLIP's bound on the learnt temperature: hotter logits let one batch's noise overturn the towers."""


class Companion(NamedTuple):
    """A module exported along with the model, and the JSON configuration to rebuild it from."""

    module: nn.Module
    config: Mapping[str, Any]


class Teacher(Protocol):
    """A network that never learns: of the model's inputs (b, ...) it gives features (b, d) of unit length."""

    def image(self, images: Tensor, /) -> Tensor:
        """Features of normalised pixels (b, 3, h, w)."""

    def text(self, texts: Tensor, /) -> Tensor:
        """Features of tokens (b, context)."""


class Objective(nn.Module, ABC):
    """Base of all; what it does is what objectives of two towers and a temperature have in common.

    Made of the model, the objective's configuration, the run and its inputs, as
    :meth:`training.objectives.config.ObjectiveConfig.build` has them; this base needs the model only.

    The law: a rank's loss, averaged over ranks as DDP averages gradients, is the loss of the global batch on one rank,
    and so are its gradients. Neither the number of ranks nor of micro-batches changes anything.
    """

    learnt: ClassVar[tuple[str, ...]] = ("logit_scale",)
    """The model's scalars that the loss uses. Others are frozen: DDP would wait for their gradients in vain."""

    writes: ClassVar[bool] = False
    """Whether the loss uses the model's decoder of captions, if it has one. If not, that is frozen, too."""

    features_only: ClassVar[bool] = False
    """Whether a forward pass of the objective's own reads no more of an image than the tower's features, by
    :attr:`finish_image` where that is set."""

    contrastive: ClassVar[str | None] = None
    """The loss that is ln(batch) where the features tell nothing, if one is: the run says so if it stays there."""

    def __init__(self, model: nn.Module, *_: object) -> None:
        super().__init__()
        self.model: Any = model  # open_clip's models share methods, no type
        for name in {"logit_scale", "logit_bias"} - {*self.learnt}:
            if (scalar := getattr(model, name, None)) is not None:
                scalar.requires_grad_(False)
        if not self.writes and (decoder := getattr(model, "text_decoder", None)) is not None:
            decoder.requires_grad_(False)
        self.again = False
        """Whether the next forward repeats an earlier one for its gradients: outputs that have none may be left out."""
        self.position = 0
        """Samples seen before the first of the next forward's, counted over the global batch; set by the loop. Random
        draws are keyed by it and the seed, never by the rank."""
        self.taught: Mapping[str, Tensor] = {}
        """Set by the loop: those features of :attr:`teacher` for the next forward's samples that it has kept."""
        self.finish_image: Callable[[Tensor], Tensor] | None = None
        """Set by the loop where a locked image tower runs outside of :meth:`forward`, whose ``images`` are then the
        outputs of the tower's locked part: what gives the tower's features of them."""

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Everything :meth:`loss` needs of ``images`` (b, 3, h, w) and ``texts`` (b, context), by name.

        Features have the sample on dim 0, unit length and at least fp32, whatever the towers computed in: logits reach
        100, where bf16 is a quarter apart. Learnt scalars are 0-D: "scale", the factor of the logits, and "bias".
        """
        image = self.finish_image(images) if self.finish_image else encode_image(self.model, images)
        text = encode_text(self.model, texts)
        return {"image": l2_normalise(image), "text": l2_normalise(text), **self.scalars()}

    @property
    def teacher(self) -> Teacher | None:
        """The network that never learns whose features of a sample the loss uses, if there is one."""
        return None

    def scalars(self) -> dict[str, Tensor]:
        """Return the learnt scalars (logit scale and bias) by the names :meth:`forward` gives them."""
        scalars = {}
        if "logit_scale" in self.learnt:
            scalars["scale"] = self.model.logit_scale.reshape(()).exp()
        if "logit_bias" in self.learnt:
            scalars["bias"] = self.model.logit_bias.reshape(())
        return scalars

    def companions(self) -> Mapping[str, Companion]:
        """Modules trained with the model that are useful after training, by the folder below ``data/`` they go to."""
        return {}

    def use_tokenizer(self, tokenize: Tokenizer) -> None:
        """Called once before the first step, with what turns captions into the ``texts`` of :meth:`forward`.

        For objectives that must know which tokens a word has. Raises ConfigError if it cannot tell.
        """

    @abstractmethod
    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses by name, 0-D, of this rank's share of the batch; "loss" is minimised, the others are its parts."""

    def after_step(self, samples: int) -> None:
        """Called after each step of the optimizer, with ``samples`` seen in all."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def features(model: Any, images: Tensor, texts: Tensor) -> dict[str, Tensor]:  # noqa: ANN401
    """Both towers' features (b, d), of unit length."""
    return {"image": l2_normalise(encode_image(model, images)), "text": l2_normalise(encode_text(model, texts))}


def l2_normalise(features: Tensor) -> Tensor:
    """``features`` (b, d) at length 1 in at least fp32, also under autocast."""
    with torch.autocast(features.device.type, enabled=False):
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
