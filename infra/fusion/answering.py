"""Answers to questions about one image or several: each is fused with the question, the states are read side by side.

NLVR2 asks about two images. Fusing each with the text and concatenating the two states is UNITER's and VisualBERT's
*pair* (Chen et al. 2020, https://arxiv.org/abs/1909.11740, section 4): the fusion encoder stays as it was trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from infra.fusion.heads import FusionModel
from infra.fusion.network import Layout

__all__ = ["answer"]


def answer(fusion: FusionModel, model: Any, words: Tensor, lengths: Tensor, seen: Tensor, image_of: Tensor) -> Tensor:  # noqa: ANN401
    """Return logits (t, answers) of the answers to texts about their images.

    ``words`` are the tokens of the texts, of ``lengths`` (t,) on the CPU; ``seen`` (i * fusion.images, n, d) those of
    the pictures, as :meth:`FusionModel.apart` orders them; ``image_of`` (t,) is the number of each text's image.
    """
    count = fusion.images
    layout = Layout(lengths.repeat(count), words.device)
    pictures = torch.cat([image_of * count + number for number in range(count)])
    fused = fusion.fuse(model, words.repeat(count, 1), layout, seen, pictures)
    return fusion.answers(fused, layout.ends)
