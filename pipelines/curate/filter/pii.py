"""Find personal data in captions: addresses of mail and internet, numbers of phones, cards and accounts.

Candidates are found by expressions, then checked as their standards say: Luhn's digit of a card (ISO/IEC 7812), the
remainder of an IBAN (ISO 13616), a phone's number by phonenumbers, an internet address by ipaddress.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["is_free", "mask", "masked"]

Span = tuple[int, int]

# Almost all captions have none of this and are not looked at twice: an @, seven digits close by, two colons.
_POSSIBLE = r"@|(?:\d[^\d\pL]{0,3}){7}|[A-Z]{2}\d\d[ A-Z0-9]{11}|(?:\d{1,3}\.){3}\d|:[0-9A-Fa-f]{0,4}:"

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_ISSUERS = re.compile(  # of payment cards, with the lengths of their numbers
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0|6|8)\d{12}|35\d{14}|6(?:011|2|4|5)\d{12,17}"
)
_DIGITS = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])(?![.,]\d)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")


def is_free(texts: pa.ChunkedArray, kinds: Sequence[str], regions: Sequence[str]) -> NDArray[np.bool_]:
    """False for captions with data of one of the kinds, and for none."""
    free = np.asarray(texts.is_valid())
    for row in _possible(texts):
        free[row] = not any(True for _ in _found(texts[row].as_py(), kinds, regions))
    return free


def masked(texts: pa.ChunkedArray, kinds: Sequence[str], regions: Sequence[str]) -> pa.Array:
    """The captions with ``[email]``, ``[phone]`` and so on in place of what was found."""
    changed = texts.to_pylist()
    for row in _possible(texts):
        changed[row] = mask(changed[row], kinds, regions)
    return pa.array(changed, texts.type)


def mask(text: str, kinds: Sequence[str], regions: Sequence[str] = ()) -> str:
    """``text`` with the name of its kind in place of each piece of data."""
    for kind, (start, end) in sorted(_found(text, kinds, regions), key=lambda one: one[1], reverse=True):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return text


def _possible(texts: pa.ChunkedArray) -> list[int]:
    found = np.asarray(pc.fill_null(pc.match_substring_regex(texts, _POSSIBLE), False))
    return np.flatnonzero(found).tolist()


def _found(text: str, kinds: Collection[str], regions: Sequence[str]) -> Iterator[tuple[str, Span]]:
    """Kind and place of each piece of data; none overlaps an earlier one, so a card is no phone."""
    taken: list[Span] = []
    for kind, find in _FIND.items():
        if kind not in kinds:
            continue
        for start, end in find(text, regions):
            if all(end <= before or start >= after for before, after in taken):
                taken.append((start, end))
                yield kind, (start, end)


def _emails(text: str, _: Sequence[str]) -> Iterator[Span]:
    if "@" in text:
        yield from (match.span() for match in _EMAIL.finditer(text))


def _ibans(text: str, _: Sequence[str]) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        # Words in capitals may follow, so the number may end at any space, or at the end.
        ends = [place for place in range(match.start() + 15, match.end()) if text[place] == " "]
        for end in (match.end(), *reversed(ends)):
            number = text[match.start() : end].replace(" ", "")
            if 15 <= len(number) <= 34 and int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1:
                yield match.start(), end
                break


def _cards(text: str, _: Sequence[str]) -> Iterator[Span]:
    for match in _DIGITS.finditer(text):
        number = re.sub(r"[ -]", "", match[0])
        doubled = [int(c) if place % 2 == 0 else sum(divmod(2 * int(c), 10)) for place, c in enumerate(number[::-1])]
        if _ISSUERS.fullmatch(number) and len(set(number)) > 1 and sum(doubled) % 10 == 0:
            yield match.span()


def _addresses(text: str, _: Sequence[str]) -> Iterator[Span]:
    for match in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
        try:
            if ipaddress.ip_address(match[0]).is_global:
                yield match.span()
        except ValueError:
            continue


def _phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    for region in (None, *regions):
        if region is None and "+" not in text and "\uff0b" not in text:
            continue
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            yield match.start, match.end


_FIND: dict[str, Callable[[str, Sequence[str]], Iterator[Span]]] = {  # the surest first
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ip": _addresses,
    "phone": _phones,
}
