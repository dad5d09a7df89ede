"""Progress of a download: rates, shares of outcomes, and an end to a stage that only fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from infra.run.context import Context
from infra.run.manifest import ShardRecord
from pipelines.download.config import Config
from pipelines.layout import funnel
from pipelines.web.health import SuccessFloor

__all__ = ["Progress"]

_FLOOR_ROWS = 1000  # rows before the share of successes is judged
_MOST_HOSTS = 10_000  # hosts counted before the rarest are forgotten


class Progress:
    """The stage's progress line and curves: rates, the share of each outcome, the time left.

    Ends a stage of which too few rows succeed (:class:`SuccessFloor`).
    """

    def __init__(self, config: Config, context: Context, rows: int, done: Iterable[ShardRecord]) -> None:
        self._context, self._rows = context, rows
        self._floor = SuccessFloor(config.min_success_share, _FLOOR_ROWS)
        self._funnel = funnel("pairs", [])
        for record in done:
            self._funnel += record.funnel or funnel("pairs", [])
        self._before = self._funnel  # rates leave out what an earlier attempt did
        self._hosts: Counter[str] = Counter()
        self._bytes = 0
        self._start = time.monotonic()

    def add(self, record: ShardRecord) -> dict[str, float | str]:
        """Count a finished shard, send its point of each curve, and return what the progress line shows."""
        one = record.funnel or funnel("pairs", [])
        self._funnel += one
        self._bytes += record.facts["bytes"]
        self._hosts.update(record.facts["failing_hosts"])
        if len(self._hosts) > _MOST_HOSTS:
            self._hosts = Counter(dict(self._hosts.most_common(1000)))
        # Too few successes end the stage here.
        self._floor.add_shard(self._context.ledger, record.shard, one.kept, one.dropped, record.facts["failing_hosts"])
        # A point of each curve.
        rows = self._funnel.entered
        seconds = max(time.monotonic() - self._start, 1e-3)
        shares = {"success": self._funnel.kept, **self._funnel.dropped}
        rates = {
            "images_per_s": (self._funnel.kept - self._before.kept) / seconds,
            "MB_per_s": self._bytes / 1e6 / seconds,
        }
        curves = {f"share/{name}": count / rows for name, count in shares.items()}
        left = {"eta_s": (self._rows - rows) * seconds / max(rows - self._before.entered, 1)}
        self._context.metrics(curves | rates | left, step=rows)
        # The line: the same numbers, the most frequent errors and the worst hosts.
        frequent = Counter(self._funnel.dropped).most_common(2)
        errors = ", ".join(f"{name} {count / rows:.0%}" for name, count in frequent)
        hosts = ", ".join(f"{host} {count}" for host, count in self._hosts.most_common(2))
        texts = {"errors": errors or "none"} | ({"at": hosts} if hosts else {})
        return {"success": f"{self._funnel.kept / rows:.0%}", **rates, **left, **texts}
