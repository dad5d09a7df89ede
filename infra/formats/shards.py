"""Shard formats: WebDataset tars, and img2dataset's triple of tar, Parquet and statistics.

Why our own tar code: a tar must come out byte for byte the same on every run (nothing of the clock or the user in a
header), must be readable from any stream with a cap on what one member may weigh, and a damaged or cut-off file must
be an error. Python's tarfile quietly ends at the first bad header, which would lose rows.
"""

from __future__ import annotations

import json
import logging
import math
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

from infra.errors import DataError
from infra.images.formats import EXTENSIONS

if TYPE_CHECKING:
    from types import TracebackType

    import pyarrow as pa

    from infra.run.context import Output
    from infra.run.manifest import Artifact, File

__all__ = [
    "IMAGE_EXTENSIONS",
    "SHARD_DIGITS",
    "TarWriter",
    "dotted_name_hint",
    "duplicate",
    "index_tar",
    "read_samples",
    "read_tar",
    "sample_key",
    "shard_name",
    "split_name",
    "tars_among",
    "training_among",
    "training_tars",
    "write_triple",
]

log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = tuple(dict.fromkeys(("jpg", "png", "webp", "jpeg", *EXTENSIONS)))
"""Extensions under which we look for a sample's image, first those under which open_clip does."""

_BLOCK = 512
_ZEROS = b"\0" * _BLOCK
_REGULAR_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EMPTY_TYPES = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_OTHER_FILES = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"version https://git-lfs": "Git LFS pointer",
}
"""Kinds of files that are taken for tars, by how they begin."""
_MAX_NAME = 1 << 16  # bytes of an extended header; one that claims more is an attack, not a name
_NO_SHARD = re.compile(
    r"(?i)\.(?:tar\.(?:part|partial|tmp|temp|crdownload|download|aria2|incomplete|filepart|gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz)$"
)
"""Names of shards that are half downloaded, or compressed."""
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)


# --- tar files --------------------------------------------------------------------------------------------------------


class TarWriter:
    """Writes members in the order given, with fixed time, owner and mode, so equal members give equal bytes."""

    def __init__(self, sink: Any) -> None:  # noqa: ANN401 - anything with write(bytes)
        self._sink = sink
        self.size = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a regular file; the offset of its data in the tar."""
        self._write(_header(name, len(data)))
        offset = self.size
        self._write(data)
        self._write(_ZEROS[: -len(data) % _BLOCK])
        return offset

    def close(self) -> None:
        """Write the end-of-archive mark; the sink stays open."""
        self._write(_ZEROS * 2)

    def _write(self, data: bytes) -> None:
        self._sink.write(data)
        self.size += len(data)

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:  # a tar cut off by an error must not look complete
            self.close()


def _header(name: str, size: int) -> bytes:
    """The header tarfile would write, at a tenth of its cost: the members of a shard differ in two fields only."""
    if not name.isascii() or len(name) > 100 or size >= 8**11 or name.endswith("/") or "\0" in name:
        return _tarfile_header(name, size)
    block = bytearray(_TEMPLATE)
    block[: len(name)] = name.encode()
    block[124:135] = b"%011o" % size
    block[148:154] = b"%06o" % (_TEMPLATE_SUM + sum(block[: len(name)]) + sum(block[124:135]))
    return bytes(block)


def _tarfile_header(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    header.uname = header.gname = ""
    return header.tobuf(tarfile.PAX_FORMAT)


_TEMPLATE = _tarfile_header("", 0)
_TEMPLATE_SUM = 8 * ord(" ") + sum(_TEMPLATE[:124]) + sum(_TEMPLATE[135:148]) + sum(_TEMPLATE[156:])


def read_tar(source: BinaryIO, *, max_member: int = 64 << 20, place: str = "") -> Iterator[tuple[str, bytes]]:
    """Name and content of every regular file, in order; links, folders and devices are passed over.

    Raises DataError, which names the ``place`` of the tar, if it is damaged or cut off, or if a member has more than
    ``max_member`` bytes.
    """
    with _naming(place):
        for name, size in _headers(source):
            if size > max_member:
                raise DataError(
                    f"{name!r} is too large for a shard", expected=f"<= {max_member} bytes", found=f"{size}"
                )
            yield name, _exactly(source, _padded(size))[:size]


def index_tar(source: BinaryIO, *, place: str = "") -> Iterator[tuple[str, int, int]]:
    """Name, offset and size in bytes of every regular file of a seekable tar, without reading their content.

    Raises DataError, which names the ``place`` of the tar, if it is damaged or cut off.
    """
    with _naming(place):
        for name, size in _headers(source):
            offset = source.tell()
            yield name, offset, size
            source.seek(offset + _padded(size))


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Add ``place``, if there is one, to the message of a DataError."""
    try:
        yield
    except DataError as error:
        if not place:
            raise
        raise DataError(
            f"{place}: {error.message}", expected=error.expected, found=error.found, fix=error.fix
        ) from error


