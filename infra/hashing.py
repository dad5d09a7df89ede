"""One non-cryptographic choice of hash for what is drawn, ordered or partitioned by a name."""

from __future__ import annotations

import hashlib

__all__ = ["hash64"]


def hash64(text: str) -> int:
    """Return the BLAKE2b hash with a digest of 64 bits of ``text``'s UTF-8, big-endian: uniform in [0, 2**64)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
