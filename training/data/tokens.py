"""Captions to tokens, once: every caption of a training set is tokenised before the first step and never again.

CLIP's tokenizer takes some 100 us a caption, a good part of what a whole sample may cost. Here a caption's tokens are
kept without their padding, two bytes each, and a batch is put together from them by one indexed copy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from infra.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Tokenizer", "padded"]

PROBES = (
    "",
    "a photo of a cat",
    "  Tabs\tand\nlines, CAPITALS; 12,345.67 %  ",
    "&lt;b&gt;&amp;amp; l&#39;été à Besançon — «ﬁn» ½ Ⅷ",
    "it's we'll they've I'm d'accord <start_of_text> <end_of_text> </s> [SEP] <pad>",
    "犬と猫 собака и кошка κύων 🐕‍🦺 \u0301 \ufffd \u200b naïve",
    "supercalifragilisticexpialidocious antidisestablishmentarianism " * 20,
)
"""Captions in which tokenizers differ: a tokenizer is known by what it makes of them."""

MAX_WORDS = 1 << 20  # kept with their tokens; captions of the web hold some rare word in every tenth


class TokenizerFunction(Protocol):
    """What open_clip's tokenizers are: captions to padded tokens, (n, context)."""

    def __call__(self, texts: list[str], /) -> Any: ...  # noqa: ANN401 - a tensor or an array


class Tokenizer:
    """open_clip's tokenizer (or any function from captions to ``(n, context)`` integers) for many captions.

    Called with one caption it gives its padded tokens (context,), int64. ``identity`` changes when the tokens of some
    caption may. Raises ConfigError for a tokenizer that does not give the same tokens each time: open_clip's
    ``reduction_mask`` keeps a random part of long captions, which cannot be done once and for all.
    """

    def __init__(self, function: TokenizerFunction) -> None:
        probes = self._padded(function, PROBES)
        if not all(np.array_equal(probes, self._padded(function, PROBES)) for _ in range(3)):
            raise ConfigError(
                "this tokenizer gives other tokens each time",
                found="a reduction_mask that draws at random",
                fix="use none, or 'syntax'",
            )
        self.context, self.pad = probes.shape[1], int(probes[0, -1])
        self._function = function
        self._fast = _Bpe.of(function)
        small = self._fast is not None and self._fast.vocabulary <= 1 << 16  # CLIP has 49,408 tokens
        self.dtype = "<u2" if small else "<u4"
        kind = type(function)
        known = [kind.__module__, kind.__qualname__, version("open_clip_torch"), str(probes.shape)]
        self.identity = hashlib.sha256("\n".join(known).encode() + probes.tobytes()).hexdigest()

    @staticmethod
    def _padded(function: TokenizerFunction, texts: Sequence[str]) -> NDArray[np.int64]:
        return np.asarray(function(list(texts)), np.int64)

    def __call__(self, text: str) -> NDArray[np.int64]:
        row = np.full(self.context, self.pad, np.int64)
        tokens = self.ragged([text])[0]
        row[: len(tokens)] = tokens
        return row

    def ragged(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each caption up to its padding; at most ``context``."""
        if self._fast is not None:
            return [self._fast.encode(text, self.context) for text in texts]
        if not texts:
            return []
        rows = self._padded(self._function, texts)
        unpadded = rows != self.pad
        lengths = np.where(unpadded.any(axis=1), rows.shape[1] - unpadded[:, ::-1].argmax(axis=1), 0)
        return [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]


class _Bpe:
    """open_clip's SimpleTokenizer at a sixth of its time: what need not be cleaned is recognised, and words are
    looked up whole. Its own methods do the rest, so its tokens are these tokens."""

    PLAIN = re.compile(r"[ -%'-~]*")  # printable ASCII without "&": ftfy and HTML unescaping leave it as it is

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - open_clip is untyped
        self._tokenizer = tokenizer
        self._words: dict[str, tuple[int, ...]] = {}
        self._special = {tokenizer.decoder[token] for token in tokenizer.all_special_ids}
        self.vocabulary: int = tokenizer.vocab_size

    @classmethod
    def of(cls, function: Any) -> _Bpe | None:  # noqa: ANN401
        """None for another tokenizer, or one that cleans or shortens captions in another way."""
        if type(function).__module__ != "open_clip.tokenizer":
            return None
        from open_clip import tokenizer

        simple = type(function) is tokenizer.SimpleTokenizer
        plain = simple and function.clean_fn is tokenizer._clean_lower and function.reduction_fn is None
        return cls(function) if plain else None

    def encode(self, text: str, context: int) -> list[int]:
        tokenizer, words = self._tokenizer, self._words
        clean = " ".join(text.split()).lower() if self.PLAIN.fullmatch(text) else tokenizer.clean_fn(text)
        tokens = [tokenizer.sot_token_id]
        for word in tokenizer.pat.findall(clean):
            tokens += words.get(word) or self._word(word)
        tokens = tokens[: context - 1]
        tokens.append(tokenizer.eot_token_id)
        return tokens

    def _word(self, word: str) -> tuple[int, ...]:
        tokenizer = self._tokenizer
        symbols = "".join(tokenizer.byte_encoder[byte] for byte in word.encode())
        tokens = tuple(tokenizer.encoder[part] for part in tokenizer.bpe(symbols).split(" "))
        if symbols not in self._special:
            tokenizer.cache.pop(symbols, None)  # its own memory of words has no bounds
        if len(self._words) >= MAX_WORDS:
            self._words.clear()
        self._words[word] = tokens
        return tokens


def padded(
    flat: NDArray[np.unsignedinteger[Any]], begin: NDArray[np.int64], end: NDArray[np.int64], context: int, pad: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Captions ``flat[begin:end]`` as rows (n, context), and their lengths without padding (n,), both int64.

    CLIP's tokenizer ends a caption with its end-of-text token, so its length is that token's position plus one.
    """
    lengths = end - begin
    rows = np.full((len(begin), context), pad, np.int64)
    columns = np.arange(context)
    inside = columns < lengths[:, None]
    rows[inside] = flat[(begin[:, None] + columns)[inside]]
    return rows, lengths
