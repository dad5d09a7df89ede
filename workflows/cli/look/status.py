"""Commands about one run, or the runs of a sweep: ``status``, ``logs``, ``report``."""

from __future__ import annotations

import json
import sys
import time
import webbrowser
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer

from infra.errors import UsageError
from infra.events import Event, Metrics, Progress
from infra.store import open_store
from workflows.cli.console import column, detail, print_json, seconds, strict
from workflows.cli.options import DEFAULT_ROOT, Json, Root, RunName, RunOrSweep
from workflows.cli.terminal import stderr, stdout
from workflows.report import summary
from workflows.run.journal import Journal, under_way
from workflows.run.look.listing import run_state
from workflows.run.records import RunRecord, StageState, find_run, run_states
from workflows.run.sweep import find_runs, find_sweep

__all__ = ["logs", "report", "status"]


def status(name: RunOrSweep = None, root: Root = DEFAULT_ROOT, as_json: Json = False) -> None:
    """Show the state of each stage of a run, or of each run of a sweep."""
    store = open_store(root)
    found = [(record, run_states(store, record)) for record in find_runs(store, name)]
    whole = {record.run: run_state(store, record) for record, _ in found}
    if as_json:
        runs = [
            {"run": record.run, "state": whole[record.run], "stages": [state.as_dict() for state in states]}
            for record, states in found
        ]
        print_json({"sweep": name, "runs": runs} if find_sweep(store, name) else runs[0])
        return
    for record, states in found:
        _show(record, states)
        if whole[record.run] == "interrupted":
            stderr().print(f"Its process ended without a word. clipline resume {record.run} continues.", markup=False)


def _show(record: RunRecord, states: list[StageState]) -> None:
    out, width = stdout(), column(state.name for state in states)
    out.print(record.run, style="bold")
    styles = {"done": "green", "running": "bold", "failed": "red", "interrupted": "yellow", "waiting": "dim"}
    for state in states:
        took = "cached" if state.cached else seconds(state.seconds) if state.seconds is not None else ""
        detail = "  ".join(filter(None, (took, state.progress, state.error)))
        out.print(f"  {state.name:<{width}}", end="")
        out.print(f"{state.state:<13}", style=styles[state.state], end="")
        out.print(detail, markup=False)


def logs(
    name: RunOrSweep = None,
    stage: Annotated[str | None, typer.Option(help="Print only events of this stage.")] = None,
    root: Root = DEFAULT_ROOT,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Print the events of a run, or of all runs of a sweep, with their times, log messages and traces of failures."""
    store = open_store(root)
    records = find_runs(store, name)
    stages = list(dict.fromkeys(planned.name for record in records for planned in record.stages))
    if stage and stage not in stages:
        raise UsageError(f"the run has no stage {stage!r}", expected=f"one of {', '.join(stages)}")
    width = column(stages)
    journals = {record.run: Journal(store.child(f"runs/{record.run}")) for record in records}
    several = find_sweep(store, name) is not None
    told: list[Event] = []  # what is printed with the latest time
    for run, event in _events(journals, follow=follow):
        if stage and event.stage != stage:
            continue
        if not as_json:  # a stage that runs share is in the journal of each
            told = [one for one in told if one.time == event.time]
            if event in told:
                continue
            told.append(event)
        if as_json:
            sys.stdout.write(json.dumps(strict(({"run": run} if several else {}) | event.to_json())) + "\n")
        elif not isinstance(event, (Progress, Metrics)):
            when = datetime.fromtimestamp(event.time).strftime("%H:%M:%S")
            sys.stdout.write(
                f"{when} {f'{run} ' if several else ''}{event.stage:<{width}} {event.kind:<15} {detail(event)}".rstrip()
                + "\n"
            )


def _events(journals: dict[str, Journal], *, follow: bool) -> Iterator[tuple[str, Event]]:
    """The events of runs so far, each with its run; ``follow``: and all that come until every run has ended."""
    past: dict[str, list[Event]] = {run: [] for run in journals}
    positions = dict.fromkeys(journals, 0)
    while True:
        new = []
        for run, journal in journals.items():
            events, positions[run] = journal.read(positions[run])
            past[run] += events
            new += [(run, event) for event in events]
        yield from sorted(new, key=lambda one: one[1].time) if len(journals) > 1 else new
        if not (follow and any(under_way(events) for events in past.values())):
            return
        sys.stdout.flush()
        time.sleep(1.0)


def report(
    name: RunName = None,
    root: Root = DEFAULT_ROOT,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report of a run, one self-contained HTML file, and print its path."""
    store = open_store(root)
    record = find_run(store, name)
    folder = store.child(f"runs/{record.run}")
    for path, data in summary.report_files(store, record):
        folder.write(path, data)
    sys.stdout.write(f"{folder.url}/report.html\n")
    if open_it:
        webbrowser.open(f"file://{folder.url}/report.html")
