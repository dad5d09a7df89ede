"""The trained fusion encoder on its own: it ranks the candidates that a search by features has found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import open_clip
import torch
from torch import Tensor, nn

from infra.errors import ConfigError
from infra.fusion.config import FOLDER, fusion_folder
from infra.fusion.encoder import read_fusion
from infra.fusion.heads import FusionModel
from infra.fusion.network import Layout
from infra.fusion.towers import lengths_of
from infra.store import LocalStore
from training.model.blocks import use_fast_blocks

__all__ = ["Matcher"]


class Matcher(nn.Module):
    """open_clip's ``model`` and its fusion encoder. Raises ConfigError if that was trained without matching."""

    def __init__(self, model: nn.Module, fusion: FusionModel | None) -> None:
        if fusion is None or fusion.match_head is None:
            raise ConfigError("this model was trained without matching", expected="objective.itm_weight > 0", found="0")
        super().__init__()
        self.model: Any = model
        self.fusion = fusion

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model and the fusion encoder in ``folder`` or in its ``data``, on the CPU, in evaluation mode.

        Raises ConfigError if there is no fusion encoder, or if it was trained without matching.
        """
        fusion_at = fusion_folder(store := LocalStore(folder))
        if fusion_at is None:
            raise ConfigError(
                "there is no fusion encoder",
                expected=f"a folder {FOLDER} beside open_clip's files, as albef, vilt and vilbert write it",
                found=str(folder),
            )
        beside = (folder / fusion_at).parent
        model = use_fast_blocks(open_clip.create_model(f"local-dir:{beside}", require_pretrained=True))
        fusion, _ = read_fusion(model, store, fusion_at)
        return cls(model, fusion).eval()

    @torch.no_grad()
    def match(self, images: Tensor, texts: Tensor, image_of: Tensor | None = None) -> Tensor:
        """Logits (t,) that ``texts`` (t, context) belong to their images (i, 3, h, w), or regions (i, n, columns).

        ``image_of`` (t,) is the image of each text; without it each text has its own. Put the module into evaluation
        mode first.
        """
        texts, lengths = texts.cpu(), lengths_of(texts)
        image_tokens = self.fusion.read_images(self.model, images)
        words = self.fusion.read_texts(self.model, texts, lengths)
        layout = Layout(lengths, words.device)
        image_of = torch.arange(len(texts), device=words.device) if image_of is None else image_of
        fused = self.fusion.fuse(self.model, words, layout, image_tokens, image_of)
        return self.fusion.match(fused, layout.ends)
