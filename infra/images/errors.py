"""The error of an image that cannot be used."""

from __future__ import annotations

from infra.schema import Drop

__all__ = ["ImageError"]


class ImageError(Exception):
    """The bytes are not a usable image: our reason, and img2dataset's message for it."""

    def __init__(self, reason: Drop, message: str = "Image decoding error") -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message
