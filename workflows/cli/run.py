"""The commands ``run``, which runs a recipe, and ``plan``, which says what would run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from infra.cluster.head import TOKEN, WANTS_TOKEN
from infra.errors import CliplineError, redact
from infra.extras import install
from infra.store import Store, open_store
from infra.tracking import Address
from workflows.cli import result
from workflows.cli.console import Watcher, column, print_json
from workflows.cli.doctor import ray_cluster
from workflows.cli.options import Execution, Json, RecipeName, Request, Requested, grouped
from workflows.cli.terminal import stderr, stdout
from workflows.run.plan import Plan, make_plan
from workflows.run.records import RunRecord
from workflows.stage import Workflow

if TYPE_CHECKING:
    from workflows.run.runner import Outcome

__all__ = ["carry_out", "check_ready", "execute", "plan", "run"]


@grouped
def run(recipe: RecipeName, request: Requested, execution: Execution, as_json: Json = False) -> None:
    """Run a recipe. Finished stages are not repeated; interrupted ones continue."""
    found, workflow = request.build(recipe)
    record = RunRecord.of(found.recorded_as(recipe), request.settings, workflow, request.selection)
    execute(record, workflow, request, execution, as_json)


@grouped
def plan(recipe: RecipeName, request: Requested, as_json: Json = False) -> None:
    """Show for each stage whether it is cached or will run, and why, down to the field that changed."""
    _, workflow = request.build(recipe)
    made = make_plan(workflow, open_store(request.root), request.selection)
    if as_json:
        print_json(_plan_rows(made))
        return
    out, width = stdout(), column(step.stage.name for step in made)
    marks = {"cached": ("cached", "dim"), "run": ("will run", "bold yellow"), "left": ("left out", "dim")}
    lines = Text()
    for step in made:
        word, style = marks[step.action]
        ways = "--rerun-drift runs it again, clipline accept-drift takes it as it is"
        drift = f"source has changed since: {_some(step.drifted)} ({ways})" if step.drifted else ""
        taken = f"accepted changes: {_some(step.accepted)}" if step.accepted else ""
        why = "; ".join(filter(None, (*step.why, *((drift, taken) if step.action == "cached" else ()))))
        lines.append(f"{step.stage.name:<{width}}").append(f"{word:<10}", style).append(f"{why}\n")
    out.print(lines, end="")
    out.print(f"{len(made.to_run)} of {len(made.steps)} stages would run.")
    if extras := sorted({extra for step in made.to_run for extra in step.lacking}):
        out.print(f"They need what is not installed here: {install(extras)}", style="yellow", markup=False)


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:3]) + (" ..." if len(found) > 3 else "")


def _plan_rows(made: Plan) -> list[dict[str, Any]]:
    return [
        {
            "stage": step.stage.name,
            "action": step.action,
            "why": step.why,
            "digest": step.stage.digest,
            "folder": step.stage.folder,
            "drifted": sorted(step.drifted),
            "accepted": step.accepted,
            "progress": step.progress,
            "shards_done": step.shards_done,
            "lacking": step.lacking,
        }
        for step in made
    ]


def execute(
    record: RunRecord, workflow: Workflow, request: Request, execution: dict[str, Any], as_json: bool = False
) -> None:
    """Plan and run, with progress on stderr and the result on stdout. Exits with the outcome's code."""
    root, err = open_store(request.root), stderr()
    made = make_plan(workflow, root, request.selection)
    if not made.to_run and not record.left_open(root):
        err.print(f"{record.run}: nothing to do, every stage is done.", style="green")
        result.show(record, root, stdout(), as_json=as_json)
        return
    check_ready([made])
    err.print(
        f"{record.run}: {len(made.to_run)} of {len(made.steps)} stages to run, below {redact(root.url)}", markup=False
    )
    _carry_out(made, root, record, execution, as_json)


def check_ready(plans: Sequence[Plan]) -> None:
    """Raise CliplineError if the plans need what is not installed, or no cluster answers at RAY_ADDRESS.

    Ray would try for 15 minutes and ignore Ctrl-C.
    """
    if not os.environ.get("RAY_ADDRESS"):  # a cluster's nodes may have what this machine has not
        for made in plans:
            made.check_installed()
    ray = ray_cluster()
    if ray.verdict == "bad":
        raise CliplineError(
            "no Ray cluster can be joined at RAY_ADDRESS",
            found=ray.detail,
            fix=TOKEN if WANTS_TOKEN in ray.detail else "start it, or unset RAY_ADDRESS to start one here",
        )


def _carry_out(made: Plan, root: Store, record: RunRecord, execution: dict[str, Any], as_json: bool) -> None:
    err = stderr()
    (outcome,) = carry_out([(made, record)], root, execution)
    if outcome.error is not None:
        err.print(str(outcome.error), style="red" if outcome.status == "failed" else "yellow", markup=False)
        if outcome.status == "preempted":
            err.print(f"clipline resume {record.run} continues.")
        raise typer.Exit(outcome.exit_code)
    result.show(record, root, stdout(), as_json=as_json)
    if not outcome.tracked:
        err.print(f"MLflow is missing some events; clipline sync {record.run} sends them.", style="yellow")
    if not as_json:
        result.show_address(Address.find(root), outcome.page, stdout())


def carry_out(
    runs: Sequence[tuple[Plan, RunRecord]], root: Store, execution: dict[str, Any], sweep: str = ""
) -> list[Outcome]:
    """Run the plans together, with progress on stderr."""
    from workflows.run import runner  # loads Ray

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    names = [step.stage.name + "/123456" * (len(runs) > 1) for made, _ in runs for step in made]
    # What libraries and services print goes to stderr: stdout is data only.
    with redirect_stdout(sys.stderr), Watcher(stderr(), names).live() as watch:
        return runner.run_together(runs, root, runner.Options(**execution), watch, sweep)
