"""Read captions of scenes by the grammar that they are made by.

A caption is read if it is one of the wordings from its first word to its last. Anything else says nothing: a "red" or
"left" somewhere in it could belong to another word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain

from workflows.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, WORDINGS, WORDS

__all__ = ["read"]

_NAMES = {
    "a": "size", "t": "texture", "n": "texture", "c": "colour", "s": "shape", "p": "position", "b": "background",
}  # fmt: skip
_SAID: Mapping[str, Mapping[str, str]] = {
    **{place: {word: value for value, words in own.items() for word in words} for place, own in WORDS.items()},
    "c": {colour: colour for colour in COLOURS},
    "s": {shape: shape for shape in SHAPES},
    "b": {background: background for background in BACKGROUNDS},
}


def read(caption: str) -> dict[str, str] | None:
    """Return the values that a caption says by the names of a scene's attributes; None if it is no wording of ours.

    Case, blanks and blanks around marks do not matter, as a tokenizer does not keep them.
    """
    text = _without_blanks(" ".join(caption.lower().split()))
    for pattern in _PATTERNS:
        if found := pattern.fullmatch(text):
            return {_NAMES[place]: _SAID[place][word] for place, word in found.groupdict().items()}
    return None


def _without_blanks(text: str) -> str:
    return re.sub(r"\s*([.,-])\s*", r"\1", text)


def _pattern(wording: str) -> re.Pattern[str]:
    """The wording, with a group for each of its places."""
    parts = re.split(r"\{(\w)\}", _without_blanks(wording.lower()))
    written = chain.from_iterable(
        (re.escape(text), f"(?P<{place}>{'|'.join(map(re.escape, _SAID[place]))})")
        for text, place in zip(parts[::2], [*parts[1::2], ""], strict=True)
        if place
    )
    return re.compile("".join(written) + re.escape(parts[-1]))


_PATTERNS = [_pattern(wording) for wording in WORDINGS]
