"""The command ``resume``: continue a run or a sweep with what it was started with, here or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from infra.errors import UsageError
from infra.run.root import set_root
from infra.store import Store, open_store
from workflows.cli import sweep
from workflows.cli.options import DEFAULT_ROOT, Execution, Json, Request, Root, RunOrSweep, grouped
from workflows.cli.run import execute
from workflows.cli.submit import send
from workflows.recipe import load
from workflows.run.records import RunRecord
from workflows.run.sweep import SweepRecord, find_runs, find_sweep, plan_sweep
from workflows.submit.submission import Submission

__all__ = ["resume"]


@grouped
def resume(
    execution: Execution,
    name: RunOrSweep = None,
    root: Root = DEFAULT_ROOT,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Continue it as a job of the Ray cluster with this dashboard, not here."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Continue a stopped or failed run or sweep with the recipe, settings and selection it was started with."""
    store = open_store(root)
    set_root(store.url)  # absolute: the directory changes
    whole, records = find_sweep(store, name), find_runs(store, name)
    record = records[0]
    for one in records:
        one.check_whole()
    selection = replace(record.selection, force=())  # a forced stage that was begun is due anyway
    settings = whole.settings if whole else record.settings
    with _directory(record.directory), TemporaryDirectory(prefix="clipline-") as folder:
        recipe = record.recipe_file(store, Path(folder))
        if address:
            found, design = load(recipe), whole.design if whole else None
            submission = Submission.of(recipe, found, settings, store.url, execution, selection=selection, sweep=design)
            send(submission, found, address, as_json=as_json)
        elif whole:
            _resume_sweep(whole, records, recipe, store, execution, as_json)
        else:
            request = Request(settings, store.url, selection)
            workflow = request.build(recipe)[1]
            record.check_same(workflow)
            again = RunRecord.of(recipe, settings, workflow, selection).model_copy(update=record.origin)
            execute(again, workflow, request, execution, as_json)


def _resume_sweep(
    whole: SweepRecord, records: list[RunRecord], recipe: str, store: Store, execution: dict[str, Any], as_json: bool
) -> None:
    again = plan_sweep(load(recipe), recipe, whole.settings, whole.design)
    records[0].check_same(again.trials[0].workflow)
    if again.name != whole.sweep:
        raise UsageError(f"{whole.sweep} was started with another recipe", fix="repeat the command: a new sweep")
    origins = {record.run: record.origin for record in records}
    kept = replace(again, recipe=whole.recipe).with_records(
        lambda record: record.model_copy(update=origins.get(record.run, {}))
    )
    sweep.execute(kept, store, execution, as_json)


@contextmanager
def _directory(path: str) -> Iterator[None]:
    """Work in the directory that a run was started from: its settings may hold relative paths."""
    if not path or not Path(path).is_dir():
        yield
        return
    with chdir(path):
        yield
