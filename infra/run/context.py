"""The interface of a running stage to its run: output folder, shard ledger, events, and the request to stop.

A shard's files are written first, its entry in the ledger last. Data goes below ``data/``, images for people below
``figures/``: img2dataset takes every ``*.json`` beside its shards for one of its own, so no other may be there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from infra import rows
from infra.errors import DataError, Preempted, UsageError, redact_values
from infra.events import Custom, Event, Metrics, Progress, is_built_in
from infra.run.ledger import Ledger
from infra.run.manifest import File, Funnel, Manifest, ShardRecord
from infra.run.pieces import Records
from infra.store import LocalStore, Store, open_store

__all__ = ["Context", "Ledger", "Output", "ShardOutput"]

log = logging.getLogger(__name__)


class Output:
    """Collects the files written through it, with size, sha256 and rows."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.files: list[File] = []

    @contextmanager
    def open(self, path: str, rows: int | None = None) -> Iterator[Any]:
        """Open a binary writer for ``path`` (relative to the artifact, e.g. ``data/00000.tar``), published on success.

        Raises DataError for a path written before: the rows written first would be lost.
        """
        if any(file.path == path for file in self.files):
            raise DataError(f"{path} was written already", fix="give every file its own name")
        with self.store.publish(path) as out:
            yield out
        self.files.append(File(path=path, bytes=out.size, sha256=out.sha256, rows=rows))

    def write(self, path: str, data: bytes, rows: int | None = None) -> None:
        with self.open(path, rows) as out:
            out.write(data)

    def write_table(self, path: str, table: Any) -> None:  # noqa: ANN401 - a pyarrow.Table; pyarrow loads late
        """Write ``table`` as zstd Parquet, byte-reproducible."""
        import pyarrow.parquet as pq

        with self.open(path, rows=table.num_rows) as out:
            pq.write_table(table, out, compression="zstd")


class ShardOutput(Output):
    """Output of one shard: its files, and the entry in the ledger that marks it as done."""

    def __init__(self, store: Store, shard: str) -> None:
        super().__init__(store)
        self.shard = shard

    def commit(self, funnel: Funnel | None = None, facts: dict[str, Any] | None = None) -> ShardRecord:
        """Enter the shard in the ledger. After this it is done."""
        record = ShardRecord(shard=self.shard, files=self.files, funnel=funnel, facts=facts or {})
        Ledger(self.store).commit(record)
        return record