def _headers(source: BinaryIO) -> Iterator[tuple[str, int]]:
    """Name and size of each regular file. The consumer moves ``source`` past the padded content before the next."""
    override: dict[str, str] = {}
    first = _first_block(source)
    for block in chain((first,) if first != _ZEROS else (), iter(lambda: _exactly(source, _BLOCK), _ZEROS)):
        if not override and (plain := _plain_file(block)):
            yield plain
            continue
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise DataError("this is not a tar, or it is damaged", found=str(error)) from None
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            if header.size > _MAX_NAME:
                raise DataError("a tar header is too large", expected=f"<= {_MAX_NAME} bytes", found=f"{header.size}")
            content = _exactly(source, _padded(header.size))[: header.size]
            is_pax = header.type == tarfile.XHDTYPE
            override |= _pax(content) if is_pax else {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
            continue
        size = int(override.get("size", header.size))
        name = override.get("path", header.name)
        override = {}
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise _sparse(name)
        if header.type in _REGULAR_TYPES:
            yield name, size
        else:
            _skip(source, _padded(size) if header.type not in _EMPTY_TYPES else 0)


def _first_block(source: BinaryIO) -> bytes:
    """The first header. Raises DataError for what is clearly another kind of file."""
    block = source.read(_BLOCK)
    if not block:
        raise DataError("the file has 0 bytes", expected="a tar")
    for magic, kind in _OTHER_FILES.items():
        if block.startswith(magic):
            raise DataError(f"this is a {kind} file", expected="a tar", fix="unpack it: samples are read at offsets")
    return block + _exactly(source, _BLOCK - len(block))


def _sparse(name: str) -> DataError:
    return DataError(f"{name!r} is a sparse member", expected="all its bytes", fix="pack the tar without --sparse")


def _plain_file(block: bytes) -> tuple[str, int] | None:
    """Name and size of a regular file whose header holds nothing unusual, at a fifth of tarfile's time."""
    name, size, check = block[:100].rstrip(b"\0"), block[124:136].strip(b" \0"), block[148:156].strip(b" \0")
    if block[156:157] not in b"0\0" or block[345] or not (name.isascii() and size.isdigit() and check.isdigit()):
        return None  # a folder, a link, a name in two parts, an extended header, a size in base 256, damage
    try:
        whole = sum(block) - sum(block[148:156]) + 8 * ord(" ") == int(check, 8)
        return (name.decode(), int(size, 8)) if whole and b"\0" not in name and not name.endswith(b"/") else None
    except ValueError:  # 8 and 9 are no octal digits
        return None


def _pax(content: bytes) -> dict[str, str]:
    """The records of an extended header: ``"{length} {key}={value}\\n"``, length counting the whole record."""
    records: dict[str, str] = {}
    while content:
        digits, _, _ = content.partition(b" ")
        if not digits.isdigit() or not len(digits) < int(digits) <= len(content):
            raise DataError("a tar's extended header is damaged", found=repr(content[:40]))
        key, _, value = content[len(digits) + 1 : int(digits) - 1].partition(b"=")
        if key.startswith(b"GNU.sparse."):
            raise _sparse(records.get("path", ""))
        if key in (b"path", b"size") and (key == b"path" or value.isdigit()):
            records[key.decode()] = value.decode("utf-8", "surrogateescape")
        content = content[int(digits) :]
    return records


def _padded(size: int) -> int:
    return size + -size % _BLOCK


def _exactly(source: BinaryIO, size: int) -> bytes:
    """``size`` bytes, however short the single reads of the stream are."""
    data = source.read(size)
    while len(data) < size:
        more = source.read(size - len(data))
        if not more:
            raise DataError("a tar ends in the middle", expected=f"{size} more bytes", found=f"{len(data)}")
        data += more
    return data


def _skip(source: BinaryIO, size: int) -> None:
    while size:
        size -= len(_exactly(source, min(size, 1 << 20)))


# --- samples ----------------------------------------------------------------------------------------------------------


def split_name(name: str) -> tuple[str, str] | None:
    """WebDataset's rule: the key is the path up to the first dot of its last part, the rest is the extension.

    None for a name without either, such as macOS's ``folder/._0.jpg``, of which webdataset makes a sample ``folder/``.
    """
    match = _NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def read_samples(source: BinaryIO, *, max_member: int = 64 << 20, place: str = "") -> Iterator[dict[str, Any]]:
    """The samples of a WebDataset tar: ``{"__key__": key, "jpg": bytes, "txt": bytes, ...}``, nothing decoded.

    Members without an extension are passed over, as webdataset does. Raises DataError, which names the ``place`` of the
    tar, if that is damaged, if a sample has a member twice, or if its members are not contiguous (webdataset would
    silently give two halves).
    """
    sample: dict[str, Any] = {}
    done: set[str] = set()
    with _naming(place):
        for name, data in read_tar(source, max_member=max_member):
            if (parts := split_name(name)) is None:
                continue
            key, extension = parts
            if sample and sample["__key__"] != key:
                done.add(sample["__key__"])
                yield sample
                sample = {}
            if key in done or extension in sample:
                raise duplicate(key, "" if key in done else extension)
            sample = sample or {"__key__": key}
            sample[extension] = data
        if sample:
            yield sample


def duplicate(key: str, extension: str = "", *, place: str = "") -> DataError:
    """Return the error for a sample of the tar ``place`` that occurs twice, or has two members of one extension."""
    fault = f"has two members {extension!r}" if extension else "is in two places"
    where = f"{place}: " if place else ""
    return DataError(f"{where}sample {key!r} {fault}", expected="the members of a sample once each, side by side")


def dotted_name_hint(extensions: Iterable[str]) -> str:
    """Advice on images whose names have several dots, such as ``photo.0001.jpg``; empty if there are none."""
    dotted = [ext for ext in extensions if "." in ext and ext.rpartition(".")[2] in IMAGE_EXTENSIONS]
    if not dotted:
        return ""
    return f"rename the members: a key ends at the first dot of a name, so {dotted[0]!r} counts as the extension"


def tars_among(paths: Iterable[str], place: str) -> list[str]:
    """The tars among the files at ``place``. macOS's resource files, ``._00000.tar``, are left out with a warning.

    Raises DataError for what would be a shard if it were whole or unpacked: its samples would be lost unseen.
    """
    names = list(paths)
    if stray := [path for path in names if _NO_SHARD.search(path)]:
        raise DataError(
            f"{len(stray)} files at {place} are no shards yet",
            expected="whole tars that are not compressed",
            found=", ".join(stray[:5]),
            fix="finish the download or unpack them (samples are read at offsets), or move them elsewhere",
        )
    tars = [path for path in names if path.endswith(".tar")]
    if hidden := [path for path in tars if path.rpartition("/")[2].startswith(".")]:
        log.warning("left out of the shards at %s: %s", place, ", ".join(hidden[:5]))
    return [path for path in tars if path not in hidden]


_TRAINING = "train/"


def training_tars(artifact: Artifact) -> list[File]:
    """The training shards of an artifact: below data/train/, as the shard stage writes them, or anywhere in adopted
    data."""
    return artifact.files(f"data/{_TRAINING}", ".tar") or artifact.files("data/", ".tar")


def training_among(tars: list[str]) -> list[str]:
    """The same of the ``tars`` in a folder: those below train/ if there are any."""
    return [path for path in tars if path.startswith(_TRAINING)] or tars


# --- img2dataset's layout ---------------------------------------------------------------------------------------------

SHARD_DIGITS = 5


def shard_name(shard: int) -> str:
    return f"{shard:0{SHARD_DIGITS}d}"


def sample_key(shard: int, index: int, samples_per_shard: int) -> str:
    """img2dataset's key of row ``index`` of a shard: ``10^k * shard + index`` with k digits for the index."""
    digits = math.ceil(math.log10(samples_per_shard))
    return f"{10**digits * shard + index:0{digits + SHARD_DIGITS}d}"


def write_triple(output: Output, shard: int, members: Iterable[tuple[str, bytes]], rows: pa.Table) -> None:
    """``data/{shard}.tar`` of ``members``, ``.parquet`` of every attempted row, and ``_stats.json`` last.

    ``rows`` needs img2dataset's columns ``status`` and ``error_message``. The statistics are img2dataset's mark of a
    finished shard; being a function of the rows alone, they show a nominal duration of one second.
    """
    name = f"data/{shard_name(shard)}"
    statuses: list[str] = rows["status"].to_pylist()
    successes = statuses.count("success")
    with output.open(f"{name}.tar", rows=successes) as sink, TarWriter(sink) as tar:
        for member, data in members:
            tar.add(member, data)
    output.write_table(f"{name}.parquet", rows)
    messages = rows["error_message"].to_pylist()
    counts = Counter("success" if ok == "success" else why for ok, why in zip(statuses, messages, strict=True))
    stats = {
        "count": rows.num_rows,
        "successes": successes,
        "failed_to_download": statuses.count("failed_to_download"),
        "failed_to_resize": statuses.count("failed_to_resize"),
        "duration": 1.0,
        "start_time": 0.0,
        "end_time": 1.0,
        "status_dict": dict(sorted(counts.items())),
    }
    output.write(f"{name}_stats.json", json.dumps(stats, indent=4).encode())
