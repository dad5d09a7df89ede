"""Is this the picture the list meant? Hashes of what was served, and their comparison with those of the list.

A tenth of the pictures behind a list some years old have changed: a shop sells something else, a parked domain serves
its banner. The list's hash tells. A digest (md5, sha256, sha512) holds for the very bytes, which a server that merely
encodes its pictures anew also changes; what those show can be compared only where the list has a perceptual hash, such
as the ``phash`` an earlier run's dedup wrote. A digest cannot be compared in part, so nothing like that is offered.
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
    """What the list knows of its pictures, and what follows if one is another. img2dataset's ``verify_hash``."""

    column: str = Field(description="the list's column of hashes, by its name in the list")
    hash: Hash = Field("sha256", description="what is in it; phash: 64 bits as hex, as imagehash.phash writes them")
    mode: Literal["strict", "perceptual", "warn"] = Field(
        "strict",
        description="strict: the bytes must be the same; perceptual: the picture may be encoded or scaled anew; "
        "warn: either, and what differs is kept and marked in a column hash_mismatch",
    )
    max_distance: int = Field(6, ge=0, le=32, description="bits a perceptual hash may differ in, of 64")

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if (self.mode == "perceptual") != (self.hash == "phash") and self.mode != "warn":
            raise ValueError("perceptual compares a column of hash 'phash', strict one of md5, sha256 or sha512")
        return self

    def listed(self, rows: pa.Table) -> list[str | None]:
        """The list's hash of each row. Raises DataError if there is no such column.

        A list's column of a name that downloads use themselves goes by ``{name}_listed``.
        """
        for name in (f"{self.column}_listed", self.column):
            if name in rows.column_names:
                return [None if value is None else str(value) for value in rows[name].to_pylist()]
        raise DataError(
            f"there is no column {self.column!r} of hashes to verify", expected=", ".join(rows.column_names)
        )

    def agrees(self, listed: str | None, found: str) -> bool:
        """Whether a picture of hash ``found`` is the one listed. Without a hash in the list nothing is proven."""
        listed = (listed or "").strip().lower()
        if self.hash != "phash":
            return listed == found
        if not _HEX.fullmatch(listed):
            return False
        return (int(listed, 16) ^ int(found, 16)).bit_count() <= self.max_distance

    def mismatches(self, rows: pa.Table, found: list[str | None]) -> list[bool]:
        """For each row whether what was served, of hash ``found``, is not what was listed; False if nothing was."""
        pairs = zip(self.listed(rows), found, strict=True)
        return [served is not None and not self.agrees(listed, served) for listed, served in pairs]


def hash_of(body: bytes, kind: Hash) -> str:
    """The hash of an image file, in hex: of its bytes, or of what it shows (16 digits).

    For a phash the image is decoded, so its header must have been judged before. Raises DataError if it cannot be.
    """
    if kind != "phash":
        return hashlib.new(kind, body, usedforsecurity=False).hexdigest()
    from pipelines.curate.dedup.signatures import signature

    return f"{signature(body)[0]:016x}"
