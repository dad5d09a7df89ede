"""CoCa as a writer of captions.

Yu et al. 2022, https://arxiv.org/abs/2205.01917. The text tower reads the tokens so far, and the decoder on top of it
looks at the image, too. Both are causal, so what a token has become in one step it stays.
"""

from __future__ import annotations

from typing import Any

import open_clip
import torch.nn.functional as F
from open_clip.transformer import TextTransformer
from torch import Tensor

from infra.captioning.decoder import Decoder, Memory, check_blocks, look, read, seen
from infra.errors import DataError

__all__ = ["CoCaDecoder", "check_coca"]


class CoCaDecoder(Decoder):
    """open_clip's CoCa ``model`` with images (b, 3, h, w) in sight; ``ends``: its tokens at start and end."""

    def __init__(self, model: Any, images: Tensor, ends: tuple[int, int], numbers: range) -> None:  # noqa: ANN401
        self.text, self.decoder = model.text, model.text_decoder
        (self.start, self.end), self.pad = ends, model.pad_id
        self.context = min(model.context_length, self.text.context_length)
        self.numbers, self.device = numbers, images.device
        _, tokens = model.visual(images)
        self._images = [seen(block, tokens) for block in self.decoder.cross_attn]

    def begin(self, beams: int) -> Memory:
        return Memory(self._images)

    def step(self, tokens: Tensor, memory: Memory) -> Tensor:
        blocks = self.text.transformer.resblocks
        place = memory.tokens[0][0].shape[2] if memory.tokens else 0
        x = (self.text.token_embedding(tokens) + self.text.positional_embedding[place])[:, None]
        x = x.to(self.text.transformer.get_cast_dtype())
        for layer, block in enumerate(blocks):
            x = read(block, layer, x, memory)
        if self.text.cls_emb is None:
            x = self.text.ln_final(x)
        for layer, (block, cross) in enumerate(zip(self.decoder.resblocks, self.decoder.cross_attn, strict=True)):
            x = read(block, len(blocks) + layer, x, memory)
            x = look(cross, layer, x, memory)
        x = self.decoder.ln_final(x)[:, 0]
        return x if self.decoder.text_projection is None else F.linear(x, self.decoder.text_projection.T)


def check_coca(model: Any, name: str) -> None:  # noqa: ANN401
    """Raise DataError unless ``model`` is a CoCa of open_clip's whose text tower is causal and open_clip's own."""
    if not isinstance(model, open_clip.CoCa) or not isinstance(model.text, TextTransformer):
        raise DataError(
            f"{name} writes no captions",
            expected="a CoCa model of open_clip's, or one trained with the objective clipcap",
            found=type(model).__name__,
        )
    decoder = model.text_decoder
    check_blocks([*model.text.transformer.resblocks, *decoder.resblocks, *decoder.cross_attn], name)
