"""Tokenisation of a training set's captions, once, before the first step.

CLIP's tokenizer takes some 100 us a caption, a good part of a sample's budget. Here a caption's tokens are stored
without padding, two bytes each, and a batch is assembled from them by one indexed copy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from open_clip import tokenizer as open_clip_tokenizer

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
"""Captions on which tokenizers differ: their tokens are part of a tokenizer's identity."""

MAX_WORDS = 1 << 20  # in the word cache; every tenth caption of the web holds some rare word


class TokenizerFunction(Protocol):
    """The type of open_clip's tokenizers: captions to padded tokens, (n, context)."""

    def __call__(self, texts: list[str], /) -> Any: ...  # noqa: ANN401 - a tensor or an array


class Tokenizer:
    """A fast wrapper of open_clip's tokenizer, or of any function from captions to ``(n, context)`` integers.

    Called with one caption it returns padded tokens (context,), int64. ``identity`` is a digest that changes when the
    tokens of some caption may. Raises ConfigError for a tokenizer that is not deterministic: open_clip's
    ``reduction_mask`` keeps a random part of long captions, but captions are tokenised only once.
    """

    def __init__(self, function: TokenizerFunction) -> None:
        probes = self._padded(function, PROBES)
        if not all(np.array_equal(probes, self._padded(function, PROBES)) for _ in range(3)):
            raise ConfigError(
                "the tokenizer gives different tokens for the same caption",
                expected="a deterministic tokenizer",
                found="a reduction_mask that draws at random",
                fix="set reduction_mask to 'syntax', or to none",
            )
        self.context, self.pad = probes.shape[1], int(probes[0, -1])
        self._function = function
        self._fast = _Bpe.of(function)
        small = self._fast is not None and self._fast.vocabulary <= 1 << 16  # CLIP has 49,408 tokens
        self.dtype = "<u2" if small else "<u4"
        kind = type(function)
        known = [kind.__module__, kind.__qualname__, version("open_clip_torch"), str(probes.shape)]
        known += getattr(function, "encoder", ())  # merges may differ in words that no probe has
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
        """Return the tokens of each caption without padding, at most ``context`` of them."""
        if self._fast is not None:
            return [self._fast.encode(text, self.context) for text in texts]
        if not texts:
            return []
        rows = self._padded(self._function, texts)
        unpadded = rows != self.pad
        lengths = np.where(unpadded.any(axis=1), rows.shape[1] - unpadded[:, ::-1].argmax(axis=1), 0)
        return [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]

    def word_ends(self) -> NDArray[np.bool_] | None:
        """Return a mask of the tokens that end a word, (vocabulary,); None for a tokenizer other than CLIP's."""
        if self._fast is None:
            return None
        decoder = self._function.decoder  # type: ignore[attr-defined]
        return np.array([decoder[token].endswith("</w>") for token in range(self._fast.vocabulary)])


class _Bpe:
    """open_clip's SimpleTokenizer in a sixth of its time, with the same tokens.

    Captions that need no cleaning are recognised by a regular expression, and words are cached with their tokens; all
    else is done by the tokenizer's own methods.
    """

    PLAIN = re.compile(r"[ -%'-~]*")  # printable ASCII without "&": ftfy and HTML unescaping leave it as it is

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - open_clip is untyped
        self._tokenizer = tokenizer
        self._words: dict[str, tuple[int, ...]] = {}
        self._special = {tokenizer.decoder[token] for token in tokenizer.all_special_ids}
        self.vocabulary: int = tokenizer.vocab_size

    @classmethod
    def of(cls, function: Any) -> _Bpe | None:  # noqa: ANN401
        """Wrap ``function``; None if it is another tokenizer, or cleans or shortens captions in another way."""
        if type(function).__module__ != "open_clip.tokenizer":
            return None
        simple = type(function) is open_clip_tokenizer.SimpleTokenizer
        plain = simple and function.clean_fn is open_clip_tokenizer._clean_lower and function.reduction_fn is None
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
            tokenizer.cache.pop(symbols, None)  # its own cache of words is unbounded
        if len(self._words) >= MAX_WORDS:
            self._words.clear()
        self._words[word] = tokens
        return tokens


def padded(
    flat: NDArray[np.unsignedinteger[Any]], begin: NDArray[np.int64], end: NDArray[np.int64], context: int, pad: int
) -> NDArray[np.int64]:
    """Return captions ``flat[begin:end]`` as rows (n, context), filled up with ``pad``, int64."""
    lengths = end - begin
    rows = np.full((len(begin), context), pad, np.int64)
    columns = np.arange(context)
    inside = columns < lengths[:, None]
    rows[inside] = flat[(begin[:, None] + columns)[inside]]
    return rows
