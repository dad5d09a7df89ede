"""Kinds of data that can be adopted: which files count, and what they must be like.

A kind of your own is a subclass of :class:`Contents`; later stages accept it by the words in ``holds``.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

from pydantic import Field

from infra.config import Choice
from infra.errors import ConfigError, DataError
from infra.formats.shards import IMAGE_EXTENSIONS, read_samples
from infra.formats.testset import EvalSet
from infra.store import Store

__all__ = [
    "Archives",
    "Contents",
    "Images",
    "Metadata",
    "Model",
    "Pairs",
    "Selection",
    "Shards",
    "TestSets",
    "UrlList",
]


class Contents(Choice):
    """A kind of data. ``holds``: what later stages find in it; ``layout``: the files expected, for error messages."""

    holds: ClassVar[tuple[str, ...]] = ()
    layout: ClassVar[str] = ""

    @abstractmethod
    def pick(self, paths: Sequence[str]) -> list[str]:
        """Those of the ``paths`` found that are part of the data."""

    @abstractmethod
    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        """Rows of each file, where that is known. Raises DataError for files that are not what they should be."""


class Images(Contents):
    """Downloaded images in img2dataset's layout, made by it or by clipline."""

    holds = ("images",)
    layout = "00000.tar beside 00000.parquet, as img2dataset writes them"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if re.fullmatch(r"\d+\.(?:tar|parquet)", path)]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        tables = [path for path in paths if path.endswith(".parquet")]
        alone = {path.rpartition(".")[0] for path in paths} - {path.removesuffix(".parquet") for path in tables}
        if alone:
            raise DataError(
                f"{len(alone)} shards at {store.url} have no table of their rows",
                expected="a Parquet file beside each tar",
                found=f"no {min(alone)}.parquet",
                fix="download with output_format webdataset and save_metadata on",
            )
        rows = _parquet_rows(store, tables, ("key", "status"))
        _check_tars(store, [path for path in paths if path.endswith(".tar")])
        return rows


class Pairs(Contents):
    """Image URLs with captions, as clipline's extract and urls stages write them."""

    holds = ("pairs",)
    layout = "*.parquet with columns uid, url and caption"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if path.endswith(".parquet")]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return _parquet_rows(store, paths, ("uid", "url", "caption"))


class Selection(Contents):
    """Rows of images that were chosen, as clipline's filter, dedup and balance stages write them."""

    holds = ("selection",)
    layout = "*.parquet with columns uid, key and shard"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if path.endswith(".parquet")]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return _parquet_rows(store, paths, ("uid", "key", "shard"))


class Shards(Contents):
    """WebDataset tars of images with captions, to train on."""

    holds = ("shards",)
    layout = "*.tar with an image and a caption per sample"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if path.endswith(".tar")]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        _check_tars(store, paths)
        return {}


class Model(Contents):
    """A model in open_clip's form: a folder with configuration and weights, or one checkpoint file."""

    holds = ("model",)
    layout = "open_clip_config.json with open_clip_model.safetensors (or *.bin, *.pth), or a checkpoint *.pt"

    def pick(self, paths: Sequence[str]) -> list[str]:
        top = [path for path in paths if "/" not in path]
        if "open_clip_config.json" in top:
            # The weights once, tokenizer files if there are any; no optimizer, no logs.
            weights = [path for path in top if path.endswith((".safetensors", ".bin", ".pth"))]
            texts = [path for path in top if path.endswith((".json", ".txt", ".model"))]
            return sorted({*weights, *texts}) if weights else []
        return top if len(paths) == 1 and top[0].endswith((".pt", ".pth", ".bin", ".safetensors")) else []

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return {}  # whether weights fit their configuration is seen when the model is built


