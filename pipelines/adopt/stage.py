"""The adopt stage: check data somebody has and write a manifest of it. Nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping

from infra.errors import DataError
from infra.run.context import Context
from infra.run.manifest import Artifact, File, Manifest
from infra.store import open_store
from pipelines.adopt.config import Config

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """No inputs. Raises DataError for files that are not what they should be or that changed since planning."""
    store = open_store(config.location())
    rows = config.contents.check(store, list(config.files))
    for path, content in config.files.items():
        if store.size(path) != content.bytes:
            raise DataError(f"{store.locate(path)} changed while it was adopted", fix="run again")
    files = [
        File(path=f"data/{path}", bytes=found.bytes, sha256=found.sha256, etag=found.etag, rows=rows.get(path))
        for path, found in config.files.items()
    ]
    return context.finish(adopted=files, facts={"files": len(files), "bytes": sum(file.bytes for file in files)})
