"""The adopt stage: check data somebody has and write a manifest of it. Nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping

from infra.errors import DataError
from infra.run.context import Context
from infra.run.manifest import Artifact, File, Manifest
from pipelines.adopt.config import Config

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """No inputs. Raises DataError for files that are not what they should be or that changed since planning."""
    store, real = config.store, config.real_path
    rows, funnel = config.contents.judge(store, [real(path) for path in config.files])
    found = store.facts([real(path) for path in config.files])
    for path, content in config.files.items():
        if found[real(path)] != (content.bytes, content.etag):
            raise DataError(f"{store.locate(real(path))} changed while it was adopted", fix="run again")
    files = [
        File(path=f"data/{path}", bytes=one.bytes, sha256=one.sha256, etag=one.etag, rows=rows.get(real(path)))
        for path, one in config.files.items()
    ]
    facts = {"files": len(files), "bytes": sum(file.bytes for file in files)}
    return context.finish(adopted=files, funnel=funnel, facts=facts)
