"""Decoders of HTTP content codings (gzip, deflate, br) with an output limit, against decompression bombs."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod

import brotli  # type: ignore[import-untyped]

__all__ = ["ACCEPTED", "CodingError", "Decoder", "OversizeError", "decoder"]

ACCEPTED = "gzip, deflate, br"
_GZIP = b"\x1f\x8b"  # what each member begins with


class CodingError(ValueError):
    """The body does not follow its coding."""


class OversizeError(ValueError):
    """The decoded body exceeds the limit; ``fitting`` is the part within it."""

    def __init__(self, fitting: bytes) -> None:
        super().__init__()
        self.fitting = fitting


class Decoder(ABC):
    """A decoder of one body, fed piece by piece."""

    @abstractmethod
    def some(self, data: bytes, most: int) -> bytes:
        """Decode the next chunk, about ``most`` bytes (at least 1) of output; what is left comes with the next call.

        Raises CodingError.
        """

    @property
    @abstractmethod
    def pending(self) -> bool:
        """True if there may be more output without further input."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """True if the body may end here."""

    def feed(self, data: bytes, room: int) -> bytes:
        """Decode the next chunk, all of it. Raises OversizeError if that gives more than ``room`` bytes, and
        CodingError."""
        pieces = [self.some(data, room + 1)]
        left = room - len(pieces[0])
        while left >= 0 and self.pending:
            pieces.append(self.some(b"", left + 1))
            left -= len(pieces[-1])
        decoded = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if left < 0:
            raise OversizeError(decoded[:room])
        return decoded


class _Identity(Decoder):
    complete = True

    def __init__(self) -> None:
        self._rest = b""

    def some(self, data: bytes, most: int) -> bytes:
        data = self._rest + data if self._rest else data
        self._rest = data[most:]
        return data[:most] if self._rest else data

    @property
    def pending(self) -> bool:
        return bool(self._rest)


class _Zlib(Decoder):
    """Decoder of deflate and gzip; of gzip also several members, and garbage after them, as browsers allow."""

    def __init__(self, gzip: bool) -> None:
        self._gzip = gzip
        self._stream = zlib.decompressobj(wbits=31) if gzip else None
        self._rest = b""  # input not decoded yet
        self._full = False  # the last output was as long as it might be, so there may be more of it

    def some(self, data: bytes, most: int) -> bytes:
        data = self._rest + data if self._rest else data
        if self._stream is None:
            # "deflate" means a zlib stream, but some servers send a raw one; the first byte tells them apart.
            self._stream = zlib.decompressobj(wbits=15 if data[0] & 0x0F == 8 else -15)
        pieces: list[bytes] = []
        while most > 0 and (data or self._full):
            if self._stream.eof:
                if not self._gzip or not _GZIP.startswith(data[:2]):
                    data = b""  # garbage
                if len(data) < 2:  # none, or half of the mark that another member begins with
                    break
                self._stream = zlib.decompressobj(wbits=31)
            try:
                piece = self._stream.decompress(data, most)
            except zlib.error as error:
                raise CodingError(str(error)) from None
            pieces.append(piece)
            most -= len(piece)
            self._full = most == 0 and not self._stream.eof
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        self._rest = data
        return b"".join(pieces)

    @property
    def pending(self) -> bool:
        return self._full or len(self._rest) > 1

    @property
    def complete(self) -> bool:
        return self._stream is None or self._stream.eof


class _Brotli(Decoder):
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self._full = False  # the last output was as long as it might be: there may be more of it, or the end

    def some(self, data: bytes, most: int) -> bytes:
        try:
            piece: bytes = self._stream.process(data, output_buffer_limit=most)
        except brotli.error as error:
            raise CodingError(str(error)) from None
        self._full = len(piece) >= most  # it goes by blocks of its own
        return piece

    @property
    def pending(self) -> bool:
        return not self._stream.is_finished() and (self._full or not self._stream.can_accept_more_data())

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
