"""Progress of a run on stderr: a live table on a terminal, plain lines elsewhere. And JSON for programs, on stdout."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.errors import redact
from infra.events import (
    Collapsed,
    Custom,
    Event,
    Log,
    Progress,
    RunFinished,
    ShardRetry,
    StageCached,
    StageFailed,
    StageFinished,
    StageStarted,
    TrainRetry,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["Watcher", "column", "detail", "print_json", "seconds", "size", "strict"]

_EVERY_S = 10.0  # between plain progress lines of one stage


def seconds(value: float) -> str:
    """Format a duration: ``4.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size(number: float) -> str:
    """Format bytes: ``512 B``, ``4.2 MB``, ``1.3 TB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} PB"


def column(names: Iterable[str]) -> int:
    """Width of a column of stage names in characters, with the space behind it."""
    return max([12, *(len(name) + 2 for name in names)])


def print_json(value: object) -> None:
    """Print ``value`` as JSON on stdout."""
    sys.stdout.write(json.dumps(strict(value), indent=2, default=str) + "\n")


def strict(value: object) -> object:
    """Replace NaN and infinities, which Python writes and most readers of JSON refuse, by None."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Watcher:
    """Prints the events of a run whose stages are named ``stages``. Use within :meth:`live`."""

    def __init__(self, console: Console, stages: Iterable[str]) -> None:
        self._console, self._width = console, column(stages)
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._printed_at: dict[str, float] = {}  # the last plain progress line of each stage, monotonic

    @contextmanager
    def live(self) -> Iterator[Watcher]:
        """Show progress bars inside the block if the console is a terminal."""
        if not self._console.is_terminal:
            yield self
            return
        from rich import progress

        title = f"  {{task.description:<{self._width}}}"
        columns = (progress.BarColumn(24), progress.MofNCompleteColumn(), progress.TimeElapsedColumn())
        note = progress.TextColumn("{task.fields[note]}")
        with progress.Progress(title, *columns, note, console=self._console, transient=True) as bars:
            self._bars = bars
            yield self
        self._bars = None

    def __call__(self, events: list[Event]) -> None:
        for event in events:
            self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case StageCached():
                self._print(event.stage, "cached", "dim")
            case StageStarted():
                self._started(event)
            case Progress():
                self._progressed(event)
            case ShardRetry():
                self._print(event.stage, f"shard {event.shard} is tried again: {event.error}", "yellow")
            case Log() if event.level in ("WARNING", "ERROR", "CRITICAL"):
                self._print(event.stage, event.message, "yellow")
            case Collapsed():
                self._print(event.stage, f"{event.message}, at {event.samples:,} samples", "bold yellow")
            case StageFinished():
                self._finished(event)
            case StageFailed():
                self._failed(event)

    def _print(self, stage: str, text: str, style: str = "") -> None:
        self._console.print(
            f"  {stage:<{self._width}}{redact(text)}", style=style, highlight=False, markup=False, soft_wrap=True
        )

    def _started(self, event: StageStarted) -> None:
        attempt = f" (attempt {event.attempt})" if event.attempt > 1 else ""
        if self._bars is not None:
            self._tasks[event.stage] = self._bars.add_task(event.stage, total=None, note="")
        if self._bars is None or attempt:
            self._print(event.stage, f"started{attempt}: {'; '.join(event.why)}")

    def _progressed(self, event: Progress) -> None:
        stage, done, total = event.stage, event.done, event.total
        note = "  ".join(_number(key, value) for key, value in event.numbers.items())
        if self._bars is not None and stage in self._tasks:
            self._bars.update(self._tasks[stage], completed=done, total=total, note=note)
        elif self._bars is None and time.monotonic() - self._printed_at.get(stage, 0.0) > _EVERY_S:
            self._printed_at[stage] = time.monotonic()
            self._print(stage, f"{done}/{total}  {note}" if total else f"{done}  {note}")

    def _finished(self, event: StageFinished) -> None:
        stage = event.stage
        self._remove_bar(stage)
        self._print(stage, f"done in {seconds(event.seconds)}{_result(event)}", "green")
        funnel = event.funnel or {"entered": 0, "kept": 0}
        if funnel["entered"] and not funnel["kept"]:
            hint = f"clipline show {stage} says why; once fixed, --force {stage} runs it again"
            self._print(stage, f"nothing was kept: {hint}", "yellow")

    def _failed(self, event: StageFailed) -> None:
        self._remove_bar(event.stage)
        if event.preempted:
            self._print(event.stage, "stopped; what is committed is kept", "yellow")
        else:
            again = "; trying again" if event.will_retry else ""
            reason, _, _ = event.error.partition("\n")  # what was found and the fix are printed when the run ends
            self._print(event.stage, f"failed: {reason}{again}", "red")

    def _remove_bar(self, stage: str) -> None:
        if self._bars is not None and stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))


def detail(event: Event) -> str:
    """The last column of a line of ``clipline logs``."""
    match event:
        case StageStarted():
            return "; ".join(event.why)
        case StageFinished():
            return seconds(event.seconds)
        case StageFailed():
            return event.trace or event.error
        case Log() | Collapsed():
            return event.message
        case ShardRetry() | TrainRetry():
            return event.error
        case RunFinished():
            return event.status
        case Custom():
            return "  ".join(f"{key} {value}" for key, value in event.fields.items())
        case _:
            return ""


def _result(event: StageFinished) -> str:
    """The result of a finished stage for its line: the funnel, else the first metrics."""
    if funnel := event.funnel:
        return f": {funnel['kept']:,} of {funnel['entered']:,} {funnel['unit']} kept"
    metrics = {key: value for key, value in event.metrics.items() if not key.endswith(("_low", "_high"))}
    shown = [_number(key, value) for key, value in metrics.items()][:3]
    return f": {', '.join(shown)}" if shown else ""


def _number(key: str, value: object) -> str:
    """A named number: ``rows_per_s 1,234``."""
    if isinstance(value, float) and key == "eta_s":
        return f"eta {seconds(value)}"
    if isinstance(value, float):
        return f"{key} {value:,.0f}" if abs(value) >= 100 else f"{key} {value:.3g}"
    return f"{key} {value}"
