"""Kinds of data that can be adopted: which files count, and what they must be like.

A kind of your own is a subclass of :class:`Contents`; later stages accept it by the words in ``holds``.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar, get_args

from pydantic import Field

from infra.config import Choice, Runtime
from infra.errors import ConfigError, DataError, did_you_mean
from infra.formats.architecture import CONFIG, check_fits, read_model_config
from infra.formats.region_shape import REGIONS
from infra.formats.shards import IMAGE_EXTENSIONS, dotted_name_hint, read_samples, tars_among
from infra.formats.testset import Form, SetFiles, find_sets, known_forms
from infra.formats.weights import ENDINGS, in_order, read_shapes
from infra.run.manifest import Funnel, data_folder, listed_data
from infra.store import Store
from pipelines.formats.archives import LISTS, listed
from pipelines.urls.files import Format, format_of

__all__ = [
    "ArchiveList",
    "Archives",
    "Contents",
    "Corpus",
    "Images",
    "Metadata",
    "Model",
    "Pairs",
    "Selection",
    "Shards",
    "TestSets",
    "UrlList",
    "parquet_rows",
    "test_sets",
]


class Contents(Choice):
    """A kind of data. ``holds``: what later stages find in it; ``layout``: the files expected, for error messages."""

    holds: ClassVar[tuple[str, ...]] = ()
    layout: ClassVar[str] = ""

    def beginning(self, paths: Sequence[str]) -> str:
        """The folder below the one that was given where the data begin: that of an artifact's own; "": there."""
        return data_folder(paths)

    @abstractmethod
    def pick(self, paths: Sequence[str]) -> list[str]:
        """Those of the ``paths`` found that are part of the data. Raises what a user must see to first."""

    @abstractmethod
    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        """Rows of each file, where that is known. Raises DataError for files that are not what they should be."""

    def judge(self, store: Store, paths: Sequence[str]) -> tuple[dict[str, int], Funnel | None]:
        """Return what :meth:`check` does, and how many rows are of use, where each is looked at."""
        return self.check(store, paths), None


class Images(Contents):
    """Downloaded images in img2dataset's layout, made by it or by clipline."""

    holds = ("images",)
    layout = "00000.tar beside 00000.parquet, as img2dataset writes them"

    def pick(self, paths: Sequence[str]) -> list[str]:
        tars = tars_among((path for path in paths if re.match(r"\d+\.t", path)), "the path given")
        return tars + [path for path in paths if re.fullmatch(r"\d+\.parquet", path)]

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
        rows = parquet_rows(store, tables, ("key", "status"))
        _check_tars(store, [path for path in paths if path.endswith(".tar")])
        return rows


class Pairs(Contents):
    """Image URLs with captions, as clipline's extract and urls stages write them."""

    holds = ("pairs",)
    layout = "*.parquet with columns uid, url and caption"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if path.endswith(".parquet")]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return parquet_rows(store, paths, ("uid", "url", "caption"))


class Selection(Contents):
    """Rows of images that were chosen, as clipline's filter, dedup and balance stages write them."""

    holds = ("selection",)
    layout = "*.parquet with columns uid, key and shard"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if path.endswith(".parquet")]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return parquet_rows(store, paths, ("uid", "key", "shard"))


class Shards(Contents):
    """WebDataset tars of images with captions, to train on."""

    holds = ("shards",)
    layout = "*.tar with an image and a caption per sample"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return tars_among(paths, "the path given")

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        _check_tars(store, paths, (*IMAGE_EXTENSIONS, REGIONS))
        return {}


