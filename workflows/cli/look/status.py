"""Commands about one run: ``status``, ``logs``, ``report``."""

from __future__ import annotations

import json
import sys
import time
import webbrowser
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer

from infra.events import Event, Metrics, Progress
from infra.store import open_store
from workflows.cli.console import column, detail, print_json, seconds, strict
from workflows.cli.options import DEFAULT_ROOT, Json, Root, RunName
from workflows.cli.terminal import stdout
from workflows.report import summary
from workflows.run.journal import Journal, under_way
from workflows.run.records import find_run, run_states

__all__ = ["logs", "report", "status"]


def status(name: RunName = None, root: Root = DEFAULT_ROOT, as_json: Json = False) -> None:
    """Show the state of each stage of a run."""
    store = open_store(root)
    record = find_run(store, name)
    states = run_states(store, record)
    if as_json:
        print_json({"run": record.run, "stages": [state.as_dict() for state in states]})
        return
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
    name: RunName = None,
    stage: Annotated[str | None, typer.Option(help="Print only events of this stage.")] = None,
    root: Root = DEFAULT_ROOT,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Print the events of a run with their times, log messages and traces of failures."""
    store = open_store(root)
    record = find_run(store, name)
    width = column(planned.name for planned in record.stages)
    for event in _events(Journal(store.child(f"runs/{record.run}")), follow=follow):
        if stage and event.stage != stage:
            continue
        if as_json:
            sys.stdout.write(json.dumps(strict(event.to_json())) + "\n")
        elif not isinstance(event, (Progress, Metrics)):
            when = datetime.fromtimestamp(event.time).strftime("%H:%M:%S")
            sys.stdout.write(f"{when} {event.stage:<{width}} {event.kind:<15} {detail(event)}".rstrip() + "\n")


def _events(journal: Journal, *, follow: bool) -> Iterator[Event]:
    """The events of a run so far; ``follow``: and all that come until it has ended."""
    events, position = journal.read()
    yield from events
    while follow and under_way(events):
        sys.stdout.flush()
        time.sleep(1.0)
        more, position = journal.read(position)
        yield from more
        events += more


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
