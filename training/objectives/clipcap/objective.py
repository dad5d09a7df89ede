"""ClipCap: the likelihood of an image's caption behind the prefix that a frozen CLIP's feature becomes.

Mokady et al. 2021, https://arxiv.org/abs/2111.09734, equation 2; :mod:`infra.captioning.prefix` has the modules. The
paper starts from GPT-2's weights; here the language model starts from random ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from infra.captioning.prefix import FOLDER, PrefixCaptioner
from infra.device import to_device
from infra.errors import ConfigError
from infra.fusion.towers import lengths_of, shared_width
from training.distributed.collectives import global_mean
from training.model.blocks import encode_image, use_fast_blocks
from training.objectives.base import Companion, Objective, l2_normalise
from training.objectives.captions import caption_nll

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.data.tokens import Tokenizer
    from training.objectives.clipcap.config import Config

__all__ = ["ClipCap"]


class ClipCap(Objective):
    """The objective around open_clip's ``model``, which learns nothing."""

    learnt = ()
    features_only: ClassVar[bool] = True

    def __init__(self, model: nn.Module, config: Config, run: Run, *_: object) -> None:
        super().__init__(model)
        model.requires_grad_(False)
        self.described = {
            "features": shared_width(model),
            "vocabulary": int(self.model.vocab_size),
            "context": int(self.model.context_length),
            **{name: getattr(config, name) for name in ("prefix", "width", "layers", "heads")},
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.captioner = PrefixCaptioner(**self.described)
        use_fast_blocks(self.captioner)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.model.eval()  # nothing of it is dropped, and its batch norms gather nothing
        return self

    def use_tokenizer(self, tokenize: Tokenizer) -> None:
        start, end, *rest = tokenize("").tolist()
        if any(rest) or end <= start or end != self.described["vocabulary"] - 1:
            raise ConfigError(
                "the objective clipcap cannot tell where captions end with this tokenizer",
                expected="CLIP's tokenizer, whose highest token ends a text",
                found=f"the empty caption is {[start, end, *rest][:5]}",
            )

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Return each caption's ``caption_nll`` (nats, summed) and number of ``tokens``, (b,) each."""
        with torch.no_grad():
            image = self.finish_image(images) if self.finish_image else encode_image(self.model, images)
            features = l2_normalise(image)
        texts = texts.cpu()
        lengths = lengths_of(texts)
        width = int(lengths.max()) - 1  # each token but the last is followed by one
        real = torch.arange(width) < lengths[:, None] - 1
        words = self.captioner(features, to_device(texts[:, :width], features.device))
        nats = caption_nll(words, texts[:, 1 : width + 1], real, self.captioner.words)
        return {"caption_nll": nats, "tokens": to_device(lengths - 1, nats.device).to(nats.dtype)}

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean over all tokens of all ranks."""
        return {"loss": global_mean(outputs["caption_nll"], outputs["tokens"])}

    def after_step(self, samples: int) -> None:
        """Leave the model's temperature as it is."""

    def companions(self) -> dict[str, Companion]:
        return {FOLDER: Companion(self.captioner, self.described)}
