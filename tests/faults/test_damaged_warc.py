"""Damaged WARC files: every undamaged record is still read."""

from __future__ import annotations

import gzip
import io
import os
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.formats.warc import Reader, Writer

CAP = 1 << 20
PAGES = [f"http://a.example/{number}" for number in range(5)]
fuzz = settings(max_examples=120 * int(os.environ.get("CLIPLINE_FUZZ", "1")), deadline=None, database=None)


def archive(urls=tuple(PAGES)) -> bytes:
    sink = io.BytesIO()
    warc = Writer(sink, "x.warc.gz", "2026-01-01T00:00:00Z", {"software": "clipline"})
    for number, url in enumerate(urls):
        body = f"<p>page {number} {'words ' * 50}"
        warc.page(url, "2026-01-01T00:00:00Z", 200, [("Content-Type", "text/html")], body.encode(), [])
    return sink.getvalue()


PACKED = archive()
PLAIN = gzip.decompress(PACKED)
STARTS = [hit.start() for hit in re.finditer(rb"\x1f\x8b\x08\0", PACKED)]  # warcinfo, then response and request of each


def read(data: bytes) -> tuple[list[str], int]:
    """The addresses of the pages in ``data``, and how many records were damaged."""
    reader = Reader(io.BytesIO(data), CAP)
    return [page.url for page in reader], reader.damaged


def but(*lost: int) -> list[str]:
    return [url for number, url in enumerate(PAGES) if number not in lost]


def response(number: int) -> slice:
    """Where the response of a page is in PACKED."""
    return slice(STARTS[1 + 2 * number], STARTS[2 + 2 * number])


def with_length(number: int, length: str) -> bytes:
    """PLAIN with another Content-Length in the WARC header of a page's response."""
    at = PLAIN.index(b"WARC-Type: response", PLAIN.index(f"page {number - 1}".encode()) if number else 0)
    begin, end = PLAIN.rindex(b"WARC/1.1", 0, at), PLAIN.index(b"\r\n\r\n", at)
    head = re.sub(rb"Content-Length: \d+", f"Content-Length: {length}".encode(), PLAIN[begin:end])
    return PLAIN[:begin] + head + PLAIN[end:]


def in_members(plain: bytes) -> bytes:
    """One gzip member per record, as WARC wants it."""
    records = re.split(rb"(?<=\r\n\r\n)(?=WARC/1\.1\r\n)", plain)
    return b"".join(gzip.compress(record, mtime=0) for record in records)


def patched(data: bytes, at: slice, what: bytes) -> bytes:
    return data[: at.start] + what + data[at.stop :]


