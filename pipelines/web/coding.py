"""Content codings of HTTP (gzip, deflate, br), decoded under a cap, so that a small body cannot become a large one."""

from __future__ import annotations

import zlib
from typing import Protocol

__all__ = ["ACCEPTED", "CodingError", "Decoder", "OversizeError", "decoder"]

ACCEPTED = "gzip, deflate, br"


class CodingError(ValueError):
    """The body is not what its coding promises."""


class OversizeError(ValueError):
    """The decoded body is larger than there is room for; ``fitting`` is what does fit."""

    def __init__(self, fitting: bytes) -> None:
        super().__init__()
        self.fitting = fitting


class Decoder(Protocol):
    def feed(self, data: bytes, room: int) -> bytes:
        """What ``data`` decodes to. Raises OversizeError if that is more than ``room`` bytes, and CodingError."""

    @property
    def complete(self) -> bool:
        """Whether the body may end here."""


class _Identity:
    complete = True

    def feed(self, data: bytes, room: int) -> bytes:
        if len(data) > room:
            raise OversizeError(data[:room])
        return data


class _Zlib:
    """gzip (also of several members, also with garbage behind them, as browsers allow) and deflate."""

    def __init__(self, gzip: bool) -> None:
        self._gzip = gzip
        self._stream = zlib.decompressobj(wbits=31) if gzip else None
        self._garbage = False

    def feed(self, data: bytes, room: int) -> bytes:
        if self._stream is None:
            # "deflate" means a zlib stream, but some servers send it bare; the first byte tells.
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
        import brotli  # type: ignore[import-untyped]

        self._error: type[Exception] = brotli.error
        self._stream = brotli.Decompressor()

    def feed(self, data: bytes, room: int) -> bytes:
        pieces: list[bytes] = []
        while True:
            try:
                piece: bytes = self._stream.process(data, output_buffer_limit=room + 1)
            except self._error as error:
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
    """The decoder for a Content-Encoding. Raises CodingError for one we did not ask for."""
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
