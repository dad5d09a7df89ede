"""Tars and triples against the tools people read them with: tarfile, webdataset and img2dataset."""

import io
import json
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from infra.errors import DataError
from infra.formats.shards import (
    TarWriter,
    _header,
    _plain_file,
    index_tar,
    read_samples,
    read_tar,
    sample_key,
    split_name,
    write_triple,
)
from infra.run.context import ShardOutput
from infra.store import LocalStore

SAMPLES = {"00.jpg": b"\xff\xd8jpeg", "00.txt": b"a red house", "01.jpg": b"x" * 512, "01.txt": b""}


def tar_of(members, closed=True) -> bytes:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    for name, data in members.items():
        writer.add(name, data)
    if closed:
        writer.close()
    return sink.getvalue()


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def read(self, size=-1):
        return self._inner.read(min(size, 100))


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=150).filter(
    lambda name: not name.startswith("/") and not name.endswith("/")
)


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=1200), max_size=5))
def test_what_is_written_is_read_by_us_and_by_tarfile(members):
    data = tar_of(members)
    assert dict(read_tar(io.BytesIO(data))) == members
    assert dict(read_tar(Trickle(data))) == members
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {item.name: tar.extractfile(item).read() for item in tar} == members
        assert all(item.mtime == item.uid == item.gid == 0 and item.mode == 0o644 for item in tar)


@given(NAMES, st.integers(0, 2**40))
def test_headers_are_tarfiles_own(name, size):
    theirs = tarfile.TarInfo(name)
    theirs.size, theirs.mode = size, 0o644
    assert _header(name, size) == theirs.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_format_and_only_their_regular_files(form):
    sink, members = io.BytesIO(), {"a.txt": b"1", "b" * 90 + "/" + "c" * 60 + ".txt": b"22", "d.txt": b"3"}
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE):
            other = tarfile.TarInfo(f"other{kind!r}")
            other.type, other.linkname = kind, "/etc/passwd"
            tar.addfile(other)
        for name, data in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    assert dict(read_tar(io.BytesIO(sink.getvalue()))) == members


def test_index_points_at_the_data():
    data = tar_of(SAMPLES)
    assert {name: data[offset : offset + size] for name, offset, size in index_tar(io.BytesIO(data))} == SAMPLES
    sink = io.BytesIO()
    offset = TarWriter(sink).add("x", b"content")
    assert sink.getvalue()[offset : offset + 7] == b"content"


def test_a_tar_cut_anywhere_is_an_error():
    data = tar_of(SAMPLES)
    for length in range(0, len(data) - 1024, 173):
        with pytest.raises(DataError, match=r"ends in the middle|0 bytes"):
            list(read_tar(io.BytesIO(data[:length])))
    with pytest.raises(DataError):
        list(read_tar(io.BytesIO(tar_of(SAMPLES, closed=False))))


def test_a_damaged_header_is_an_error_where_tarfile_just_stops():
    data = bytearray(tar_of(SAMPLES))
    data[1024] ^= 1  # in the second header
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        assert len(tar.getmembers()) == 1
    with pytest.raises(DataError, match="damaged"):
        list(read_tar(io.BytesIO(bytes(data))))


def test_an_error_leaves_no_complete_tar():
    sink = io.BytesIO()
    with pytest.raises(ZeroDivisionError), TarWriter(sink) as tar:
        tar.add("a", b"1")
        raise ZeroDivisionError
    with pytest.raises(DataError):
        list(read_tar(io.BytesIO(sink.getvalue())))


def test_members_are_capped_before_they_are_read():
    header = tarfile.TarInfo("bomb.jpg")
    header.size = 1 << 40
    with pytest.raises(DataError, match="too large"):
        next(read_tar(io.BytesIO(header.tobuf())))
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with pytest.raises(DataError, match="header is too large"):
        next(read_tar(io.BytesIO(header.tobuf())))


@settings(deadline=None)
@given(st.text(st.sampled_from("ab./"), min_size=1, max_size=12))
def test_the_key_rule_is_webdatasets(name):
    key, extension = base_plus_ext(name)
    hidden = name.rpartition("/")[2].startswith(".")  # of which webdataset makes samples named like the folder
    assert split_name(name) == ((key, extension) if extension and not hidden else None)


def test_samples_are_those_webdataset_reads():
    data = tar_of(SAMPLES)
    theirs = list(group_by_keys(tar_file_expander([{"url": "0.tar", "stream": io.BytesIO(data)}])))
    for sample in theirs:
        assert sample.pop("__url__") == "0.tar"
    assert list(read_samples(io.BytesIO(data))) == theirs


@pytest.mark.parametrize("names", [("a.jpg", "a.txt", "a.jpg"), ("a.jpg", "b.jpg", "a.txt")])
def test_split_and_doubled_samples_are_refused(names):
    sink = io.BytesIO()
    with TarWriter(sink) as tar:
        for name in names:
            tar.add(name, b"")
    with pytest.raises(DataError, match="sample 'a'"):
        list(read_samples(io.BytesIO(sink.getvalue())))


def test_keys():  # against img2dataset's own function in tests/pipelines/test_download.py
    assert [sample_key(3, 7, size) for size in (10, 1000, 10_000)] == ["000037", "00003007", "000030007"]


def test_triple(tmp_path):
    rows = pa.table(
        {
            "status": ["success", "failed_to_download", "success", "failed_to_resize"],
            "error_message": [None, "HTTP 404", None, "image too small"],
        }
    )
    output = ShardOutput(LocalStore(tmp_path), "00003")
    write_triple(output, 3, SAMPLES.items(), rows)
    assert [(file.path, file.rows) for file in output.files] == [
        ("data/00003.tar", 2),
        ("data/00003.parquet", 4),
        ("data/00003_stats.json", None),
    ]
    assert (tmp_path / "data/00003.tar").read_bytes() == tar_of(SAMPLES)
    assert pq.read_table(tmp_path / "data/00003.parquet").equals(rows)
    stats = json.loads((tmp_path / "data/00003_stats.json").read_text())
    assert stats["status_dict"] == {"HTTP 404": 1, "image too small": 1, "success": 2}
    assert stats["count"] == 4 == stats["successes"] + stats["failed_to_download"] + stats["failed_to_resize"]


def test_headers_read_the_short_way_say_what_tarfile_reads():
    """Of names, sizes and types of all kinds, in every format, one in three damaged in a byte."""
    draw, short = random.Random(0), 0
    for _ in range(1500):
        member = tarfile.TarInfo("".join(draw.choice("ab/.é\\ 9") for _ in range(draw.randint(1, 130))))
        member.size = draw.choice([0, 511, 10**6, 8**11 - 1, 8**11])
        member.type = draw.choice([b"0", b"0", b"\0", b"5", b"2", b"7"])
        member.mtime, member.uid = draw.choice([0, 1.5]), draw.choice([0, 10**7])
        for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            data = member.tobuf(form)
            for start in range(0, len(data), 512):
                block = bytearray(data[start : start + 512])
                if draw.random() < 0.3:
                    block[draw.randrange(512)] = draw.randrange(256)
                if found := _plain_file(bytes(block)):
                    expected = tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
                    assert (*found, True) == (expected.name, expected.size, expected.isreg())
                    short += 1
    assert short > 300