class Model(Contents):
    """A model in open_clip's form: a folder with configuration and weights, or one checkpoint file."""

    holds = ("model",)
    layout = "open_clip_config.json with open_clip_model.safetensors (or *.bin, *.pth), or a checkpoint *.pt"

    def beginning(self, paths: Sequence[str]) -> str:
        """As of the others, and that of ``clipline-train``'s output, which has no manifest."""
        return "data" if CONFIG not in paths and f"data/{CONFIG}" in paths else ""

    def pick(self, paths: Sequence[str]) -> list[str]:
        top = [path for path in paths if "/" not in path]
        if CONFIG in top:
            # The weights once, tokenizer files and a fusion encoder if there are any; no optimizer, no logs.
            weights = in_order(top)
            texts = [path for path in top if path.endswith((".json", ".txt", ".model"))]
            fusion = [path for path in paths if path in ("fusion/config.json", "fusion/model.safetensors")]
            return sorted({*weights, *texts, *fusion}) if weights else []
        return top if len(paths) == 1 and top[0].endswith(ENDINGS) else []

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        weights = in_order([path for path in paths if "/" not in path]) or list(paths)
        shapes = read_shapes(store, weights[0])
        if CONFIG in paths:  # of a checkpoint alone the architecture is named where it is used
            model = read_model_config(store.read(CONFIG), store.locate(CONFIG))["model_cfg"]
            check_fits(model, shapes, store.locate(weights[0]))
        return {}


class TestSets(Contents):
    """Test sets in any form that is known, a folder each: see :mod:`infra.formats.testset`."""

    kind = "testsets"
    holds = ("testsets",)
    layout = "a folder for each set: WebDataset, Parquet, Arrow, images by class, or images with captions"

    sets: tuple[str, ...] = Field((), description="names of the sets that are wanted; none given: all")
    splits: tuple[str, ...] = Field(
        ("test",), description="splits that are wanted, of each set those there are", min_length=1
    )
    forms: tuple[Form, ...] = Field((), description="forms, with their options, that are tried before all others")

    def pick(self, paths: Sequence[str]) -> list[str]:
        found = find_sets(paths, self.splits, self.forms)
        there = {name for name, split in found if split in self.splits}
        if missing := sorted(set(self.sets) - set(there)):
            known = ", ".join(f"{name}/{split}" for name, split in found)
            splits = " or ".join(map(repr, self.splits))
            raise ConfigError(
                f"there is no test set {missing[0]!r} with split {splits}",
                expected=f"below {missing[0]}/: {', or '.join(form.layout for form in known_forms(self.forms))}",
                found=f"sets {known}" if found else "no test sets",
                fix=self._likely(missing[0], paths, there),
            )
        wanted = [(name, split) for name, split in found if name in (self.sets or there) and split in self.splits]
        return sorted({path for key in wanted for path in found[key][1]})

    def _likely(self, name: str, paths: Sequence[str], there: Collection[str]) -> str:
        """Return a fix for a set ``name`` that is not among those ``there``; "" if none suggests itself."""
        alone = find_sets([f"{name}/{path}" for path in paths], self.splits, self.forms)
        if any(own == name for own, _ in alone):
            return "give the folder above: this seems to be the set's own"
        return did_you_mean(name, there)

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        for (name, split), (form, files) in find_sets(paths, self.splits, self.forms).items():
            if split in self.splits:
                form.open(SetFiles.of(store, name, split, files))
        return {}


def test_sets(place: str, splits: Collection[str], forms: Sequence[Form] = ()) -> list[tuple[str, str]]:
    """Name and split of each test set in the folder ``place``, by the names of its files."""
    _, paths, _ = listed_data(place)
    return list(find_sets(paths, splits, forms))


class UrlList(Contents):
    """A list of URLs of images or pages, in one of the formats that the urls stage reads."""

    holds = ("url_list",)
    layout = f"*.{', *.'.join(get_args(Format))}"

    format: Format | None = Field(None, description="file format, where it is not clear from the file names")

    def pick(self, paths: Sequence[str]) -> list[str]:
        if len(paths) == 1:
            return list(paths)
        hidden = (".", "_")  # as Spark's own files
        visible = [path for path in paths if not path.rpartition("/")[2].startswith(hidden)]
        formats = {path: found for path in visible if (found := format_of(path))}
        picked = [path for path, found in formats.items() if self.format in (None, found)]
        if len(several := sorted({formats[path] for path in picked})) > 1:
            raise ConfigError("the URL list has several formats", found=", ".join(several), fix="set contents.format")
        return picked

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return {}  # the urls stage tells good lines from bad


