"""Clean captions: Unicode normalisation, invisible characters, white space, mojibake."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import ftfy
from ftfy.badness import is_bad
from ftfy.chardata import CHARMAP_ENCODINGS

__all__ = ["captions", "clean", "has_words", "shorten"]

# Characters without a glyph. ZWJ and ZWNJ stay: Persian, Indic scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f"  # soft hyphen, marks, zero-width space
    "\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"  # bidi embeddings and isolates, joiners, byte order mark
    "\ufff9-\ufffc\ufffe\uffff\ue000-\uf8ff\ud800-\udfff]"  # annotations, objects, private use, surrogates
)
_LOST = re.compile("[\ufffc\ufffd]")  # printable, but they stand for an object, or bytes, that are no character
_FEW = 4  # a text of which a fourth was lost says nothing
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_C1 = re.compile("[\x80-\x9f]")
_ENTITY = re.compile(r"&[#\w]")
_WORD = re.compile(r"[^\W_]")
# Repairs encodings only; quotes, ligatures and wide characters are the author's.
FTFY = ftfy.TextFixerConfig(
    uncurl_quotes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    remove_terminal_escapes=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)


def captions(raw: Sequence[str | None], length: int) -> list[str]:
    """Clean each of ``raw`` and shorten it to ``length`` characters; empty if it has no letter or digit.

    All texts of a page together: most pages need no cleaning, which a single check of all of them tells.
    """
    together = "|".join([text for text in raw if text])
    if not together:
        return [""] * len(raw)
    if len(together) <= length and _is_tidy(together) and "| " not in together and " |" not in together:
        return [text if text and (text[0].isalnum() or has_words(text)) else "" for text in raw]
    return [shorten(text, length) if given and has_words(text := clean(given[: 4 * length])) else "" for given in raw]


def _is_tidy(text: str) -> bool:
    """Return True if ``text`` certainly needs no cleaning, nor any part of it between two "|"."""
    return (
        text.isprintable()  # which implies that all white space is plain spaces
        and "&" not in text
        and "  " not in text
        and text[:1] != " "
        and text[-1:] != " "
        and (
            text.isascii()
            or (not _LOST.search(text) and unicodedata.is_normalized("NFC", text) and not _pairs().search(text))
        )
    )


def clean(text: str) -> str:
    """Return ``text`` in NFC without invisible and control characters, white space collapsed, mojibake repaired.

    The HTML parser decodes entities; text that was escaped twice is unescaped here. Characters that could not be
    decoded (U+FFFD) are left out, or the whole text if they are many.
    """
    if _is_tidy(text):
        return text
    if "&" in text and _ENTITY.search(text):
        text = unicodedata.normalize("NFC", _repair(text))
    elif not text.isascii():
        if _is_suspect(text):
            text = _repair(text)
        text = unicodedata.normalize("NFC", text)
    if not text.isascii() and _LOST.search(text):
        text = _LOST.sub("", text) if _FEW * text.count("\ufffd") <= len(text) else ""
    if not text.isprintable():  # which control, format, private and unassigned characters are not
        text = _CONTROL.sub(" ", _INVISIBLE.sub("", text))
    return " ".join(text.split())


def _is_suspect(text: str) -> bool:
    """Return True if ftfy may find something to repair; most texts fail the first, cheap conditions."""
    if _C1.search(text):
        return True
    if not _pairs().search(text):
        return False
    return bool(is_bad(text))


@lru_cache(maxsize=1)
def _pairs() -> re.Pattern[str]:
    """Return a pattern that all mojibake matches: the first two bytes of a UTF-8 character in a charset ftfy tries.

    A space, question mark or replacement character may take the place of a second byte that was lost.
    """

    def characters(first: int, last: int, charsets: Sequence[str]) -> str:
        found = {c for charset in charsets for c in bytes(range(first, last + 1)).decode(charset, "ignore")}
        return "".join(re.escape(character) for character in sorted(found))

    leading, following = characters(0xC2, 0xF4, CHARMAP_ENCODINGS), characters(0x80, 0xBF, CHARMAP_ENCODINGS)
    alone = characters(0xC2, 0xDF, CHARMAP_ENCODINGS) + characters(0xE0, 0xF4, ["latin-1"])
    return re.compile(f"[{leading}][{following}]|[{alone}][ ?\x1a\ufffd]")


def _repair(text: str) -> str:
    return ftfy.fix_text(text, FTFY)


def has_words(text: str) -> bool:
    """Return True if there is a letter or digit in ``text``."""
    return text[:1].isalnum() or _WORD.search(text) is not None


def shorten(text: str, length: int) -> str:
    """Cut ``text`` to at most ``length`` characters, between words if there is a space in the last fifth."""
    if len(text) <= length:
        return text
    cut = text[:length]
    space = cut.rfind(" ", length - length // 5)
    return cut[:space] if space > 0 and text[length] != " " else cut.rstrip()
