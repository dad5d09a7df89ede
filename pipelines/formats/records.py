"""Records of WARC and ARC files, read so that damage to one costs no other.

Own code, because the web's archives are not all as the standard wants them: lines end in LF alone, names of headers are
in any case, files are compressed as one stream, and some are cut or hold wrong lengths. fastwarc loses such records or
all behind them; warcio, which takes three times as long, refuses single-stream gzip and stops at the first damage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pipelines.formats.members import RECORD, Run, next_start

__all__ = ["Record", "Records"]

_MAX_HEAD = 1 << 16  # bytes
_MAX_BLANK = 1000  # bytes of blank lines behind a record to look over
_USUAL = 16  # bytes that tell that a record is followed by another
_LINE = 10_000  # bytes that the first line of a record may have
_BLANK = re.compile(rb"[\r\n\t \0]*")
_BEGINS, _NEXT = re.compile(RECORD), re.compile(rb"(?<=\n)" + RECORD)
_BEGINS_CUT = re.compile(rb"(?:W(?:A(?:RC?)?)?|(?i:https?|ftp|dns|filedesc):[^\r\n]*)\Z")
_VERSION = re.compile(rb"WARC/[01]\.\d")
_HEAD_END = re.compile(rb"\n\r?\n")
_FOLDED = re.compile(rb"\r?\n[ \t]+")
# A header as nearly all are: the first of its lines that name its kind and its length, in this order; none is folded.
_LINES = rb"(?:(?!WARC-Type: |Content-Length: )[A-Za-z].*\n)*+"
_USUAL_HEAD = re.compile(
    rb"(WARC/[01]\.\d.*\n"
    + _LINES
    + rb"WARC-Type: (.*)\n"
    + _LINES
    + rb"Content-Length: (\d{1,18})\r?\n"
    + _LINES
    + rb")\r?\n"
)
_ARC = re.compile(
    rb"(?i:([a-z][a-z0-9+.-]{1,20}:[^\s][^\r\n]{0,8000}?)) [0-9a-fA-F.:]{3,40} \d{12,17} "
    rb"([^\r\n]{0,300}?) (?:(?:-|\d+) \S+ \S+ \d+ \S+ )?(\d{1,18})[ \t]*\r?\n"
)


class Record(NamedTuple):
    """A record. ``kind`` is its WARC-Type in lower case, ``block`` its content; None if that exceeds the limit."""

    kind: bytes
    head: bytes
    block: bytes | None

    @property
    def url(self) -> bytes:
        if line := _ARC.match(self.head):
            return line[1]
        return _URL.of(self.head).strip(b"<>")

    @property
    def content_type(self) -> bytes:
        """Of the block. ARC files have that of the response within."""
        line = _ARC.match(self.head)
        return line[2] if line else _CONTENT_TYPE.of(self.head)


class _Field:
    """A field of a record's header, first as it is nearly always written, then in any case and spacing."""

    def __init__(self, name: bytes) -> None:
        self._usual = b"\n" + name + b": "
        self._size = len(self._usual)
        self._any = re.compile(rb"\n" + name + rb"[ \t]*:[ \t]*", re.IGNORECASE)

    def of(self, head: bytes) -> bytes:
        """Return the value in a header, which ends in a line feed; empty if it is not there."""
        start = head.find(self._usual)
        if start >= 0:
            start += self._size
        elif found := self._any.search(head):
            start = found.end()
        else:
            return b""
        return head[start : head.find(b"\n", start)].strip()


_TYPE, _LENGTH = _Field(b"WARC-Type"), _Field(b"Content-Length")
_URL, _CONTENT_TYPE = _Field(b"WARC-Target-URI"), _Field(b"Content-Type")


