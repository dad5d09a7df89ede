"""The command ``stop``: end a run, wherever it works, so that it can be continued."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from infra.errors import CliplineError, UsageError
from infra.events import RunFinished, StopRequested
from infra.store import open_store
from workflows.cli.options import DEFAULT_ROOT, Root, RunOrSweep
from workflows.cli.submit import job_server
from workflows.cli.terminal import stderr
from workflows.run.journal import Journal, under_way
from workflows.run.stopping import ask_to_stop
from workflows.run.sweep import find_runs

__all__ = ["stop"]

_HEARD_WITHIN_S = 30.0  # a run looks every 5 s, and its store may be slow


def stop(
    name: RunOrSweep = None,
    root: Root = DEFAULT_ROOT,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for the run to end.")] = 180.0,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", help="RUN is a job of this Ray dashboard, whose run may not have begun."),
    ] = None,
) -> None:
    """Ask a run to save its state and end, wherever it works, as SIGTERM does; of a sweep: all its runs."""
    if address:
        _stop_job(name, address)
        return
    store = open_store(root)
    records = find_runs(store, name)
    called = name if name and len(records) > 1 else records[0].run
    looked = [(one, *Journal(store.child(f"runs/{one.run}")).read()) for one in records]
    working = [(one, position) for one, events, position in looked if under_way(events)]
    if not working:
        stderr().print(f"{called} is not running", markup=False)
        return
    record, position = working[-1]  # of a sweep, whose runs are asked with any of them, the last to end
    folder = store.child(f"runs/{record.run}")
    journal = Journal(folder)
    ask_to_stop(folder)
    asked, heard = time.monotonic(), False
    while time.monotonic() < asked + (timeout if heard else min(timeout, _HEARD_WITHIN_S)):
        time.sleep(0.5)
        events, position = journal.read(position)
        heard = heard or any(isinstance(event, StopRequested) for event in events)
        ended = next((event for event in events if isinstance(event, RunFinished)), None)
        if ended is not None:
            more = "" if ended.status == "done" else f"; clipline resume {called} continues"
            stderr().print(f"{called} ended: {ended.status}{more}", markup=False)
            return
    by_force = f"ray job stop {record.job}" if record.job else "end its process"
    raise CliplineError(
        f"{called} was asked to stop and did not end" if heard else f"no process of {called} answers",
        found="" if heard else "it was killed, does not reach the root, or has only begun",
        fix=f"try again, or {by_force}; clipline resume {called} continues",
    )


def _stop_job(name: str | None, address: str) -> None:
    if name is None:
        raise UsageError("--address needs the name of a job", expected="the one that submit printed: clipline-...")
    job = job_server(address).stop(name)
    stderr().print(f"{job} was asked to stop; the same submit continues what has begun", markup=False)
