"""Lists of words and phrases: entries to balance by, and what rules look for."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from infra.errors import DataError
from infra.run.manifest import Artifact, File
from pipelines.curate.balance.config import Config
from pipelines.curate.balance.matching import Entries
from pipelines.curate.captions import ALL

__all__ = ["given_entries", "read_entries", "read_lists"]


def given_entries(config: Config, metadata: Artifact | None) -> Entries | None:
    """The user's entries, distinct and sorted, so that equal lists give equal results; None if there are none given.

    From ``config.metadata`` or the artifact ``metadata``. Raises DataError for a list without an entry.
    """
    if metadata is not None:
        given = read_lists(metadata, config.by_language)
    elif config.metadata is not None:
        given = {ALL: list(config.metadata)}
    else:
        return None
    entries = {language: sorted({" ".join(line.split()) for line in lines} - {""}) for language, lines in given.items()}
    if not any(entries.values()):
        raise DataError("the metadata holds no entry", expected="a word or phrase a line", found=repr(given)[:200])
    return entries


def read_lists(metadata: Artifact, by_language: bool) -> dict[str, list[str]]:
    """The lists of an artifact by language, or its one list as ALL's."""
    return _read_by_language(metadata) if by_language else {ALL: read_entries(metadata)}


def read_entries(metadata: Artifact) -> list[str]:
    """The lines of a text file, or the items of a JSON list such as MetaCLIP's."""
    files = _lists(metadata)
    if len(files) != 1:
        found = ", ".join(file.path for file in files[:5]) or "no files"
        raise DataError("metadata must be one file", expected="*.txt with an entry a line, or *.json", found=found)
    entries = _read(metadata, files[0].path)
    if not _is_list(entries):
        raise DataError(f"metadata {files[0].path} is not a list of entries", expected='["red", "New York", ...]')
    return entries


def _read_by_language(metadata: Artifact) -> dict[str, list[str]]:
    """The entries of files named by their language, de.txt, or of one JSON object; ALL's of any one other file."""
    files = [file.path for file in _lists(metadata)]
    if len(files) == 1:
        found = _read(metadata, files[0])
        by_language = found if isinstance(found, dict) else {ALL: found}
    else:
        by_language = {PurePosixPath(path).stem: _read(metadata, path) for path in files}
    if wrong := [language for language, entries in by_language.items() if not _is_list(entries)]:
        raise DataError(
            f"the metadata of {wrong[0] or files[0]!r} is not a list of entries",
            expected='a list a file, de.txt, en.txt, ..., or {"de": ["rot", ...], "en": ["red", "New York", ...]}',
        )
    return by_language


def _lists(metadata: Artifact) -> list[File]:
    """Return the files with lists, without the table of counts of the entries stage."""
    return [file for file in metadata.files("data/") if not file.path.endswith(".parquet")]


def _read(metadata: Artifact, path: str) -> Any:  # noqa: ANN401 - what a JSON file may hold
    try:
        text = metadata.read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"metadata {path} is not text", expected="UTF-8", found=str(error)) from error
    if not path.endswith(".json"):
        return text.splitlines()
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"metadata {path} is not JSON", found=str(error)) from error


def _is_list(entries: Any) -> TypeGuard[list[str]]:  # noqa: ANN401
    return isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)