class Records:
    """Iterates over the records of a seekable ``file``; the content of those of more than ``max_bytes`` is skipped.

    ``damaged`` counts damaged records, and other damage such as a cut end or noise between records.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._believe = True  # lengths beyond max_bytes, until one was wrong
        self.damaged = 0

    def __iter__(self) -> Iterator[Record]:
        start: int | None = 0
        behind = 0  # bytes of the run's content that were dealt with before
        while start is not None:
            run = Run(self._file, start)
            buffer = _Buffer(run)
            try:
                if behind:
                    buffer.skip(behind)
                    buffer.skip_to_next()
                yield from self._of(run, buffer)
                start, behind = None if run.resume is None else next_start(self._file, run.resume), 0
            except _DamageError as damage:
                start, behind = damage.start, damage.behind

    def _of(self, run: Run, buffer: _Buffer) -> Iterator[Record]:
        """Yield the records of ``run``; raise _DamageError if reading has to start again behind damage."""
        ends_in_damage = False  # which was counted
        while buffer.skip_blank_lines():
            yield from self._usual(buffer)
            head = _head(buffer)
            record = None if head is None else self._record(run, buffer, head)
            if record is not None:
                yield record
                continue
            self.damaged += 1
            if run.is_plain:  # compressed records may follow
                raise _DamageError(next_start(self._file, run.start + buffer.position + 1))
            ends_in_damage = not buffer.skip_to_next()
        self.damaged += run.damaged and not ends_in_damage

    def _usual(self, buffer: _Buffer) -> Iterator[Record]:
        """Yield the records up to the first that is not written as nearly all are, or of which not all is read yet.

        This loop runs a billion times a day: hence one expression for a whole header.
        """
        data, at, longest = buffer.data, buffer.at, self._max_bytes
        while found := _USUAL_HEAD.match(data, at, at + _MAX_HEAD):
            text, kind, length = found.groups()
            start = found.end()
            end = start + int(length)
            if end - start > longest or not data.startswith(b"\r\n\r\nWARC/", end):
                return
            buffer.at = at = end + 4
            yield Record(kind.strip().lower(), text, data[start:end])

    def _record(self, run: Run, buffer: _Buffer, head: _Head) -> Record | None:
        """Take the record with this ``head`` from ``buffer``; if it is damaged leave it there and return None."""
        size, length, kind, text = head
        block, lines = None, 2 if text.startswith(b"WARC/") else 1
        if length <= self._max_bytes:
            end = size + length
            if not buffer.has(end) or not buffer.ends_record(end, lines):
                return None
            block = buffer.data[buffer.at + size : buffer.at + end]
            buffer.at += end
        elif not self._believe:
            return None
        else:
            position = buffer.position
            if not buffer.skip(size + length) or not buffer.ends_record(0, lines):
                # The length was wrong, and what it claimed is gone: read it again, and believe no such length any more.
                self._believe = False
                self.damaged += 1
                start = next_start(self._file, run.start + position + 1) if run.is_plain else run.start
                raise _DamageError(start, 0 if run.is_plain else position + 1)
        return Record(kind, text, block)


class _DamageError(Exception):
    """Reading goes on in the run from byte ``start`` of the file on, behind so many bytes of its content."""

    def __init__(self, start: int | None, behind: int = 0) -> None:
        super().__init__(start, behind)
        self.start, self.behind = start, behind


class _Buffer:
    """A window on the content of a run: ``data`` from ``at`` on is what was not dealt with so far."""

    def __init__(self, run: Run) -> None:
        self._chunks = iter(run)
        self._before = 0  # bytes of the run that are not in ``data`` any more
        self.data, self.at = b"", 0

    @property
    def position(self) -> int:
        """Position of ``at`` in the run, in bytes."""
        return self._before + self.at

    def has(self, count: int) -> bool:
        """Read on until ``count`` bytes are there; False if the run ends before."""
        have = len(self.data) - self.at
        if have >= count:
            return True
        pieces = [self.data[self.at :]]
        while have < count and (chunk := next(self._chunks, b"")):
            pieces.append(chunk)
            have += len(chunk)
        self._before += self.at
        self.data, self.at = b"".join(pieces), 0
        return have >= count

    def grows(self, count: int) -> bool:
        """Read on until ``count`` bytes are there or the run ends; False if that gave no more than there was."""
        have = len(self.data) - self.at
        return have < count and (self.has(count) or len(self.data) > have)

    def skip(self, count: int) -> bool:
        """Skip ``count`` bytes, in constant memory; False if the run ends before."""
        while count > (have := len(self.data) - self.at):
            count -= have
            self._before += len(self.data)
            self.data, self.at = next(self._chunks, b""), 0
            if not self.data:
                return False
        self.at += count
        return True

    def skip_blank_lines(self) -> bool:
        """Skip to the next byte that is no white space or padding; False if there is none."""
        while True:
            blank = _BLANK.match(self.data, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.data):
                return True
            if not self.has(1):
                return False

    def skip_to_next(self) -> bool:
        """Skip to the next place that looks like the beginning of a record, or to the end; False if there is none."""
        self.at += 1
        while (found := _NEXT.search(self.data, self.at)) is None:
            self.at = max(self.at, len(self.data) - _LINE)
            have = len(self.data) - self.at
            if not self.has(have + 1):
                self.at = len(self.data)
                return False
        self.at = found.start()
        return True

    def ends_record(self, end: int, lines: int) -> bool:
        """Return True if a record can end ``end`` bytes from here: at ``lines`` line feeds, another record or the end.

        If none of these is there the record's length was wrong.
        """
        self.has(end + _USUAL)
        if self.data.startswith(b"\r\n\r\nWARC/", self.at + end):
            return True
        self.has(end + _MAX_BLANK)
        start = self.at + end
        blank = _BLANK.match(self.data, start, start + _MAX_BLANK)
        following = blank.end() if blank else start
        if following == len(self.data) or self.data.count(b"\n", start, following) >= lines:
            return True
        following -= self.at
        is_cut = not self.has(following + _LINE)
        begins = _BEGINS.match(self.data, self.at + following)
        return begins is not None or (is_cut and _BEGINS_CUT.match(self.data, self.at + following) is not None)


_Head = tuple[int, int, bytes, bytes]
"""The header of a record: its size in bytes, that of the block behind it, the record's kind, and its text."""


def _head(buffer: _Buffer) -> _Head | None:
    """Return the header that begins here; None if that is none."""
    return _parsed(buffer.data, buffer.at) or (buffer.grows(_MAX_HEAD) and _parsed(buffer.data, buffer.at)) or None


def _parsed(data: bytes, at: int) -> _Head | None:
    if not _VERSION.match(data, at):
        line = _ARC.match(data, at)
        if line is None:
            return None
        kind = b"warcinfo" if line[1].startswith(b"filedesc:") else b"response"
        return line.end() - at, int(line[3]), kind, line[0]
    if (end := _HEAD_END.search(data, at, at + _MAX_HEAD)) is None:
        return None
    text = data[at : end.start() + 1]
    if _FOLDED.search(text):
        text = _FOLDED.sub(b" ", text)
    length = _LENGTH.of(text)
    if not length.isdigit() or len(length) > 18:
        return None
    return end.end() - at, int(length), _TYPE.of(text).lower(), text
