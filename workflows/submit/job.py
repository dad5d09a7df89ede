"""A submitted run or sweep on the cluster: see that what it needs is there, keep its recipe below the root, run.

``python -m workflows.submit.job`` in the folder that :meth:`~workflows.submit.submission.Submission.pack` packed.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import typer

from infra.cluster import connect
from infra.errors import CliplineError
from infra.run.root import set_root
from infra.store import Store, open_store
from workflows.cli import sweep
from workflows.cli.app import reporting
from workflows.cli.doctor import preflight
from workflows.cli.options import Request
from workflows.cli.run import execute
from workflows.cli.terminal import stderr
from workflows.recipe import Recipe, load
from workflows.run.records import RunRecord
from workflows.run.sweep import plan_sweep
from workflows.submit import versions
from workflows.submit.nodes import differing_nodes
from workflows.submit.submission import Submission

__all__ = ["main"]


def main() -> None:
    """Run the submission of the present folder. Exits as ``clipline run`` or ``clipline sweep`` does."""
    submission = Submission.read()
    root = open_store(submission.root)
    if not submission.other_versions:
        _check_nodes()
    _preflight(root)
    if submission.sweep:
        set_root(submission.root)
        recipe = load(submission.recipe)
        whole = plan_sweep(recipe, submission.recipe, submission.settings, submission.sweep)
        sent = replace(whole, recipe=submission.given).with_records(partial(_sent, submission, recipe, root))
        sweep.execute(sent, root, submission.execution)
        return
    request = Request(submission.settings, submission.root, submission.selection)
    recipe, workflow = request.build(submission.recipe)
    record = RunRecord.of(submission.recipe, submission.settings, workflow, submission.selection)
    execute(_sent(submission, recipe, root, record), workflow, request, submission.execution)


def _sent(submission: Submission, recipe: Recipe, root: Store, record: RunRecord) -> RunRecord:
    """The record of a run that was sent here; a recipe's file is kept in the run's folder."""
    copy = f"runs/{record.run}/{recipe.path.name}" if submission.is_file else ""
    if copy:
        root.write(copy, recipe.path.read_bytes())
    job = os.environ.get("CLIPLINE_JOB", submission.name)
    return record.model_copy(update={"recipe": submission.given, "copy_path": copy, "job": job, "directory": ""})


def _preflight(root: Store) -> None:
    """Say in a line that the root and MLflow answer from here. Raises CliplineError before anything is written."""
    found = list(preflight(root))
    if bad := [check for check in found if check.verdict == "bad"]:
        raise CliplineError(
            "preflight: the cluster cannot run this",
            found="; ".join(f"{check.name}: {check.detail}" for check in bad),
            fix="the root and MLFLOW_TRACKING_URI are those of the machine that submits; secrets those of the cluster",
        )
    details = "; ".join(check.detail for check in found)
    stderr().print(f"preflight: Python {platform.python_version()}, Ray {version('ray')}; {details}", markup=False)


def _check_nodes() -> None:
    """Raise CliplineError if a node of the cluster has other packages than the machine that submitted."""
    with connect():
        found = differing_nodes(json.loads(Path(versions.FILE).read_text()))
    if found:
        raise CliplineError(
            "preflight: nodes of the cluster have other versions",
            found="; ".join(f"{node}: {', '.join(differ)}" for node, differ in found.items()),
            fix="install what constraints.txt says there, or submit with --other-versions",
        )


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    reporting(app)
