"""Images that a page describes in JSON-LD (schema.org): URL, text, licence.

Markup for search engines, and often the only place that states an image's licence. Much of it is malformed JSON and
some is huge: hence a second attempt after repairs, and limits.
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
_IMAGE_TEXT = ("caption", "description", "name", "alternateName", "headline", "text")
_SUBJECT_TEXT = ("name", "headline", "caption", "alternativeHeadline", "description")
_IMAGE_PROPERTIES = ("image", "primaryImageOfPage", "photo")


class Described(NamedTuple):
    """An image. ``url`` as written; ``text`` and ``license`` (a URL) may be empty."""

    url: str
    text: str
    license: str


def described(script: str) -> list[Described]:
    """Return the images of one ``<script type="application/ld+json">``, in order; none if it cannot be parsed."""
    if len(script) > _MAX_CHARACTERS or not ("mage" in script or "photo" in script):
        return []
    return list(_walk(_parse(script)))


def _parse(script: str) -> Any:  # noqa: ANN401 - JSON has no tighter type
    try:
        return decode(script)
    except (DecodeError, RecursionError):
        pass
    # Common template errors: HTML comments around it, line breaks inside of texts, a comma or semicolon too many.
    repaired = script.strip()
    for mark in _BEFORE:
        repaired = repaired.removeprefix(mark).lstrip()
    for mark in _BEHIND:
        repaired = repaired.removesuffix(mark).rstrip()
    repaired = _TRAILING.sub("", repaired)
    try:
        return json.loads(repaired, strict=False)
    except (ValueError, RecursionError):
        return None


def _walk(document: Any) -> Iterator[Described]:  # noqa: ANN401
    """Yield the images of a document, in order. Depth first, with an explicit stack of values to visit."""
    # Value, depth, subject (name of what an image shows), whether it is the value of an image property.
    stack: list[tuple[Any, int, str, bool]] = [(document, 0, "", False)]
    for _ in range(_MAX_OBJECTS):
        if not stack:
            return
        value, depth, subject, is_image_value = stack.pop()
        if isinstance(value, str):
            if is_image_value:
                yield Described(value.strip(), subject, "")
        elif depth > _MAX_DEPTH:
            continue
        elif isinstance(value, list):
            stack += [
                (item, depth + 1, subject, is_image_value) for item in reversed(value) if isinstance(item, _INNER)
            ]
        elif isinstance(value, dict):
            is_image = "ImageObject" in _texts(value.get("@type")) or (is_image_value and "contentUrl" in value)
            if is_image or (is_image_value and "url" in value):
                yield from _image(value, subject)
            about = subject if is_image else _first(value, _SUBJECT_TEXT)
            stack += [
                (item, depth + 1, about, key in _IMAGE_PROPERTIES)
                for key, item in reversed(value.items())
                if isinstance(item, (list, dict)) or (key in _IMAGE_PROPERTIES and isinstance(item, str))
            ]


_INNER = (list, dict, str)


def _image(value: dict[str, Any], subject: str) -> Iterator[Described]:
    url = _first(value, ("contentUrl", "url", "@id"))
    if url:
        yield Described(url, _first(value, _IMAGE_TEXT) or subject, _first(value, ("license", "acquireLicensePage")))


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> str:
    """Return the first text under one of ``keys``."""
    return next((text for key in keys for text in _texts(value.get(key)) if text), "")


def _texts(value: Any) -> list[str]:  # noqa: ANN401
    """Return a JSON-LD value as texts: a plain one, one with a language, a reference, or a list of these."""
    if isinstance(value, list):
        return [text for item in value[:10] if not isinstance(item, list) for text in _texts(item)]
    if isinstance(value, dict):
        value = next((value[key] for key in ("@value", "@id", "url") if isinstance(value.get(key), str)), None)
    return [value.strip()] if isinstance(value, str) else []
