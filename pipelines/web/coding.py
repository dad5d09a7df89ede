"""Decoders of HTTP content codings (gzip, deflate, br) with an output limit, against decompression bombs."""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli  # type: ignore[import-untyped]

__all__ = ["ACCEPTED", "CodingError", "Decoder", "OversizeError", "decoder"]

ACCEPTED = "gzip, deflate, br"


class CodingError(ValueError):
    """The body does not follow its coding."""


class OversizeError(ValueError):
    """The decoded body exceeds the limit; ``fitting`` is the part within it."""

    def __init__(self, fitting: bytes) -> None:
        super().__init__()
        self.fitting = fitting


class Decoder(Protocol):
    def feed(self, data: bytes, room: int) -> bytes:
        """Decode the next chunk. Raises OversizeError if that gives more than ``room`` bytes, and CodingError."""

    @property
    def complete(self) -> bool:
        """True if the body may end here."""


class _Identity:
    complete = True

    def feed(self, data: bytes, room: int) -> bytes:
        if len(data) > room:
            raise OversizeError(data[:room])
        return data


class _Zlib:
    """Decoder of deflate and gzip; of gzip also several members, and garbage after them, as browsers allow."""

    def __init__(self, gzip: bool) -> None:
        self._gzip = gzip
        self._stream = zlib.decompressobj(wbits=31) if gzip else None
        self._garbage = False

    def feed(self, data: bytes, room: int) -> bytes:
        if self._stream is None:
            # "deflate" means a zlib stream, but some servers send a raw one; the first byte tells them apart.
            self._stream = zlib.decompressobj(wbits=15 if data[0] & 0x0F == 8 else -15)
        pieces: list[bytes] = []
        while data and not self._garbage:
            try:
                piece = self._stream.decompress(data, room + 1)
            except zlib.error as error:
                raise CodingError(str(error)) from None
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise OversizeError(b"".join(pieces)[:room])
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data = self._stream.unused_data
                if self._gzip and data.startswith(b"\x1f\x8b"):
                    self._stream = zlib.decompressobj(wbits=31)
                else:
                    self._garbage = bool(data) or not self._gzip
                    break
        return b"".join(pieces)

    @property
    def complete(self) -> bool:
        return self._stream is None or self._stream.eof


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def feed(self, data: bytes, room: int) -> bytes:
        pieces: list[bytes] = []
        while True:
            try:
                piece: bytes = self._stream.process(data, output_buffer_limit=room + 1)
            except brotli.error as error:
                raise CodingError(str(error)) from None
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise OversizeError(b"".join(pieces)[:room])
            data = b""
            if self._stream.can_accept_more_data() or self._stream.is_finished():
                return b"".join(pieces)

    @property
    def complete(self) -> bool:
        return bool(self._stream.is_finished())


def decoder(coding: str) -> Decoder:
    """Return the decoder for a Content-Encoding. Raises CodingError for one that we do not accept."""
    match coding.strip().lower():
        case "" | "identity" | "none":
            return _Identity()
        case "gzip" | "x-gzip":
            return _Zlib(gzip=True)
        case "deflate":
            return _Zlib(gzip=False)
        case "br":
            return _Brotli()
    raise CodingError(f"content coding {coding[:40]!r} was not asked for")
