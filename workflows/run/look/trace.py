"""Find a row in every artifact of a run: what each stage made of it, and where it lies.

Rows are found by ``uid``, the id of a pair of image URL and caption, which they keep from extraction to the shards. A
URL, of an image or of a page, is looked up first, and all its rows are traced.

Of a table no more than the id is read at first, by row group, and none of a group whose statistics exclude it; the
columns that are shown only of groups with a row that is wanted. Selections are looked up in the files of the row's
shard.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.formats.shards import index_tar, split_name
from infra.run.manifest import Artifact, File
from infra.store import Store
from pipelines.tables import uid as pair_id
from pipelines.web.urls import BadUrlError, canonical

__all__ = ["Hit", "Row", "in_order", "is_uid", "pages", "trace"]

_UID = re.compile(r"[0-9a-f]{32}")
_BLOCK = 1 << 22  # bytes of a tar searched at a time
_SHOWN = (  # columns told beside the reason, where they are there and not null
    *("key", "shard", "status", "error_message", "detail", "source", "original_width", "original_height", "sha256"),
    *("caption_language", "failed", "duplicate_of", "cluster", "keep_probability", "phash", "location", "bytes"),
)
_BY_URL = ("url", "page_url")


@dataclass(frozen=True)
class Hit:
    """The outcome of a row in one artifact. ``outcome``: kept, dropped, or for a model trained."""

    stage: str
    artifact: str
    outcome: str
    reason: str = ""
    file: str = ""
    row: int | None = None  # in a table
    offset: int | None = None  # of the image's bytes in a tar
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, "", {})}


@dataclass(frozen=True)
class Row:
    """A row's way: ``hits`` in the order of the stages."""

    uid: str
    url: str
    page_url: str
    caption: str
    hits: Sequence[Hit]


def is_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None


