"""A run's stages as metrics on Ray's own Prometheus endpoints, for the board in ``infra/deploy/grafana``.

Prometheus sees them as ``ray_clipline_...``, each with the labels ``run`` and ``stage``. They are of the moment: what a
run came to is in its manifests and in MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge

from infra.events import Event, Metrics, Progress, ShardRetry, StageCached, StageFailed, StageFinished, StageStarted

__all__ = ["Meters"]

_KEYS = ("run", "stage")


class Meters:
    """Metrics of the runs that this process carries out. Needs Ray's connection."""

    def __init__(self) -> None:
        self._running = Gauge("clipline_stage_running", "1 while an attempt of the stage works", _KEYS)
        self._done = Gauge("clipline_stage_done", "Shards, pages or samples that are done", _KEYS)
        self._total = Gauge("clipline_stage_total", "Shards, pages or samples there are, once known", _KEYS)
        self._numbers = Gauge("clipline_stage_number", "Rates and losses that the stage tells", (*_KEYS, "name"))
        self._rows = Gauge("clipline_stage_rows", "Rows at the end, kept or dropped by reason", (*_KEYS, "outcome"))
        self._attempts = Counter("clipline_stage_attempts", "Attempts of the stage that began", _KEYS)
        self._failures = Counter("clipline_stage_failures", "Attempts of the stage that failed", _KEYS)
        self._retries = Counter("clipline_shard_retries", "Attempts at a shard that failed and were repeated", _KEYS)

    def record(self, run: str, events: Sequence[Event]) -> None:
        """Take over what the events of a run tell."""
        for event in events:
            tags = {"run": run, "stage": event.stage}
            if isinstance(event, (StageStarted, StageFinished, StageFailed, StageCached)):
                self._running.set(float(isinstance(event, StageStarted)), tags)
            match event:
                case StageStarted():
                    self._attempts.inc(1.0, tags)
                case StageFailed(preempted=False):
                    self._failures.inc(1.0, tags)
                case StageFinished(funnel=dict(funnel)):
                    for outcome, count in {"kept": funnel["kept"], **funnel["dropped"]}.items():
                        self._rows.set(float(count), {**tags, "outcome": outcome})
                case Progress():
                    self._done.set(float(event.done), tags)
                    if event.total is not None:
                        self._total.set(float(event.total), tags)
                    self._tell(event.numbers, tags)
                case Metrics():
                    self._tell(event.values, tags)
                case ShardRetry():
                    self._retries.inc(1.0, tags)

    def _tell(self, numbers: dict[str, float | str] | dict[str, float], tags: dict[str, str]) -> None:
        for name, value in numbers.items():
            if isinstance(value, (int, float)):
                self._numbers.set(float(value), {**tags, "name": name})
