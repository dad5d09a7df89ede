"""The journal of a run: every event in order, as JSON lines in ``{root}/runs/{run}/journal.jsonl``.

The console, MLflow and the report's timings are projections of it. It decides nothing: manifests do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from infra.errors import redact_values
from infra.events import Event, RunFinished, RunStarted, from_json
from infra.store import Store

__all__ = ["Journal", "shared", "under_way"]

_OTHERS_S = 10.0


class Journal:
    """Appends and reads the events of one run; ``store`` is the run's folder."""

    PATH = "journal.jsonl"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._appended, self._followed, self._looked_s = 0, (-1, 0), 0.0

    def append(self, events: list[Event]) -> None:
        """Add events; values that look like secrets are masked."""
        if events:
            # A newline first: a line cut short by a crash must not swallow the next one.
            lines = "".join(f"\n{json.dumps(redact_values(event.to_json()), default=_json_value)}" for event in events)
            self._store.append(self.PATH, lines.encode() + b"\n")
            self._appended += 1

    def read(self, start: int = 0) -> tuple[list[Event], int]:
        """The events since position ``start`` (0: all), and the position after them."""
        data, position = self._store.read_appended(self.PATH, start)
        return list(_parse(data)), position

    def follow(self, start: int) -> tuple[list[Event], int]:
        """As :meth:`read`, but what only others append may come ten seconds late: a bucket is asked less often."""
        appended = self._appended
        if (appended, start) == self._followed and time.monotonic() < self._looked_s + _OTHERS_S:
            return [], start
        events, position = self.read(start)
        self._followed, self._looked_s = (appended, position), time.monotonic()
        return events, position


def under_way(events: Iterable[Event]) -> bool:
    """True if a run with these events has begun and not ended since; a killed one leaves no trace of its end."""
    began = False
    for event in events:
        if isinstance(event, (RunStarted, RunFinished)):
            began = isinstance(event, RunStarted)
    return began


def shared(events: Sequence[Event], started: RunStarted) -> bool:
    """True if the driver that ``started`` is not the run's only one: another was at it then, or began since."""
    begun = [index for index, event in enumerate(events) if isinstance(event, RunStarted)]
    ours = [index for index in begun if events[index].time == started.time]
    return not ours or ours != begun[-1:] or under_way(events[: ours[0]])


def _json_value(value: object) -> Any:  # noqa: ANN401 - JSON
    """A JSON value for an object that JSON has no form for, such as a numpy number or a path."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "shape", None) == () else redact_values(str(value))


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.splitlines():
        try:
            values: Any = json.loads(line) if line else None
        except ValueError:  # cut short by a crash
            continue
        if isinstance(values, dict) and "event" in values:
            yield from_json(values)
