"""Captions from an image's feature alone: it becomes the first tokens of a language model.

Mokady et al. 2021 (ClipCap), https://arxiv.org/abs/2111.09734: a mapping network turns the feature of a frozen CLIP
into a prefix of the text. As in the paper's variant that trains the language model, the mapping is an MLP of one hidden
layer; the model is a causal transformer of open_clip's, whose output is tied to its embedding as GPT-2's is.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from infra.captioning.decoder import Decoder, Memory, read

__all__ = ["FOLDER", "PrefixCaptioner", "PrefixDecoder"]

FOLDER = "captioner"
"""Folder of the captioner beside open_clip's files: ``config.json`` and ``model.safetensors``."""


class PrefixCaptioner(nn.Module):
    """The mapping from features (b, features) to a ``prefix`` of tokens, and the language model behind it."""

    def __init__(
        self, *, features: int, vocabulary: int, context: int, prefix: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.prefix, self.context = prefix, context
        half = prefix * width // 2
        self.mapping = nn.Sequential(nn.Linear(features, half), nn.Tanh(), nn.Linear(half, prefix * width))
        self.text = TextTransformer(
            context_length=prefix + context,
            vocab_size=vocabulary,
            width=width,
            heads=heads,
            layers=layers,
            proj_type="none",
        )

    def begin(self, features: Tensor) -> Tensor:
        """The tokens (b, prefix, width) that stand for images."""
        tokens: Tensor = self.mapping(features).unflatten(-1, (self.prefix, -1))
        placed: Tensor = tokens + self.text.positional_embedding[: self.prefix]
        return placed

    def embed(self, tokens: Tensor, place: int) -> Tensor:
        """Tokens (b, t) as the first block reads them, ``place`` of the text's being before them: (b, t, width)."""
        start = self.prefix + place
        places = self.text.positional_embedding[start : start + tokens.shape[1]]
        embedded: Tensor = self.text.token_embedding(tokens) + places
        return embedded

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """Read ``texts`` (b, t) behind the images' ``features`` (b, features): (b, t, width) after the last norm."""
        x = torch.cat([self.begin(features), self.embed(texts, 0)], dim=1)
        length = x.shape[1]
        x = self.text.transformer(x, attn_mask=self.text.attn_mask[:length, :length])
        read: Tensor = self.text.ln_final(x[:, self.prefix :])
        return read

    def words(self, x: Tensor) -> Tensor:
        """Logits (..., vocabulary) of the token that follows each of ``x`` (..., width)."""
        return nn.functional.linear(x, self.text.token_embedding.weight)


class PrefixDecoder(Decoder):
    """``captioner`` behind the features that open_clip's ``model`` has of images (b, 3, h, w)."""

    pad = 0

    def __init__(
        self,
        captioner: PrefixCaptioner,
        model: Any,  # noqa: ANN401 - open_clip is untyped
        images: Tensor,
        ends: tuple[int, int],
        numbers: range,
    ) -> None:
        self.captioner = captioner
        (self.start, self.end), self.context, self.numbers = ends, captioner.context, numbers
        self.device = images.device
        self._features = nn.functional.normalize(model.encode_image(images).float(), dim=-1)

    def begin(self, beams: int) -> Memory:
        memory = Memory()
        x = self.captioner.begin(self._features)
        for layer, block in enumerate(self.captioner.text.transformer.resblocks):
            x = read(block, layer, x, memory)
        memory.choose(torch.arange(len(x), device=self.device).repeat_interleave(beams))
        return memory

    def step(self, tokens: Tensor, memory: Memory) -> Tensor:
        place = memory.tokens[0][0].shape[2] - self.captioner.prefix
        x = self.captioner.embed(tokens[:, None], place)
        for layer, block in enumerate(self.captioner.text.transformer.resblocks):
            x = read(block, layer, x, memory)
        return self.captioner.words(self.captioner.text.ln_final(x[:, 0]))
