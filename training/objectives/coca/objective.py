"""CoCa's objective: contrast the two towers, and write the caption from the image.

Yu et al. 2022, https://arxiv.org/abs/2205.01917. Towers and decoder are open_clip's; one pass gives both losses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.distributed.collectives import all_reduce, size
from training.model.blocks import run
from training.objectives.base import Objective, unit
from training.objectives.infonce.objective import info_nce
from training.objectives.towers import send

if TYPE_CHECKING:
    from training.objectives.coca.config import Config

__all__ = ["CoCa"]


class CoCa(Objective):
    """InfoNCE and captioning, weighed by ``config.contrastive_weight`` and ``config.caption_weight``.

    Raises ConfigError for a model that is not a CoCa.
    """

    writes = True

    def __init__(self, model: nn.Module, config: Config) -> None:
        from open_clip import CoCa as Model

        if not isinstance(model, Model):
            raise ConfigError(
                "the objective coca needs a model that writes captions",
                expected="one of open_clip's CoCa models, or multimodal_cfg in the model's configuration",
                found=type(model).__name__,
                fix="set model to coca_ViT-B-32, for example",
            )
        super().__init__(model)
        self.weights = config.contrastive_weight, config.caption_weight

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """With features and ``scale``: nats of each caption, ``surprise``, and its ``tokens``.

        Captions are of different lengths: how much a token weighs is known only when the whole batch is together.
        """
        texts, device = texts.cpu(), images.device
        # With weights kept in bf16, pooler and decoder meet what norms have made fp32; autocast mends that.
        half = torch.is_autocast_enabled(device.type) or any(
            weight.dtype == torch.bfloat16 for weight in self.model.parameters()
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            image, seen = self.model.visual(images)
            text, read = self.model.text(send(texts, device))
            surprise = self._surprise(texts[:, 1:], read, seen)
        tokens = send((texts[:, 1:] != self.model.pad_id).sum(1), device)
        return {"image": unit(image), "text": unit(text), "surprise": surprise, "tokens": tokens, **self.scalars()}

    def _surprise(self, labels: Tensor, read: Tensor, seen: Tensor) -> Tensor:
        """Nats (b,) of ``labels`` (b, n), on the CPU, after the text tower's tokens ``read`` and the image's ``seen``.

        The decoder looks back only, so it need not go beyond the longest caption; and a place in the vocabulary,
        which is more than all before it, has only what counts. Most of a row is padding.
        """
        real, decoder = labels != self.model.pad_id, self.model.text_decoder
        captions, places = real.nonzero(as_tuple=True)
        width = int(places.max()) + 1
        words, mask = read[:, :width], decoder.attn_mask[:width, :width]
        for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
            words = run(decoder, block, words, attn_mask=mask)
            words = run(decoder, cross, words, k_x=seen, v_x=seen)
        where = send(captions * width + places, words.device)
        logits = decoder.ln_final(words).flatten(0, 1)[where] @ decoder.text_projection
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            nats = F.cross_entropy(logits, send(labels[real], logits.device), reduction="none")
        # One place for each, so that the order in which they are added up is always the same.
        return nats.new_zeros(len(labels) * width).index_copy(0, where, nats).view(-1, width).sum(1)

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        contrastive = info_nce(outputs["image"], outputs["text"], outputs["scale"])
        caption = outputs["surprise"].sum() * size() / all_reduce(outputs["tokens"].sum())
        loss = self.weights[0] * contrastive + self.weights[1] * caption
        return {"loss": loss, "contrastive": contrastive, "caption": caption}
