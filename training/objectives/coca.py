"""CoCa's objective: contrast the two towers, and write the caption from the image.

Yu et al. 2022, https://arxiv.org/abs/2205.01917. Towers and decoder are open_clip's; one pass gives both losses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.collectives import all_reduce, size
from training.config import Config
from training.objectives import Objective, unit
from training.objectives.infonce import info_nce

__all__ = ["CoCa"]


class CoCa(Objective):
    """InfoNCE and captioning, weighed by ``config.coca_contrastive_weight`` and ``config.coca_caption_weight``.

    Raises ConfigError for a model that is not a CoCa.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        from open_clip import CoCa as Model

        if not isinstance(model, Model):
            raise ConfigError(
                "the objective coca needs a model that writes captions",
                expected="one of open_clip's CoCa models, or multimodal_cfg in the model's configuration",
                found=type(model).__name__,
                fix="set model to coca_ViT-B-32, for example",
            )
        super().__init__(model, config)
        self.weights = config.coca_contrastive_weight, config.coca_caption_weight

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        # With weights kept in bf16, pooler and decoder meet what norms have made fp32; autocast mends that.
        half = torch.is_autocast_enabled(images.device.type) or any(
            weight.dtype == torch.bfloat16 for weight in self.model.parameters()
        )
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            encoded = self.model(images, texts.to(images.device))
        labels = encoded["labels"].long()
        with torch.autocast(images.device.type, enabled=False):
            logits = encoded["logits"].to(torch.promote_types(encoded["logits"].dtype, torch.float32))
            surprise = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=self.model.pad_id, reduction="none")
        # Captions are of different lengths: how much a token weighs is known only when the whole batch is together.
        return {
            "image": unit(encoded["image_features"]),
            "text": unit(encoded["text_features"]),
            "surprise": surprise.sum(1),  # nats of each caption
            "tokens": (labels != self.model.pad_id).sum(1),
            **self.scalars(),
        }

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        contrastive = info_nce(outputs["image"], outputs["text"], outputs["scale"])
        caption = outputs["surprise"].sum() * size() / all_reduce(outputs["tokens"].sum())
        loss = self.weights[0] * contrastive + self.weights[1] * caption
        return {"loss": loss, "contrastive": contrastive, "caption": caption}