class Context:
    """The third argument of every stage's ``run``. In a test, ``Context(tmp_path)`` is all a stage needs."""

    def __init__(
        self,
        folder: str | Store,
        *,
        stage: str = "stage",
        digest: str = "0" * 64,
        identity: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        location: str | None = None,
        provenance: dict[str, Any] | None = None,
        emit: Callable[[Event], None] | None = None,
        stopping: Callable[[], bool] | None = None,
        flush: Callable[[], None] | None = None,
    ) -> None:
        self.store = folder if isinstance(folder, Store) else open_store(folder)
        self.ledger = Ledger(self.store)
        self.output = Output(self.store)
        self.stage, self.digest, self.identity, self.provenance = stage, digest, identity or {}, provenance or {}
        self._config, self._location = config or {}, location
        self._emit = emit or (lambda event: None)
        self._stopping = stopping or (lambda: False)
        self._flush = flush or (lambda: None)

    def emit(self, kind: str, /, **fields: Any) -> None:  # noqa: ANN401 - JSON values
        """Send an event of the stage's own ``kind`` to the run's journal: a :class:`~infra.events.Custom` event.

        Raises UsageError for a kind or a field name that clipline uses itself.
        """
        if is_built_in(kind):
            raise UsageError(
                f"{kind!r} is a kind of event of clipline's own",
                expected="another name, or context.send with its class in infra.events",
            )
        if taken := {"event", "time", "stage", "custom"} & set(fields):
            raise UsageError(f"an event cannot have a field {min(taken)!r}: every event has one", fix="rename it")
        self.send(Custom(stage=self.stage, name=kind, fields=fields))

    def send(self, event: Event) -> None:
        """Send an event of clipline's own kinds to the run's journal."""
        self._emit(event)

    def flush(self) -> None:
        """Wait until all events have arrived at the driver; call it before a process ends."""
        self._flush()

    def progress(self, done: int, total: int | None, **numbers: float | str) -> None:
        """Report progress in the stage's own unit, with numbers to show after it (``images_per_s=...``)."""
        self.send(Progress(stage=self.stage, done=done, total=total, numbers=numbers))

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Add a point to each named curve; ``step`` is a count that never repeats, such as samples seen."""
        points = {name: float(value) for name, value in values.items()}
        self.send(Metrics(stage=self.stage, values=points, step=int(step)))

    def figure(self, name: str, png: bytes) -> None:
        """Keep a figure in the artifact as ``figures/{name}.png`` and show it in MLflow and the report.

        A second figure of the same name replaces the first.
        """
        self.output.files = [file for file in self.output.files if file.path != f"figures/{name}.png"]
        self.output.write(f"figures/{name}.png", png)

    @property
    def stopping(self) -> bool:
        """True once the run was asked to stop: save the state and raise :class:`Preempted`."""
        return self._stopping()

    def check(self) -> None:
        """Raise Preempted if the run was asked to stop."""
        if self._stopping():
            raise Preempted(f"{self.stage} was asked to stop", fix="run or resume again: committed work is kept")

    @property
    def local(self) -> bool:
        return isinstance(self.store, LocalStore)

    def finish(
        self,
        records: Sequence[ShardRecord] | None = None,
        *,
        funnel: Funnel | None = None,
        metrics: dict[str, float] | None = None,
        facts: dict[str, Any] | None = None,
        adopted: Sequence[File] = (),
    ) -> Manifest:
        """The manifest of all files: those of ``records`` (in that order), of ``output``, and ``adopted`` ones.

        The records of each thousand shards, and adopted files, are in pieces, which the manifest names. Without
        ``funnel`` the records' funnels are added up. The runner commits the manifest; a stage does not.
        """
        for folder in ("data", "figures", "ledger"):
            self.store.sweep(folder)
        found = records if isinstance(records, Records) else Records(self.store, rest=records or ())
        found = found.plus([ShardRecord(file.path, [file]) for file in adopted]).packed()
        own = [file.path for file in self.output.files]
        if twice := _twice(lambda: chain(found.paths(), [own]), large=bool(found.pieces)):
            raise DataError("two shards wrote the same file", found=", ".join(twice[:10]))
        facts = dict(facts or {})
        if errors := rows.total(found.plus([ShardRecord("", facts=facts)])):
            facts[rows.FACT] = errors
            log.warning("%d rows ended with errors nobody foresaw: %s", sum(errors.values()), rows.named(errors))
        return Manifest(
            stage=self.stage,
            digest=self.digest,
            identity=redact_values(self.identity),
            config=redact_values(self._config),
            location=self._location,
            pieces=found.pieces,
            files=[*(file for record in found.rest for file in record.files), *self.output.files],
            funnel=funnel or found.total(),
            metrics={name: float(value) for name, value in (metrics or {}).items()},
            facts=facts,
            provenance=self.provenance,
        )


def _twice(paths: Callable[[], Iterable[list[str]]], *, large: bool) -> list[str]:
    """The paths that occur more than once. ``large``: not all may be in memory; of each, eight bytes are."""
    suspects: set[int] | None = None
    if large:
        import numpy as np

        hashes = np.concatenate([np.array([*map(hash, some)], np.int64) for some in paths()])
        hashes.sort()
        suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not suspects:
            return []
    found = Counter(path for some in paths() for path in some if suspects is None or hash(path) in suspects)
    return sorted(path for path, count in found.items() if count > 1)