WHOLE = PACKED[response(2)]
DAMAGED = {
    "nothing is wrong": (PACKED, but()),
    "not compressed": (PLAIN, but()),
    "compressed as one member": (gzip.compress(PLAIN), but()),
    "two files joined": (PACKED + PACKED, but() + but()),
    "a plain file behind a packed one": (PACKED + PLAIN, but() + but()),
    "flipped in the middle of a member": (
        patched(PACKED, response(2), WHOLE[:100] + bytes(byte ^ 255 for byte in WHOLE[100:108]) + WHOLE[108:]),
        but(2),
    ),
    "a member's checksum": (patched(PACKED, response(2), WHOLE[:-8] + bytes(8)), but(2)),
    "a member's magic number": (patched(PACKED, response(2), b"\0\0" + WHOLE[2:]), but(2)),
    "the file's magic number": (b"\0\0" + PACKED[2:], but()),
    "the file's first byte is missing": (PACKED[1:], but()),
    "a member cut short": (patched(PACKED, response(2), WHOLE[:100]), but(2)),
    "a member that is missing": (patched(PACKED, response(2), b""), but(2)),
    "a megabyte of zeros between members": (patched(PACKED, response(2), bytes(1 << 20)), but(2)),
    "noise before the first record": (b"HTTP/1.1 200 OK\r\n\r\n" + PACKED, but()),
    "noise behind the last": (PACKED + bytes(range(256)), but()),
    "cut in the last member": (PACKED[: response(4).start + 50], but(4)),
    "a length of nothing": (in_members(with_length(2, "0")), but(2)),
    "a length beyond the record": (in_members(with_length(2, "90000")), but(2)),
    "a huge length": (in_members(with_length(2, str(10**15))), but(2)),
    "a length beyond 64 bits": (in_members(with_length(2, str(10**30))), but(2)),
    "a negative length": (in_members(with_length(2, "-5")), but(2)),
    "a length in words": (in_members(with_length(2, "long")), but(2)),
    "a huge length, not compressed": (with_length(2, str(10**15)), but(2)),
    "a negative length, not compressed": (with_length(2, "-5"), but(2)),
    "a type nobody knows": (PLAIN.replace(b"WARC-Type: response", b"WARC-Type: surprise", 1), but(0)),
    "a version from the future": (in_members(PLAIN.replace(b"WARC/1.1", b"WARC/9.9", 2)), but(0)),
    "no HTTP within": (in_members(PLAIN.replace(b"HTTP/1.1 200 OK", b"220 mail.example", 1)), but(0)),
    "an address that is empty": (in_members(PLAIN.replace(b"-URI: http://a.example/0", b"-URI: ", 1)), but(0)),
    "empty": (b"", []),
    "nothing but zeros": (bytes(100_000), []),
    "nothing but gzip magic": (b"\x1f\x8b\x08\0" * 50_000, []),
    "nothing but record starts": (b"\r\n\r\nWARC/1.1\r\n" * 20_000, []),
    "something else": (b"<html>" * 1000, []),
    "something else, packed": (gzip.compress(b"<html>" * 1000), []),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_whole_is_read(damage):
    """The pages named, each once, within a second or two; and no word about damage where there is none."""
    data, expected = DAMAGED[damage]
    started = time.thread_time()
    pages, damaged = read(data)
    assert pages == expected
    assert time.thread_time() - started < 3.0
    if expected == but() and data in (PACKED, PLAIN):
        assert damaged == 0


@pytest.mark.long
def test_a_record_that_decompresses_without_end_is_passed_over():
    """A gzip member of 256 MB between two healthy ones, read in bounded memory."""
    from bombs import gzip_bomb

    pages, _ = read(patched(PACKED, response(2), gzip_bomb()))
    assert pages == but(2)


def test_a_record_larger_than_the_cap_is_skipped_and_counted():
    sink = io.BytesIO()
    warc = Writer(sink, "x.warc.gz", "2026-01-01T00:00:00Z", {})
    for number, size in enumerate((10, CAP + 1, 10)):
        warc.page(f"http://a.example/{number}", "2026-01-01T00:00:00Z", 200, [], b"<p>" + b"x" * size, [])
    reader = Reader(io.BytesIO(sink.getvalue()), CAP)
    assert [page.url for page in reader] == ["http://a.example/0", "http://a.example/2"]
    assert (reader.passed["too_large"], reader.damaged) == (1, 0)


@pytest.mark.long
@fuzz
@given(
    st.integers(0, len(STARTS) - 2),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=3),
)
@example(0, [(0.0, 0)])
@example(1, [(0.0, 7)])
def test_bits_flipped_in_one_member_cost_no_other(member, flips):
    start, end = STARTS[member], STARTS[member + 1]
    data = bytearray(PACKED)
    for where, bit in flips:
        data[start + int(where * (end - start))] ^= 1 << bit
    pages, _ = read(bytes(data))
    hit = (member - 1) // 2 if member % 2 else None
    assert [url for url in pages if url in but(hit)] == but(hit)


@fuzz
@given(
    st.lists(
        st.tuples(st.sampled_from(["cut", "drop", "repeat", "zero"]), st.floats(0, 1), st.integers(1, 400)), max_size=4
    ),
    st.booleans(),
)
def test_any_damage_ends(accidents, packed):
    """Reading ends, raises nothing, and gives pages within the cap."""
    data = PACKED if packed else PLAIN
    for what, where, size in accidents:
        at = int(where * len(data))
        middle = {"cut": b"", "drop": b"", "repeat": data[at : at + size] * 2, "zero": bytes(size)}[what]
        data = data[:at] + middle + (b"" if what == "cut" else data[at + size :])
    for page in Reader(io.BytesIO(data), CAP):
        assert len(page.body) <= CAP
        page.url.encode(), page.content_type.encode()
