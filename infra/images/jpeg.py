"""Markers of JPEG files, read as libjpeg reads them: stray bytes before a marker and lengths too short are skipped.

A decoder fills what is missing of a picture with grey and calls it a success, so whether all of it is there is found
out here: from the scans it needs, and from the first warning of a strict decoder. Only the first is told, so one about
the head would hide one about the pixels; :func:`cleaned` leaves nothing to warn of in the head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["MAX_PARTS", "Frame", "cleaned", "ended", "is_complete", "scans", "segments", "stray_bytes"]

MAX_PARTS = 1 << 18
"""Segments, chunks or blocks examined in a file, at most; the largest files accepted have half as many."""

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_OF_SCANS = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # those inside of a scan's data left out
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ARITHMETIC = {*range(0xC9, 0xD0)}
_END, _SCAN, _JFIF, _ADOBE = 0xD9, 0xDA, 0xE0, 0xEE
_NOT_OF_PIXELS = {*range(0xE1, 0xF0), 0xFE} - {_ADOBE}  # profiles, Exif, thumbnails, comments
_STRAY = re.compile(r"(\d+) extraneous bytes before marker")
_FEW = 64  # stray bytes behind a scan that are no sign of damage


class Frame(NamedTuple):
    """A parsed frame header. Width and height in pixels; ``components``: their ids."""

    marker: int
    width: int
    height: int
    components: bytes

    @property
    def is_progressive(self) -> bool:
        return self.marker in _PROGRESSIVE

    @property
    def is_arithmetic(self) -> bool:
        return self.marker in _ARITHMETIC


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the content of each segment up to the first scan's; the end may lie beyond the file."""
    at = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, at)
        if found is None or found[1][0] == _END:
            return
        marker, at = found[1][0], found.end()
        if marker in _STANDALONE:
            continue
        end = at + max(2, int.from_bytes(data[at : at + 2], "big"))
        yield marker, at + 2, end
        if marker == _SCAN:
            return
        at = end


def frame(marker: int, content: bytes) -> Frame | None:
    """The frame header in a segment; None if it is another one. Raises IndexError if it is cut off."""
    if marker not in _FRAMES:
        return None
    height, width = (int.from_bytes(content[at : at + 2], "big") for at in (1, 3))
    return Frame(marker, width, height, content[6 : 6 + 3 * content[5] : 3])


def scans(data: bytes) -> list[bytes]:
    """The header of each scan, without those of thumbnails in the head and of what follows the end."""
    at, found = 2, []
    for _ in range(MAX_PARTS):
        marker = _OF_SCANS.search(data, at)
        if marker is None or marker[1][0] == _END:
            break
        at = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
        if marker[1][0] == _SCAN:
            found.append(data[marker.end() + 2 : at])
    return found


def is_complete(frame: Frame, headers: Sequence[bytes]) -> bool:
    """True if the scans hold all bits of all coefficients of all components."""
    missing = {component: [True] * 64 for component in frame.components}
    for header in headers:
        count = header[0] if header else 0
        if len(header) < 4 + 2 * count:
            return False
        first, last, bits = header[1 + 2 * count : 4 + 2 * count]
        if not frame.is_progressive:
            first, last, bits = 0, 63, 0
        if not bits & 15:  # no lower bits are left for a later scan
            for component in header[1 : 1 + 2 * count : 2]:
                for coefficient in range(first, min(last, 63) + 1):
                    missing.get(component, [True] * 64)[coefficient] = False
    return not any(map(any, missing.values()))


def ended(data: bytes) -> bytes:
    """The file with an end mark, for one that lacks nothing else."""
    return data if data.endswith(b"\xff\xd9") else data + b"\xff\xd9"


def cleaned(data: bytes) -> bytes:
    """The file without stray bytes in its head, and without all that is not needed for its pixels."""
    parts = [data[:2]]
    for marker, start, end in segments(data):
        content = data[start:end]
        if marker in _NOT_OF_PIXELS or (marker == _JFIF and not content.startswith(b"JFIF\0")):
            continue
        if marker == _JFIF:
            content = b"JFIF\0\1\1" + content[7:]  # another version would be a warning
        parts.append(b"\xff%c" % marker + (len(content) + 2).to_bytes(2, "big") + content)
        if marker == _SCAN:
            parts.append(data[end:])
    return b"".join(parts)


def stray_bytes(warning: str, data: bytes) -> bool:
    """True if a warning of libjpeg's tells of a few bytes, or of mere padding, between pixels and the next marker."""
    told = _STRAY.search(warning)
    if told is None:
        return False
    count, end = int(told[1]), data.rfind(b"\xff\xd9")
    return count <= _FEW or len(set(data[max(0, end - count) : end])) <= 1
