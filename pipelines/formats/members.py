"""The decompressed content of an archive file, in runs between its damaged places.

An archive is compressed record by record (gzip members, zstd or lz4 frames), as one stream, or not at all, and files of
different kinds may have been joined. Damage ends a run; the next begins at the next place that looks like a record.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol, cast

from fastwarc.stream_io import GzipReader, Lz4Reader, ZstdReader

__all__ = ["RECORD", "Run", "begins_record", "is_empty", "next_start"]

_CHUNK = 1 << 16
_SEARCH = 1 << 20  # bytes searched at a time
_GZIP, _ZSTD, _LZ4 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"  # the skippable frame that *.warc.zst may begin with

RECORD = (
    rb"(?:WARC/[01]\.\d|"
    # The header of a record in an ARC file is one line: address, IP, date, type, [four more,] length.
    rb"(?i:[a-z][a-z0-9+.-]{1,20}):[^\s][^\r\n]{0,8000}? [0-9a-fA-F.:]{3,40} \d{12,17} [^\r\n]{0,300}?\d\r?\n)"
)
"""What every record begins with, as a regular expression of bytes."""

_BEGINS = re.compile(RECORD)
_START = re.compile(rb"\x1f\x8b\x08|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|(?<=\n)" + RECORD)
_LINE = 10_000  # bytes that the start of a record may need


class _Decompressor(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...
    def frame_start_position(self) -> int | None: ...


class Run:
    """Content of ``file`` from byte ``start`` on; iterate once.

    Afterwards ``damaged`` tells whether it ended in damage, and ``resume`` where to look for the next run; None at the
    end of the file.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self.start = file, start
        file.seek(start)
        self._magic = file.read(4)
        self.damaged, self.resume = False, cast("int | None", None)

    @property
    def is_plain(self) -> bool:
        return not self._magic.startswith((_GZIP, _ZSTD, _LZ4, _ZSTD_DICTIONARY))

    def __iter__(self) -> Iterator[bytes]:
        window = _Window(self._file, self.start)
        if self.is_plain:
            return iter(lambda: window.read(_CHUNK), b"")
        return self._decompressed(window)

    def _decompressed(self, window: _Window) -> Iterator[bytes]:
        reader, sent = self._open(window), 0
        try:
            while chunk := reader.read(_CHUNK):
                sent += len(chunk)
                yield chunk
        except OSError as error:
            if error.errno is not None:
                raise  # the disk's fault
            # The failed read took whole members before the damaged one with it.
            stop = self.start + (reader.frame_start_position() or 0)
            yield from self._again(stop, sent)
            if not _is_padding(self._file, stop):
                self.damaged, self.resume = True, stop + 1
            return
        last = self.start + (reader.frame_start_position() or 0)
        if self._magic.startswith(_GZIP) and not _ends_well(self._file, last):
            self.damaged, self.resume = True, last + 1  # cut, or a header that claims to go on to the end of the file

    def _again(self, stop: int, sent: int) -> Iterator[bytes]:
        """Yield what follows the first ``sent`` bytes: all before the file's byte ``stop``, a little behind it."""
        for end, size in ((stop, _CHUNK), (None, 256)):
            reader, seen = self._open(_Window(self._file, self.start, end)), 0
            try:
                while chunk := reader.read(size):
                    seen += len(chunk)
                    if seen > sent:
                        yield chunk[max(0, len(chunk) - (seen - sent)) :]
                        sent = seen
            except OSError:
                continue

    def _open(self, window: _Window) -> _Decompressor:
        source = cast("BinaryIO", window)
        if self._magic.startswith(_GZIP):
            return GzipReader(source)
        return Lz4Reader(source) if self._magic == _LZ4 else ZstdReader(source, dictionary=self._dictionary(window))

    def _dictionary(self, window: _Window) -> bytes | None:
        """The dictionary of a zstd archive (IIPC's proposal), and ``window`` moved behind it."""
        if self._magic != _ZSTD_DICTIONARY:
            return None
        size = int.from_bytes(window.read(8)[4:], "little")
        content = window.read(size)
        return ZstdReader(io.BytesIO(content)).read(1 << 24) if content.startswith(_ZSTD) else content


class _Window(io.RawIOBase):
    """View of ``file`` from ``start`` to ``end``, with a position of its own."""

    def __init__(self, file: BinaryIO, start: int, end: int | None = None) -> None:
        self._file, self._start, self._at, self._end = file, start, start, end

    def read(self, size: int = -1, /) -> bytes:
        if self._end is not None:
            size = self._end - self._at if size < 0 else min(size, self._end - self._at)
        self._file.seek(self._at)
        data = self._file.read(size)
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at - self._start


def next_start(file: BinaryIO, position: int) -> int | None:
    """Return where, from byte ``position`` on, the next record begins, or a member that holds one; None if nowhere."""
    while True:
        file.seek(position)
        data = file.read(_SEARCH)
        for hit in _START.finditer(data):
            at = position + hit.start()
            if data[hit.start()] not in b"\x1f\x28\x04":
                return at
            file.seek(at)
            if begins_record(file.read(_LINE)):
                return at
        if len(data) < _SEARCH:
            return None
        position += _SEARCH - _LINE  # overlap, so that a match across two pieces is found


def begins_record(data: bytes) -> bool:
    """Return True if ``data`` begins like a record, compressed or not."""
    try:
        if data.startswith(_GZIP):
            data = zlib.decompressobj(wbits=31).decompress(data, _LINE)
        elif data.startswith((_ZSTD, _LZ4, _ZSTD_DICTIONARY)):
            return True  # they are too rare to be met by chance
    except zlib.error:
        return False
    return _BEGINS.match(data) is not None


def is_empty(data: bytes) -> bool:
    """Return True if ``data``, the start of a file, is all of it: nothing, or a gzip member of nothing."""
    if not data.startswith(_GZIP):
        return not data
    stream = zlib.decompressobj(wbits=31)
    try:
        return not stream.decompress(data, 1) and stream.eof
    except zlib.error:
        return False


def _is_padding(file: BinaryIO, position: int) -> bool:
    """Return True if nothing but zeros follows, as behind what was written to blocks of a fixed size."""
    pieces = iter(lambda: file.read(_CHUNK), b"")
    file.seek(position)
    return not any(piece.strip(b"\0") for piece in pieces)


def _ends_well(file: BinaryIO, position: int) -> bool:
    """Return True unless the gzip member at ``position``, the last of the file, is cut: its reader does not tell."""
    window, stream = _Window(file, position), zlib.decompressobj(wbits=31)
    data = b""
    while not stream.eof:
        data = stream.unconsumed_tail or window.read(_CHUNK)
        if not data:
            return False
        try:
            stream.decompress(data, _SEARCH)
        except zlib.error:
            return False
    return True
