"""Copying an artifact or a run to another root, with all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from infra.errors import DataError, UsageError
from infra.run.lineage import artifact_with
from infra.run.manifest import Artifact
from infra.run.transfer import Shipment, copy_artifact, plan_copy
from infra.store import Store
from workflows.run.records import RunRecord

__all__ = ["shipments", "transfer", "within"]

_RECORD = "run.json"
_LOG = "journal.jsonl"
_PAGES = ("report.html", "funnel.png")


def shipments(source: Store, target: Store, artifacts: Iterable[Artifact], *, inputs: bool) -> list[Shipment]:
    """The artifacts, with ``inputs`` also all that they were made from, first what is needed first.

    Raises DataError for an input that is not there.
    """
    if source.url == target.url:
        raise UsageError("both roots are the same", found=source.url)
    found: dict[str, None] = {}

    def add(artifact: Artifact) -> None:
        for name, digest in artifact.manifest.identity.get("inputs", {}).items() if inputs else ():
            upstream = artifact_with(source, digest)
            if upstream is None:
                raise DataError(
                    f"input {name} of {artifact.manifest.name} is not below {source.url}",
                    fix="without --inputs the artifact goes alone",
                )
            add(upstream)
        found.setdefault(f"artifacts/{artifact.manifest.stage}/{artifact.manifest.digest[:16]}")

    for artifact in artifacts:
        add(artifact)
    return [plan_copy(source, target, folder) for folder in found]


def within(planned: Sequence[Shipment], max_bytes: int | None) -> None:
    """Raise UsageError if more than ``max_bytes`` would be copied."""
    left = sum(one.bytes_left for one in planned)
    if max_bytes is not None and left > max_bytes:
        raise UsageError(
            "that is more than --max-bytes allows; nothing was copied",
            expected=f"at most {max_bytes:,} bytes",
            found=f"{left:,} bytes in {sum(not one.there for one in planned)} artifacts",
        )


def transfer(
    source: Store,
    target: Store,
    planned: Sequence[Shipment],
    record: RunRecord | None,
    copied: Callable[[Shipment, int], None],
) -> None:
    """Copy what is planned, and last the record of the run, unless the target has one: then it would be another's."""
    for one in planned:
        copy_artifact(source, target, one.folder, lambda size, one=one: copied(one, size))  # type: ignore[misc]
    if record is None:
        return
    here, there = (root.child(f"runs/{record.run}") for root in (source, target))
    if there.exists(_RECORD):
        return
    log, _ = here.read_appended(_LOG)
    if log and not there.read_appended(_LOG)[0]:
        there.append(_LOG, log)
    for path, data in here.read_there(_PAGES).items():
        there.create(path, data)
    if record.copy_path:  # the recipe of a run that was submitted
        target.create(record.copy_path, source.read(record.copy_path))
    there.create(_RECORD, here.read(_RECORD))
