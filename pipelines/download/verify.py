"""Verification against a list's hashes: hash what was served and compare it with what the list says.

A tenth of the images behind a list some years old have changed: a shop sells something else, a parked domain serves its
banner. The list's hash shows it. A digest (md5, sha256, sha512) covers the exact bytes, which a server that merely
re-encodes its images changes, too; content can be compared only where the list has a perceptual hash, such as the
``phash`` column that an earlier run's dedup wrote.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from infra.config import Config
from infra.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MISMATCH", "Digest", "Hash", "Verify", "hash_of"]

MISMATCH = "hash mismatch"
"""img2dataset's message."""

Digest = Literal["md5", "sha256", "sha512"]
Hash = Literal["md5", "sha256", "sha512", "phash"]

_HEX = re.compile("[0-9a-f]{1,16}")


class Verify(Config):
    """The list's column of hashes, and what to do about an image that differs. img2dataset's ``verify_hash``."""

    column: str = Field(description="name of the list's column of hashes")
    hash: Hash = Field(
        "sha256", description="kind of hash in it; phash: 64 bits as hex, as imagehash.phash writes them"
    )
    mode: Literal["strict", "perceptual", "warn"] = Field(
        "strict",
        description="strict: the bytes must be equal; perceptual: the image may be re-encoded or resized; "
        "warn: either, but what differs is kept and marked in the column hash_mismatch",
    )
    max_distance: int = Field(6, ge=0, le=32, description="bits a perceptual hash may differ in, of 64")

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if (self.mode == "perceptual") != (self.hash == "phash") and self.mode != "warn":
            raise ValueError("perceptual compares a column of hash 'phash', strict one of md5, sha256 or sha512")
        return self

    def listed(self, rows: pa.Table) -> list[str | None]:
        """The list's hash of each row. Raises DataError if there is no such column.

        A list's column whose name the download itself uses is called ``{name}_listed``.
        """
        for name in (f"{self.column}_listed", self.column):
            if name in rows.column_names:
                return [None if value is None else str(value) for value in rows[name].to_pylist()]
        raise DataError(
            f"there is no column {self.column!r} of hashes to verify", expected=", ".join(rows.column_names)
        )

    def agrees(self, listed: str | None, found: str) -> bool:
        """True if an image of hash ``found`` is the one listed; False if the list has no hash for it."""
        listed = (listed or "").strip().lower()
        if self.hash != "phash":
            return listed == found
        if not _HEX.fullmatch(listed):
            return False
        return (int(listed, 16) ^ int(found, 16)).bit_count() <= self.max_distance

    def mismatches(self, rows: pa.Table, found: list[str | None]) -> list[bool]:
        """For each row, True if the image served, of hash ``found``, differs from the one listed; False if none was."""
        pairs = zip(self.listed(rows), found, strict=True)
        return [served is not None and not self.agrees(listed, served) for listed, served in pairs]


def hash_of(body: bytes, kind: Hash) -> str:
    """The hash of an image file, in hex: of its bytes, or a phash of its content (16 digits).

    A phash needs the image decoded, so its header must have been checked before. Raises DataError if it cannot be.
    """
    if kind != "phash":
        return hashlib.new(kind, body, usedforsecurity=False).hexdigest()
    from pipelines.images.phash import phash_of

    return f"{phash_of(body):016x}"
