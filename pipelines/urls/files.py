"""Files of a URL list, as the adopt stage found them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Literal, get_args

from infra.errors import ConfigError, DataError
from infra.run.manifest import Artifact
from infra.store import Store

__all__ = ["Format", "ListFile", "format_of", "list_files"]

Format = Literal[
    "csv", "csv.gz", "tsv", "tsv.gz", "json", "json.gz", "jsonl", "jsonl.gz", "parquet", "txt", "txt.gz"
]  # fmt: skip


@dataclass(frozen=True)
class ListFile:
    """One file of a list: ``path`` in ``store``, of so many ``bytes``."""

    store: Store
    path: str
    format: Format
    bytes: int

    @property
    def name(self) -> str:
        """The path within the list."""
        return self.path.removeprefix("data/")

    @property
    def url(self) -> str:
        return self.store.locate(self.path)

    def open(self) -> BinaryIO:
        """Open the file. Raises DataError if its size has changed since it was adopted."""
        if (size := self.store.size(self.path)) != self.bytes:
            raise DataError(f"{self.url} changed while it was used", expected=f"{self.bytes} bytes", found=f"{size}")
        return self.store.open(self.path)


def format_of(name: str) -> Format | None:
    """The format that a file's name tells."""
    lower = name.lower().replace(".ndjson", ".jsonl")
    return next((form for form in get_args(Format) if lower.endswith(f".{form}")), None)


def list_files(lists: Iterable[Artifact], input_format: Format | None = None) -> list[ListFile]:
    """The files of ``lists``, in order. Raises ConfigError where the format of one is not clear."""
    files = []
    for artifact in lists:
        for file in artifact.files("data/"):
            form = input_format or format_of(file.path)
            if form is None:
                raise ConfigError(
                    f"the format of {artifact.url(file.path)} is not clear from its name",
                    expected=f"*.{', *.'.join(get_args(Format))}",
                    fix="set input_format",
                )
            files.append(ListFile(artifact.store, file.path, form, file.bytes))
    return files
