"""Metrics of MLflow runs: every step of a curve once, however often its events are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric

from infra.tracking.client import allowed_name

__all__ = ["Curves"]

_BATCH = 1000  # the most metrics one request may hold


class Curves:
    """The curves of the MLflow runs of one client."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._last_step: dict[tuple[str, str], int] = {}  # by run and name
        self._new: set[str] = set()

    def begin(self, run: str) -> None:
        """Take note that ``run`` was made just now: MLflow need not be asked for its points."""
        self._new.add(run)

    def new_points(self, run: str, values: Mapping[str, float], step: int, time: float) -> list[Metric]:
        """The points of ``values`` at ``step`` that the run does not have yet; ``time`` in seconds since the epoch.

        MLflow appends and never overwrites, and a resumed stage repeats the steps since its checkpoint.
        """
        fresh = {key: value for key, value in values.items() if step > self._last(run, key)}
        self._last_step.update({(run, key): step for key in fresh})
        return [Metric(allowed_name(key), float(value), int(time * 1000), step) for key, value in fresh.items()]

    def points_at(self, run: str, values: Mapping[str, float], step: int, time: float) -> list[Metric]:
        """The points of ``values`` at ``step`` as the run has them; new ones at ``time`` where it has none."""
        found = []
        for key, value in values.items():
            history = self._client.get_metric_history(run, allowed_name(key))
            stamp = next((point.timestamp for point in history if point.step == step), int(time * 1000))
            found.append(Metric(allowed_name(key), float(value), stamp, step))
        return found

    def log(self, run: str, points: Sequence[Metric]) -> None:
        for start in range(0, len(points), _BATCH):
            self._client.log_batch(run, metrics=points[start : start + _BATCH])

    def _last(self, run: str, key: str) -> int:
        """The last step of a curve, read from MLflow once; -1 if there is none."""
        if (run, key) not in self._last_step:
            history = [] if run in self._new else self._client.get_metric_history(run, allowed_name(key))
            self._last_step[run, key] = max((point.step for point in history), default=-1)
        return self._last_step[run, key]
