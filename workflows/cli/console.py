"""What a person sees while a run goes on: a live table on a terminal, plain lines anywhere else. Goes to stderr.

And JSON for programs, which goes to stdout.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.run.context import Event

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["Watcher", "column", "print_json", "seconds", "strict"]

_EVERY_S = 10.0  # between plain progress lines of one stage


def seconds(value: float) -> str:
    """A duration for people: ``4.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def column(names: Iterable[str]) -> int:
    """How wide a column of stages' names is, with the space behind it."""
    return max([12, *(len(name) + 2 for name in names)])


def print_json(value: object) -> None:
    """``value`` on stdout, for programs."""
    sys.stdout.write(json.dumps(strict(value), indent=2, default=str) + "\n")


def strict(value: object) -> object:
    """``value`` without the NaN and Infinity that Python writes and most readers of JSON refuse: they become null."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Watcher:
    """Listens to the events of a run of the ``stages`` named. Use within :meth:`live`."""

    def __init__(self, console: Console, stages: Iterable[str]) -> None:
        self._console, self._width = console, column(stages)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    @contextmanager
    def live(self) -> Iterator[Watcher]:
        if not self._console.is_terminal:
            yield self
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (f"  {{task.description:<{self._width}}}", BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console, transient=True) as progress:
            self._progress = progress
            yield self
        self._progress = None

    def __call__(self, events: list[Event]) -> None:
        for event in events:
            if handle := getattr(self, f"_on_{event['event']}", None):
                handle(event)

    def _say(self, stage: str, text: str, style: str = "") -> None:
        self._console.print(
            f"  {stage:<{self._width}}{text}", style=style, highlight=False, markup=False, soft_wrap=True
        )

    def _on_stage_cached(self, event: Event) -> None:
        self._say(event["stage"], "cached", "dim")

    def _on_stage_started(self, event: Event) -> None:
        attempt = f" (attempt {event['attempt']})" if event["attempt"] > 1 else ""
        if self._progress is not None:
            self._tasks[event["stage"]] = self._progress.add_task(event["stage"], total=None, note="")
        if self._progress is None or attempt:
            self._say(event["stage"], f"started{attempt}: {'; '.join(event['why'])}")

    def _on_progress(self, event: Event) -> None:
        stage, done, total = event["stage"], event["done"], event["total"]
        standard = ("event", "stage", "time", "done", "total")
        note = "  ".join(_shown(key, value) for key, value in event.items() if key not in standard)
        if self._progress is not None and stage in self._tasks:
            self._progress.update(self._tasks[stage], completed=done, total=total, note=note)
        elif self._progress is None and time.monotonic() - self._said.get(stage, 0.0) > _EVERY_S:
            self._said[stage] = time.monotonic()
            self._say(stage, f"{done}/{total}  {note}" if total else f"{done}  {note}")

    def _on_shard_retry(self, event: Event) -> None:
        self._say(event["stage"], f"shard {event['shard']} is tried again: {event['error']}", "yellow")

    def _on_log(self, event: Event) -> None:
        if event["level"] in ("WARNING", "ERROR", "CRITICAL"):
            self._say(event["stage"], event["message"], "yellow")

    def _on_stage_finished(self, event: Event) -> None:
        self._drop(event["stage"])
        stage = event["stage"]
        self._say(stage, f"done in {seconds(event['seconds'])}{_result(event)}", "green")
        funnel: dict[str, Any] = event.get("funnel") or {"entered": 0, "kept": 0}
        if funnel["entered"] and not funnel["kept"]:
            hint = f"clipline show {stage} tells why; once mended, --force {stage} does it again"
            self._say(stage, f"nothing was kept: {hint}", "yellow")

    def _on_stage_failed(self, event: Event) -> None:
        self._drop(event["stage"])
        if event.get("preempted"):
            self._say(event["stage"], "stopped; what is committed is kept", "yellow")
        else:
            again = "; trying again" if event.get("will_retry") else ""
            reason, _, _ = event["error"].partition("\n")  # what was found and how to mend it is said at the end
            self._say(event["stage"], f"failed: {reason}{again}", "red")

    def _drop(self, stage: str) -> None:
        if self._progress is not None and stage in self._tasks:
            self._progress.remove_task(self._tasks.pop(stage))


def _result(event: Event) -> str:
    funnel: dict[str, Any] | None = event.get("funnel")
    if funnel:
        return f": {funnel['kept']:,} of {funnel['entered']:,} {funnel['unit']} kept"
    metrics = event.get("metrics", {})
    shown = [_shown(key, value) for key, value in metrics.items() if not key.endswith(("_low", "_high"))][:3]
    return f": {', '.join(shown)}" if shown else ""


def _shown(key: str, value: float | str) -> str:
    return f"eta {seconds(value)}" if key == "eta_s" and isinstance(value, float) else f"{key} {_number(value)}"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