def in_order(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """``artifacts``, each after those it was made from."""
    by_digest = {artifact.manifest.digest: artifact for artifact in artifacts}
    ordered: dict[str, Artifact] = {}

    def add(digest: str) -> None:
        artifact = by_digest[digest]
        for source in artifact.manifest.identity.get("inputs", {}).values():
            if source in by_digest and source not in ordered:
                add(source)
        ordered.setdefault(digest, artifact)

    for digest in by_digest:
        add(digest)
    return list(ordered.values())


def trace(artifacts: Sequence[Artifact], what: str, most: int = 20) -> Iterator[Row]:
    """The way of each row that ``what``, an id or a URL, names; of at most ``most`` rows.

    ``artifacts``: in the order of their stages.
    """
    for uid in [what] if is_uid(what) else _uids(artifacts, what)[:most]:
        yield _row(artifacts, uid)


def pages(artifacts: Sequence[Artifact], url: str) -> list[Hit]:
    """Hits of a page in the tables of crawls."""
    found = []
    for artifact in artifacts:
        for file in artifact.files("data/", ".urls.parquet"):
            hits = _rows(artifact.store, file, "url", _spellings(url), ("reason", *_SHOWN))
            found += [_hit(artifact, file, place, row, {}) for place, row in hits]
    return found


def _uids(artifacts: Sequence[Artifact], url: str) -> list[str]:
    """The ids of all rows of an image's URL or a page's, as the first stage that has any tells them."""
    for artifact in artifacts:
        found: dict[str, None] = {}
        for file in artifact.files("data/", ".parquet"):
            for column in _BY_URL:
                rows = _rows(artifact.store, file, column, _spellings(url), ("uid",))
                found |= {row["uid"]: None for _, row in rows if row.get("uid")}
        if found:
            return list(found)
    return []


def _spellings(url: str) -> set[str]:
    """A URL as given, and as crawls and lists store it."""
    try:
        return {url, canonical(url)}
    except BadUrlError:
        return {url}


# --- one row ----------------------------------------------------------------------------------------------------------


def _row(artifacts: Sequence[Artifact], uid: str) -> Row:
    known: dict[str, Any] = {}
    hits: list[Hit] = []
    shards: set[str] = set()  # digests of artifacts whose training shards have it
    for artifact in artifacts:
        for file in _candidates(artifact, known):
            columns = (*_BY_URL, "caption", "reason", *_SHOWN)
            for place, row in _rows(artifact.store, file, "uid", {uid}, columns):
                hits.append(_hit(artifact, file, place, row, known))
                known |= {name: value for name, value in row.items() if value is not None}
                if artifact.files("data/", ".tar") and file.path.rpartition("/")[2][:1].isdigit():
                    known["shard"] = int(file.path.rpartition("/")[2].removesuffix(".parquet"))
        for hit in _in_tars(artifact, uid, known):
            hits.append(hit)
            if "/train/" in hit.file:
                shards.add(artifact.manifest.digest)
        inputs = artifact.manifest.identity.get("inputs", {})
        learned = {digest for name, digest in inputs.items() if name.startswith("shards")}
        if shards & learned and _is_model(artifact):
            hits.append(Hit(artifact.manifest.stage, artifact.manifest.name, "trained"))
    if known.get("page_url"):
        hits = [*pages(artifacts, known["page_url"]), *hits]
    url, page_url, caption = (str(known.get(name) or "") for name in (*_BY_URL, "caption"))
    return Row(uid, url, page_url, caption, hits)


def _candidates(artifact: Artifact, known: Mapping[str, Any]) -> list[File]:
    """The tables of an artifact that can have the row: of a selection those of its shard of images."""
    files = [file for file in artifact.files("data/", ".parquet") if not file.path.endswith(".urls.parquet")]
    if "shard" not in known:
        return files
    own = [file for file in files if re.search(rf"/(?:kept|dropped)-0*{known['shard']}\.parquet$", file.path)]
    return own or files


def _hit(artifact: Artifact, file: File, place: int, row: Mapping[str, Any], known: Mapping[str, Any]) -> Hit:
    """``row`` as a hit: dropped if it has a reason, stands in a table of dropped rows, or failed.

    Its details are those that are not ``known`` from stages before.
    """
    failed = row.get("reason") or (row.get("status") not in (None, "success") and row["status"])
    dropped = failed or file.path.startswith("data/dropped")
    details = {name: row[name] for name in _SHOWN if row.get(name) not in (None, "", "success", known.get(name))}
    if row.get("duplicate_of"):
        details |= _original(artifact, row["duplicate_of"])
    manifest = artifact.manifest
    outcome = "dropped" if dropped else "kept"
    return Hit(manifest.stage, manifest.name, outcome, str(failed or ""), file.path, place, details=details)


def _original(artifact: Artifact, uid: str) -> dict[str, Any]:
    """URL and caption of the row that was kept instead of a duplicate."""
    for file in artifact.files("data/kept-", ".parquet"):
        for _, row in _rows(artifact.store, file, "uid", {uid}, ("url", "caption")):
            return {"duplicate_of_url": row["url"], "duplicate_of_caption": row["caption"]}
    return {}


def _is_model(artifact: Artifact) -> bool:
    return any(file.path.endswith((".safetensors", ".pt", ".pth")) for file in artifact.each_file())


# --- tables -----------------------------------------------------------------------------------------------------------


def _rows(
    store: Store, file: File, column: str, wanted: Collection[str], columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and ``columns`` of each row of a table whose ``column`` is one of ``wanted``."""
    with store.open(file.path) as source, pq.ParquetFile(source) as table:
        names = table.schema_arrow.names
        # img2dataset's own tables have no ids: they are computed as the stages after do.
        computed = "uid" not in names and {"url", "key", "status"} <= set(names)
        if column not in names and not (computed and column == "uid"):
            return
        read = (column, *columns, *(("url", "caption") if computed else ()))
        shown = [name for name in dict.fromkeys(read) if name in names]
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if column not in names or _may_hold(table, group, column, wanted):
                places = _places(table, group, column, wanted)
                part = table.read_row_group(group, shown).take(places).to_pylist() if places else []
                for place, row in zip(places, part, strict=True):
                    own = {"uid": pair_id(row["url"], row.get("caption") or "")} if computed else {}
                    yield first + place, row | own
            first += rows


def _places(table: pq.ParquetFile, group: int, column: str, wanted: Collection[str]) -> list[int]:
    """Rows of a row group that have one of the values; no other column is read."""
    if column in table.schema_arrow.names:
        values = table.read_row_group(group, [column])[column]
        if not pa.types.is_string(values.type):
            return []
        found = pc.is_in(values, value_set=pa.array(sorted(wanted), pa.string()))
        return np.flatnonzero(found.to_numpy()).tolist()
    pairs = table.read_row_group(group, [name for name in ("url", "caption") if name in table.schema_arrow.names])
    ids = (pair_id(row["url"] or "", row.get("caption") or "") for row in pairs.to_pylist())
    return [place for place, one in enumerate(ids) if one in wanted]


def _may_hold(table: pq.ParquetFile, group: int, column: str, wanted: Collection[str]) -> bool:
    """False if the statistics of a row group exclude all of ``wanted``."""
    row_group = table.metadata.row_group(group)
    for place in range(row_group.num_columns):
        chunk = row_group.column(place)
        if chunk.path_in_schema == column:
            known = chunk.statistics
            if known is None or not known.has_min_max:
                return True
            return any(known.min <= value <= known.max for value in wanted)
    return True


# --- shards -----------------------------------------------------------------------------------------------------------


def _in_tars(artifact: Artifact, uid: str, known: Mapping[str, Any]) -> Iterator[Hit]:
    """The samples of training and test shards whose JSON names the row."""
    for file in artifact.files("data/", ".tar"):
        if file.path.removeprefix("data/")[:1].isdigit():  # a download: its table has told of the row
            continue
        with artifact.store.open(file.path) as source:
            if not _mentions(source, uid.encode()):
                continue
        with artifact.store.open(file.path) as source:
            yield from _samples(artifact, file, source, uid)


def _mentions(source: BinaryIO, word: bytes) -> bool:
    tail = b""
    while block := source.read(_BLOCK):
        if word in tail + block:
            return True
        tail = block[-len(word) :]
    return False


def _samples(artifact: Artifact, file: File, source: BinaryIO, uid: str) -> Iterator[Hit]:
    members = [(name, offset, size) for name, offset, size in index_tar(source) if split_name(name)]
    images: dict[str, tuple[str, int]] = {}
    named: list[str] = []
    for name, offset, size in members:
        key, extension = split_name(name) or ("", "")
        if extension == "json":
            source.seek(offset)
            text = source.read(size)
            if uid.encode() in text and _is_of(json.loads(text), uid):
                named.append(key)
        elif extension != "txt":
            images[key] = (name, offset)
    part = "holdout" if "/holdout/" in file.path else "training"
    for key in named:
        name, offset = images.get(key, (key, 0))
        details = {"sample": name, "part": part}
        manifest = artifact.manifest
        yield Hit(manifest.stage, manifest.name, "kept", file=file.path, offset=offset, details=details)


def _is_of(known: Mapping[str, Any], uid: str) -> bool:
    """True if the JSON of a sample is of that row, or has it among its pairs, not only as what it is a copy of."""
    return known.get("uid") == uid or any(pair.get("uid") == uid for pair in known.get("pairs", ()))
