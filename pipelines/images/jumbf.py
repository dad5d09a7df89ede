"""Assertions of C2PA manifests: boxes in boxes (JUMBF, ISO 19566-5), with CBOR or JSON in them.

A store holds manifests, the one in force and those of the images it was made from; all count, since what went into an
image is in it. Boxes are walked within bounds, and a damaged one ends the walk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["assertions"]

_MAX_BOXES, _MAX_DEPTH, _MAX_CONTENT = 2000, 32, 1 << 18
_HAS_LABEL = 2


def assertions(store: bytes) -> Iterator[tuple[str, Any]]:
    """Yield label and decoded content of each assertion in a manifest store."""
    stack = [(0, len(store), 0, "")]
    for _ in range(_MAX_BOXES):
        if not stack:
            return
        start, end, depth, label = stack.pop()
        if start + 8 > end:
            continue
        size, kind, head = int.from_bytes(store[start : start + 4], "big"), store[start + 4 : start + 8], 8
        if size == 1:
            size, head = int.from_bytes(store[start + 8 : start + 16], "big"), 16
        stop = end if size == 0 else min(end, start + size)
        if size and size < head:
            continue
        if kind == b"jumd":
            label = _label(store[start + head : stop])
        stack.append((stop, end, depth, label))  # the boxes behind it, which a description names
        if kind == b"jumb" and depth < _MAX_DEPTH:
            stack.append((start + head, stop, depth + 1, ""))
        elif kind in (b"cbor", b"json") and label and stop - start <= _MAX_CONTENT:
            yield label, _decoded(store[start + head : stop], kind)


def _label(description: bytes) -> str:
    """Return the label in a description box: a type of 16 bytes, flags, and a text that ends with a zero."""
    if len(description) < 18 or not description[16] & _HAS_LABEL:
        return ""
    return description[17:].partition(b"\0")[0].decode("utf-8", "replace")


def _decoded(content: bytes, kind: bytes) -> Any:  # noqa: ANN401 - CBOR and JSON have no tighter type
    import cbor2

    try:
        return json.loads(content) if kind == b"json" else cbor2.loads(content, max_depth=_MAX_DEPTH)
    except (cbor2.CBORDecodeError, ValueError, RecursionError):
        return None
