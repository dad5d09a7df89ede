"""Clean captions: Unicode normalisation, invisible characters, white space, mojibake."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
from ftfy.badness import is_bad
from ftfy.chardata import CHARMAP_ENCODINGS

from pipelines.html.arrays import matches, patched

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
# Letters and signs that have one form in NFC, of which no two combine, as RE2 has them; and what a clean text is.
_LETTERS = (
    "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0391-\u03a1\u03a3-\u03ce\u0400-\u0481\u048a-\u052f"
    "\u05d0-\u05ea\u0620-\u064a\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
)
_SIGNS = (
    "!-%'-/:-@\\[-`{-~\u00a1-\u00ac\u00ae-\u00bf\u2010-\u2027\u2030-\u205e\u20a0-\u20bf\u2122"
    "\u3001-\u3029\u3030-\u303d\uff01-\uff9d"
)
_PLAIN = f"{_LETTERS}{_SIGNS}"
_CLEAN = f"^[{_PLAIN}]+(?: [{_PLAIN}]+)*$"

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


def captions(raw: pa.StringArray, length: int) -> pa.StringArray:
    """Clean texts and shorten them to ``length`` characters; null for those without a letter or digit.

    Expressions tell those that are clean as they are, as most are.
    """
    is_clean = pc.and_(matches(raw, _CLEAN), matches(raw, f"[{_LETTERS}]"))
    is_clean = pc.and_(is_clean, pc.less_equal(pc.utf8_length(raw), length))
    is_clean = pc.and_not(is_clean, matches(raw, _pairs().pattern))

    def cleaned(text: str) -> str | None:
        text = clean(text[: 4 * length])
        return shorten(text, length) if has_words(text) else None

    return patched(raw, pc.invert(is_clean), cleaned)


def _is_tidy(text: str) -> bool:
    """Return True if ``text`` certainly needs no cleaning."""
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
