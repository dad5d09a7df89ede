"""CoCa's objective: contrastive loss between the two towers, and captioning of the image.

Yu et al. 2022, https://arxiv.org/abs/2205.01917. Towers and decoder are open_clip's; one forward pass serves both
losses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import open_clip
from torch import Tensor, nn

from infra.device import to_device
from infra.errors import ConfigError
from training.distributed.collectives import all_reduce, size
from training.model.blocks import run_block
from training.objectives.base import Objective, l2_normalise
from training.objectives.captions import caption_nll
from training.objectives.infonce.objective import info_nce

if TYPE_CHECKING:
    from training.objectives.coca.config import Config

__all__ = ["CoCa"]


class CoCa(Objective):
    """The objective: InfoNCE and captioning, with weights ``contrastive_weight`` and ``caption_weight``.

    Raises ConfigError for a model that is not open_clip's CoCa.
    """

    writes = True
    contrastive = "contrastive"

    def __init__(self, model: nn.Module, config: Config, *_: object) -> None:
        if not isinstance(model, open_clip.CoCa):
            raise ConfigError(
                "the objective coca needs a model that writes captions",
                expected="one of open_clip's CoCa models, or multimodal_cfg in the model's configuration",
                found=type(model).__name__,
                fix="set model to coca_ViT-B-32, for example",
            )
        super().__init__(model)
        self.weights = config.contrastive_weight, config.caption_weight

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Return features, ``scale``, and each caption's ``caption_nll`` (nats, summed) and number of ``tokens``.

        Sums and counts, not means: captions differ in length, and the mean is over the tokens of the whole batch.
        """
        texts, device = texts.cpu(), images.device
        image, image_tokens = self.model.visual(images)
        text, text_tokens = self.model.text(to_device(texts, device))
        caption_nll = self._caption_nll(texts[:, 1:], text_tokens, image_tokens)
        tokens = to_device((texts[:, 1:] != self.model.pad_id).sum(1), device)
        return {
            "image": l2_normalise(image),
            "text": l2_normalise(text),
            "caption_nll": caption_nll,
            "tokens": tokens,
            **self.scalars(),
        }

    def _caption_nll(self, labels: Tensor, text_tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """Return the negative log-likelihood (b,), in nats, of the tokens ``labels`` (b, n) on the CPU.

        ``text_tokens`` and ``image_tokens`` are the towers' outputs. The causal decoder stops at the batch's longest
        caption.
        """
        # Run the decoder over the longest caption's width, with each block's cross-attention to the image.
        real, decoder = labels != self.model.pad_id, self.model.text_decoder
        width = int(real.nonzero()[:, 1].max()) + 1
        words, mask = text_tokens[:, :width], decoder.attn_mask[:width, :width]
        for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
            words = run_block(decoder, block, words, attn_mask=mask)
            words = run_block(decoder, cross, words, k_x=image_tokens, v_x=image_tokens)
        words = decoder.ln_final(words)
        return caption_nll(words, labels, real, lambda some: some @ decoder.text_projection)

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        contrastive = info_nce(outputs["image"], outputs["text"], outputs["scale"])
        caption = outputs["caption_nll"].sum() * size() / all_reduce(outputs["tokens"].sum())
        loss = self.weights[0] * contrastive + self.weights[1] * caption
        return {"loss": loss, "contrastive": contrastive, "caption": caption}
