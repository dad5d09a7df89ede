"""A run whose journal a tracker follows, without the stages."""

from __future__ import annotations

import json
import threading
import time

from infra.events import Event, RunFinished, RunStarted, StageCached, StageFinished, StageStarted
from infra.run.context import Context
from infra.run.manifest import MANIFEST
from infra.store import LocalStore
from infra.tracking import Address, Tracker

__all__ = ["MODEL", "Run", "curve", "until"]

MODEL = {"data/open_clip_config.json": b"{}", "data/open_clip_model.safetensors": b"weights"}


class Run:
    """A run's folder and journal, and artifacts to speak of in it."""

    def __init__(self, root, name: str) -> None:
        self.root, self.name = LocalStore(root), name
        self.folder = self.root.child(f"runs/{name}")
        self.events: list[Event] = []

    def read(self, start: int):
        return self.events[start:], len(self.events)

    def add(self, kind: type[Event], **fields) -> None:
        self.events.append(kind(time=1700000000.0 + len(self.events), **fields))

    def begin(self, settings="", **views) -> None:
        self.add(RunStarted, run=self.name, recipe="toy.py", settings=settings, commit="abc123", **views)

    def end(self, status: str) -> None:
        self.add(RunFinished, run=self.name, status=status, exit_code=0, seconds=3.0)

    def start(self, stage: str, config=None, forced=False) -> None:
        self.add(StageStarted, stage=stage, attempt=1, digest="d" * 64, config=config or {"size": 3}, forced=forced)

    def finish(
        self,
        stage: str,
        *,
        write=None,
        metrics=None,
        funnel=None,
        inputs=None,
        config=None,
        cached=False,
        made_of=None,
        facts=None,
        digest="d" * 64,
    ) -> str:
        """Commit an artifact and say so. ``made_of``: digests of its inputs."""
        folder = f"artifacts/{stage}/{digest[:16]}"
        if not self.root.exists(f"{folder}/{MANIFEST}"):
            identity = {"stage": stage, "code_version": 1, "config": config or {"size": 3}, "inputs": made_of or {}}
            context = Context(
                self.root.child(folder), stage=stage, digest=digest, identity=identity, config=config or {"size": 3}
            )
            for path, data in (write or {}).items():
                context.output.write(path, data, rows=2)
            manifest = context.finish(metrics=metrics, funnel=funnel, facts=facts)
            context.store.write(MANIFEST, manifest.to_bytes())
        if cached:
            self.add(StageCached, stage=stage, folder=folder, inputs=inputs or {})
        else:
            self.add(StageFinished, stage=stage, folder=folder, inputs=inputs or {}, seconds=1.5, attempt=1)
        return folder

    def tracker(self, address: Address) -> Tracker:
        tracker = Tracker(address, self.name, self.root, self.folder, self.read)
        tracker.INTERVAL_S = 0.02
        return tracker

    def send(self, address: Address) -> Tracker:
        tracker = self.tracker(address)
        tracker.start()
        assert tracker.close(60), tracker.degraded
        return tracker

    def sent(self) -> int:
        """Number of events that were sent."""
        return int(json.loads(self.folder.read(Tracker.PATH))["position"]) if self.folder.exists(Tracker.PATH) else 0

    def forget(self) -> None:
        """As if killed before it could note what was sent."""
        self.folder.delete(Tracker.PATH)


def curve(client, page, key):
    return [(point.step, point.value) for point in client.get_metric_history(page.info.run_id, key)]


def until(condition) -> None:
    """Wait for the tracker's thread."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