class Archives(Contents):
    """Crawled pages in WARC, ARC or WAT files."""

    holds = ("pages",)
    layout = "*.warc, *.arc or *.wat, also compressed (*.gz, *.zst, *.lz4)"

    # What is taken is identified by content, so how it was chosen need not be.
    names: Runtime[tuple[str, ...]] = Field((), description="paths of the files that are wanted; none given: all")
    max_files: Runtime[int | None] = Field(None, gt=0, description="the first so many of them, by name")

    def pick(self, paths: Sequence[str]) -> list[str]:
        if missing := sorted(set(self.names) - set(paths)):
            raise ConfigError(f"there is no archive {missing[0]}", found=f"{len(missing)} of {len(self.names)} missing")
        wanted: Sequence[str] = self.names or [
            path for path in paths if re.search(r"(?i)\.(?:warc|arc|wat)(?:\.(?:gz|zst|lz4))?$", path)
        ]
        if not wanted and len(paths) == 1:
            wanted = paths  # one file, named by its path; its content tells what it is
        return sorted(wanted)[: self.max_files]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return {}  # damaged records are counted by the extract stage


class ArchiveList(Contents):
    """A list of the URLs of WARC or WAT files, one a line, as Common Crawl publishes them.

    The list is identified by content. What it names is on the web, as what is behind the URLs of a URL list.
    """

    holds = ("archive_list",)
    layout = f"*{', *'.join(LISTS)}"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return list(paths) if len(paths) == 1 else [path for path in paths if path.lower().endswith(LISTS)]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        rows = {}
        for path in paths:
            try:
                rows[path] = len(listed(store.read(path)))
            except DataError as error:
                place = store.locate(path)
                raise DataError(f"{place}: {error.message}", expected=error.expected, found=error.found) from None
        return rows


class Corpus(Contents):
    """Texts to count words in: articles, captions, queries."""

    holds = ("corpus",)
    layout = "*.parquet with a column of texts, *.txt with a text a line, or *.jsonl; not compressed"

    def pick(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if path.endswith((".parquet", ".txt", ".jsonl"))]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return parquet_rows(store, [path for path in paths if path.endswith(".parquet")], ())


class Metadata(Contents):
    """Lists: entries to balance by, words, hosts, ids. One file, or one for each language, ``de.txt``, ``en.txt``."""

    holds = ("metadata",)
    layout = "one *.txt, *.json or *.npy, or a *.txt or *.json named by each language"

    def pick(self, paths: Sequence[str]) -> list[str]:
        found = [path for path in paths if path.endswith((".txt", ".json", ".npy"))]
        by_language = [path for path in found if re.fullmatch(r"[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?\.(?:txt|json)", path)]
        return found if len(found) == 1 or len(by_language) == len(found) else []

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        return {}


def parquet_rows(store: Store, paths: Sequence[str], columns: Collection[str]) -> dict[str, int]:
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


def _check_tars(store: Store, paths: Sequence[str], members: Sequence[str] = IMAGE_EXTENSIONS) -> None:
    """Raise DataError unless each tar begins with a sample that has one of ``members``; stages read whole tars."""
    for path in paths:
        with store.open(path) as source:
            first = next(read_samples(source, place=store.locate(path)), None)  # None: all of the shard's images failed
        if first is not None and not set(first) & set(members):
            raise DataError(
                f"{store.locate(path)} holds no images",
                expected=f"samples with a member *.{', *.'.join(members)}",
                found=f"sample {first['__key__']!r} with {', '.join(sorted(set(first) - {'__key__'})[:5])}",
                fix=dotted_name_hint(first),
            )
