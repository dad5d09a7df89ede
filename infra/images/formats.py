"""The image formats that are accepted: their names, file extensions and media types, in one place.

Whoever chooses among offers of an image (``srcset``, ``<picture>``), names a file or decodes one asks here. What a file
is, is told by its first bytes (:mod:`infra.images.header`), never by its name or Content-Type.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ACCEPTED", "EXTENSIONS", "MEDIA_TYPES", "OPEN_CLIP", "REFUSED", "Format", "extension_of"]


class Format(NamedTuple):
    """An image format. ``extensions`` without the dot and ``media_types``, both in lower case, the usual one first.

    ``isolated``: decoded in a process of its own (:mod:`infra.images.isolated`), since the decoder trusts the file.
    """

    name: str
    extensions: tuple[str, ...]
    media_types: tuple[str, ...]
    isolated: bool = False


ACCEPTED: tuple[Format, ...] = (
    Format("jpeg", ("jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp"), ("image/jpeg", "image/jpg", "image/pjpeg")),
    Format("png", ("png", "apng"), ("image/png", "image/apng", "image/x-png")),
    Format("webp", ("webp",), ("image/webp",)),
    Format("gif", ("gif",), ("image/gif",)),
    Format("bmp", ("bmp", "dib"), ("image/bmp", "image/x-ms-bmp", "image/x-bmp"), isolated=True),
    Format("avif", ("avif", "avifs"), ("image/avif", "image/avif-sequence"), isolated=True),
    Format("tiff", ("tif", "tiff"), ("image/tiff", "image/tiff-fx"), isolated=True),
    Format("ico", ("ico", "cur"), ("image/x-icon", "image/vnd.microsoft.icon"), isolated=True),
    Format(
        "jpeg2000",
        ("jp2", "j2k", "jpx", "jpf", "j2c", "jpc"),
        ("image/jp2", "image/jpx", "image/j2c", "image/jpeg2000"),
        isolated=True,
    ),
    Format("heif", ("heic", "heif", "hif"), ("image/heic", "image/heif"), isolated=True),
    Format(
        "ppm",
        ("ppm", "pgm", "pbm", "pnm"),
        ("image/x-portable-anymap", "image/x-portable-pixmap", "image/x-portable-graymap", "image/x-portable-bitmap"),
        isolated=True,
    ),
)
"""All formats that decode, the usual ones first."""

EXTENSIONS: dict[str, Format] = {extension: form for form in ACCEPTED for extension in form.extensions}
"""The format of a file extension (lower case, no dot)."""

MEDIA_TYPES: dict[str, Format] = {kind: form for form in ACCEPTED for kind in form.media_types}
"""The format of a media type (lower case, no parameters)."""

OPEN_CLIP = (b"\xff\xd8", b"\x89PNG", b"RIFF")
"""First bytes of JPEG, PNG and WebP, which training and evaluation decode as open_clip does: orientation and
alpha are ignored."""

REFUSED: dict[str, str] = {
    "svg": "a program that draws, with scripts, fonts and links to other files",
    "svgz": "a program that draws, with scripts, fonts and links to other files",
    "jxl": "its only kept decoder for Python is under the GPL",
    "psd": "layers of an editor, of which any may be the picture",
    "pdf": "pages, not a picture",
    "eps": "a program in PostScript",
    "wmf": "drawing commands of Windows",
    "emf": "drawing commands of Windows",
}
"""File extensions of images that are refused, and why."""


def extension_of(url: str) -> str:
    """The extension of the file a URL names, in lower case without the dot; empty if it has none."""
    _, _, path = url.partition("#")[0].partition("?")[0].rpartition("://")[2].partition("/")
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""