class TestSets(Contents):
    """Test sets in CLIP_benchmark's WebDataset layout, a folder each."""

    kind = "testsets"
    holds = ("testsets",)
    layout = "{set}/{split}/nshards.txt beside {set}/{split}/*.tar"

    sets: tuple[str, ...] = Field((), description="names of the sets that are wanted; none given: all")
    split: str = Field("test", description="split that is wanted")

    def pick(self, paths: Sequence[str]) -> list[str]:
        there = [path.removesuffix(f"/{self.split}/nshards.txt") for path in paths if self._marks_set(path)]
        wanted = self.sets or there
        if missing := sorted(set(wanted) - set(there)):
            raise ConfigError(
                f"there is no test set {missing[0]!r} with split {self.split!r}",
                expected=f"{missing[0]}/{self.split}/nshards.txt",
                found=f"sets {', '.join(there)}" if there else "no test sets",
            )
        return [path for name in wanted for path in paths if self._belongs(path, name)]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        for name in sorted({path.rpartition(f"/{self.split}/")[0] for path in paths if self._marks_set(path)}):
            EvalSet.at(store, name, self.split)
        return {}

    def _marks_set(self, path: str) -> bool:
        return path.endswith(f"/{self.split}/nshards.txt")

    def _belongs(self, path: str, name: str) -> bool:
        """True for the files directly in a set's folder, which describe it, and those of the split."""
        below = path.removeprefix(f"{name}/")
        return below != path and ("/" not in below or below.startswith(f"{self.split}/"))


class UrlList(Contents):
    """A list of image URLs in one of img2dataset's formats, or in another that the urls stage is configured for."""

    holds = ("url_list",)
    layout = "*.parquet, *.csv, *.tsv, *.json, *.jsonl, *.txt (also .gz)"

    def pick(self, paths: Sequence[str]) -> list[str]:
        if len(paths) == 1:
            return list(paths)
        ending = re.compile(r"(?i)\.(?:parquet|(?:csv|tsv|json|jsonl|ndjson|txt)(?:\.gz)?)")
        hidden = (".", "_")  # as Spark's own files
        return [path for path in paths if ending.search(path) and not path.rpartition("/")[2].startswith(hidden)]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return {}  # the urls stage tells good lines from bad


class Archives(Contents):
    """Crawled pages in WARC or WAT files."""

    holds = ("archives",)
    layout = "*.warc, *.warc.gz, *.wat or *.wat.gz"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if re.search(r"(?i)\.(?:warc|wat)(?:\.gz)?$", path)]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return {}  # damaged records are counted by the extract stage


class Metadata(Contents):
    """Queries for balancing: a text file with one per line, or a JSON list."""

    holds = ("metadata",)
    layout = "one *.txt or *.json"

    def pick(self, paths: Sequence[str]) -> list[str]:
        found = [path for path in paths if path.endswith((".txt", ".json"))]
        return found if len(found) == 1 else []

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return {}


def _parquet_rows(store: Store, paths: Sequence[str], columns: Collection[str]) -> dict[str, int]:
    """Rows of Parquet files that have ``columns``. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {}
    for path in paths:
        try:
            with store.open(path) as source, pq.ParquetFile(source) as file:
                rows[path], names = file.metadata.num_rows, file.schema_arrow.names
        except pa.ArrowInvalid as error:
            raise DataError(f"{store.locate(path)} is not a Parquet file", found=str(error)) from error
        if missing := [name for name in columns if name not in names]:
            raise DataError(
                f"{store.locate(path)} lacks the column {missing[0]!r}",
                expected=", ".join(columns),
                found=", ".join(names),
            )
    return rows


def _check_tars(store: Store, paths: Sequence[str]) -> None:
    """Raise DataError unless each tar begins with an image; whole tars are read by the stages that use them."""
    for path in paths:
        with store.open(path) as source:
            first = next(read_samples(source), None)  # None: all of the shard's images failed
        if first is not None and not set(first) & set(IMAGE_EXTENSIONS):
            raise DataError(
                f"{store.locate(path)} holds no images",
                expected=f"samples with a member *.{', *.'.join(IMAGE_EXTENSIONS)}",
                found=f"sample {first['__key__']!r} with {', '.join(sorted(set(first) - {'__key__'}))}",
            )
