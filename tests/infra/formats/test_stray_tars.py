"""Tars as the world's programs write them: read, or refused with the name of the file and what to do."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from infra.errors import DataError
from infra.formats.shards import dotted_name_hint, index_tar, read_samples, split_name

PLACE = "s3://bucket/00007.tar"
SAMPLES = {"0.jpg": b"one", "0.txt": b"first", "1.jpg": b"two", "1.txt": b"second"}


def packed(members, form=tarfile.PAX_FORMAT, change=lambda member: None) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            change(member)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    """Every member, by both readers."""
    samples = list(read_samples(io.BytesIO(data), place=PLACE))
    found = {f"{s['__key__']}.{ext}": value for s in samples for ext, value in s.items() if ext != "__key__"}
    indexed = {
        f"{parts[0]}.{parts[1]}": data[offset : offset + size]
        for name, offset, size in index_tar(io.BytesIO(data), place=PLACE)
        if (parts := split_name(name))
    }
    assert indexed == found
    return found


def beside(*others: tuple[str, bytes, str]) -> bytes:
    """The samples with other members between them: name, type and name of what it links to."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for number, (name, data) in enumerate(SAMPLES.items()):
            if number % 2 == 0:
                for other, kind, link in others:
                    member = tarfile.TarInfo(other)
                    member.type, member.linkname = kind, link
                    tar.addfile(member)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def global_header() -> bytes:
    """As git archive writes it."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", pax_headers={"comment": "f" * 40}) as tar:
        for name, data in SAMPLES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


LONG = "long/" * 50


APART = {"a/0.jpg": b"x", "a/1.jpg": b"y"}


def under(prefix: str) -> dict[str, bytes]:
    return {f"{prefix}{name}": data for name, data in SAMPLES.items()}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (packed(SAMPLES), SAMPLES),
        (packed(SAMPLES, tarfile.GNU_FORMAT), SAMPLES),
        (packed(SAMPLES, tarfile.USTAR_FORMAT), SAMPLES),
        (packed(under("/data/")), under("/data/")),
        (packed(under("./")), under("./")),
        (packed(under(LONG)), under(LONG)),
        (packed(under(LONG), tarfile.GNU_FORMAT), under(LONG)),
        (packed({name.upper(): data for name, data in SAMPLES.items()}), SAMPLES),
        (packed({"日本.jpg": b"x"}), {"日本.jpg": b"x"}),
        (packed(SAMPLES | {"README": b"no extension", ".hidden": b"", "._0.jpg": b"AppleDouble"}), SAMPLES),
        (packed({"__MACOSX/._0.jpg": b"AppleDouble", "__MACOSX/._1.jpg": b"AppleDouble", **SAMPLES}), SAMPLES),
        (packed({"a/._0.jpg": b"", "a/0.jpg": b"x", "a/._1.jpg": b"", "a/1.jpg": b"y"}), APART),
        (packed(SAMPLES, change=lambda member: member.pax_headers.update(mtime="1.25", comment="x" * 600)), SAMPLES),
        (beside(("folder", tarfile.DIRTYPE, ""), ("pipe", tarfile.FIFOTYPE, "")), SAMPLES),
        (beside(("sda.jpg", tarfile.BLKTYPE, ""), ("tty.jpg", tarfile.CHRTYPE, "")), SAMPLES),
        (beside(("link.jpg", tarfile.SYMTYPE, "/etc/passwd"), ("hard.jpg", tarfile.LNKTYPE, "0.jpg")), SAMPLES),
        (global_header(), SAMPLES),
        (packed(SAMPLES) + bytes(1 << 20), SAMPLES),  # blocks of a tape
        (packed({}), {}),
    ],
)  # fmt: skip
def test_what_counts_is_read(data, expected):
    assert read(data) == expected


def sparse() -> bytes:
    """As GNU tar --sparse writes it: the holes of a file are left out."""
    member = tarfile.TarInfo("0.jpg")
    member.type = tarfile.GNUTYPE_SPARSE
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (packed(SAMPLES)[:1700], "ends in the middle"),
        (packed(SAMPLES)[:1536], "ends in the middle"),
        (packed(SAMPLES)[:300], "ends in the middle"),
        (b"", "0 bytes"),
        (gzip.compress(packed(SAMPLES)), "a gzip file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer file"),
        (b"PK\x03\x04" + bytes(600), "a zip file"),
        (b"<html>" * 200, "not a tar"),
        (packed(SAMPLES)[:1024] + b"x" * 512 + packed(SAMPLES)[1536:], "not a tar, or it is damaged"),
        (sparse(), "'0.jpg' is a sparse member"),
        (packed(SAMPLES, change=lambda member: member.pax_headers.update({"GNU.sparse.major": "1"})), "a sparse"),
    ],
)  # fmt: skip
def test_what_is_no_whole_tar_is_refused_by_name(data, words):
    for reader in (read_samples, index_tar):
        with pytest.raises(DataError, match=words) as caught:
            list(reader(io.BytesIO(data), place=PLACE))
        assert str(caught.value).startswith(f"{PLACE}: ")


def test_a_sample_that_occurs_twice_is_refused_by_name():
    for names in (["0.jpg", "0.txt"] * 2, ["0.jpg", "1.jpg", "0.txt"], ["0.jpg", "0.JPG"]):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(DataError, match=f"^{PLACE}: sample '0'"):
            list(read_samples(io.BytesIO(sink.getvalue()), place=PLACE))


def test_names_with_several_dots_get_a_hint():
    assert "'0001.jpg' counts as the extension" in dotted_name_hint(["txt", "0001.jpg"])
    assert not dotted_name_hint(["jpg", "seg.npy", "txt"])
