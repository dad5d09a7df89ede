"""Pictures a page describes in JSON-LD (schema.org): image, what it shows, under which licence.

Markup for search engines, and often the only place where a picture's licence stands. Much of it is broken JSON, some of
it endless; both are met here with a second try and with limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import DecodeError
from msgspec.json import decode

__all__ = ["Described", "described"]

_MAX_CHARACTERS = 1 << 20
_MAX_DEPTH = 32
_MAX_OBJECTS = 10_000
_BEFORE = ("//", "/*", "<!--", "<![CDATA[", "*/")
_BEHIND = ("*/", "-->", "]]>", "//", "/*", ";")
_TRAILING = re.compile(r",(?=\s*[}\]])")
_OF_IMAGE = ("caption", "description", "name", "alternateName", "headline", "text")
_OF_SUBJECT = ("name", "headline", "caption", "alternativeHeadline", "description")
_SHOWN_BY = ("image", "primaryImageOfPage", "photo")


class Described(NamedTuple):
    """``url`` as written; ``text`` and ``license`` (an address) may be empty."""

    url: str
    text: str
    license: str


def described(script: str) -> list[Described]:
    """The pictures of one ``<script type="application/ld+json">``, in its order; none if it cannot be read."""
    if len(script) > _MAX_CHARACTERS or not ("mage" in script or "photo" in script):
        return []
    return list(_walk(_parse(script)))


def _parse(script: str) -> Any:  # noqa: ANN401 - JSON has no tighter type
    try:
        return decode(script)
    except (DecodeError, RecursionError):
        pass
    # What templates do to JSON: HTML comments around it, line breaks inside of texts, a comma or semicolon too many.
    mended = script.strip()
    for mark in _BEFORE:
        mended = mended.removeprefix(mark).lstrip()
    for mark in _BEHIND:
        mended = mended.removesuffix(mark).rstrip()
    mended = _TRAILING.sub("", mended)
    try:
        return json.loads(mended, strict=False)
    except (ValueError, RecursionError):
        return None


def _walk(document: Any) -> Iterator[Described]:  # noqa: ANN401
    """Every picture of a document, in order; ``waiting`` holds values with their depth and what they are about."""
    waiting: list[tuple[Any, int, str, bool]] = [(document, 0, "", False)]
    for _ in range(_MAX_OBJECTS):
        if not waiting:
            return
        value, depth, subject, shown = waiting.pop()
        if isinstance(value, str):
            if shown:
                yield Described(value.strip(), subject, "")
        elif depth > _MAX_DEPTH:
            continue
        elif isinstance(value, list):
            waiting += [(item, depth + 1, subject, shown) for item in reversed(value) if isinstance(item, _INNER)]
        elif isinstance(value, dict):
            is_image = "ImageObject" in _texts(value.get("@type")) or (shown and "contentUrl" in value)
            if is_image or (shown and "url" in value):
                yield from _image(value, subject)
            about = subject if is_image else _first(value, _OF_SUBJECT)
            waiting += [
                (item, depth + 1, about, key in _SHOWN_BY)
                for key, item in reversed(value.items())
                if isinstance(item, (list, dict)) or (key in _SHOWN_BY and isinstance(item, str))
            ]


_INNER = (list, dict, str)


def _image(value: dict[str, Any], subject: str) -> Iterator[Described]:
    address = _first(value, ("contentUrl", "url", "@id"))
    if address:
        yield Described(address, _first(value, _OF_IMAGE) or subject, _first(value, ("license", "acquireLicensePage")))


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> str:
    """The first text found below one of ``keys``."""
    return next((text for key in keys for text in _texts(value.get(key)) if text), "")


def _texts(value: Any) -> list[str]:  # noqa: ANN401
    """A JSON-LD value as texts: a plain one, one with a language, a reference, or a list of such."""
    if isinstance(value, list):
        return [text for item in value[:10] if not isinstance(item, list) for text in _texts(item)]
    if isinstance(value, dict):
        value = next((value[key] for key in ("@value", "@id", "url") if isinstance(value.get(key), str)), None)
    return [value.strip()] if isinstance(value, str) else []
