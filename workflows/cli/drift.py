"""The command ``accept-drift``: changes that leave artifacts as good as they were, accepted with a reason."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Annotated

import typer

from infra.errors import UsageError
from infra.store import open_store
from workflows.cli.console import column, print_json
from workflows.cli.options import Json, RecipeName, Request, Requested, grouped
from workflows.cli.terminal import stderr, stdout
from workflows.run.accepted import Change, accept
from workflows.run.plan import Step, make_plan

__all__ = ["accept_drift"]

Stages = Annotated[list[str] | None, typer.Option("--stage", metavar="STAGE", help="Only this stage. Repeatable.")]
Why = Annotated[
    str | None,
    typer.Option("--why", metavar="TEXT", help="Accept, for this reason, kept with the artifact."),
]
Inputs = Annotated[
    bool, typer.Option("--inputs", help="Accept also inputs that were rebuilt with other content: nothing runs again.")
]


@grouped
def accept_drift(
    recipe: RecipeName,
    request: Requested,
    stage: Stages = None,
    why: Why = None,
    inputs: Inputs = False,
    as_json: Json = False,
) -> None:
    """Accept that the source of cached stages has changed. Without `--why` only show what would be accepted."""
    root = open_store(request.root)
    _, workflow = request.build(recipe)
    for name in stage or ():
        workflow[name]  # raises UsageError for a name that is not there
    if why is not None and not why.strip():
        raise UsageError("--why is empty", expected="the reason, for those who ask later")
    steps = [step for step in make_plan(workflow, root, request.selection) if not stage or step.stage.name in stage]
    found = [(step, _changes(step, inputs)) for step in steps]
    found = [(step, changes) for step, changes in found if any(changes)]
    if why is not None:
        for step, (source, contents) in found:
            accept(root.child(step.stage.folder), _somebody(), why, source, contents)
    _show(found, request, accepted=why is not None, as_json=as_json)


def _changes(step: Step, inputs: bool) -> tuple[dict[str, Change], dict[str, Change]]:
    return dict(step.drifted), dict(step.rebuilt) if inputs else {}


def _show(
    found: list[tuple[Step, tuple[dict[str, Change], dict[str, Change]]]],
    request: Request,
    *,
    accepted: bool,
    as_json: bool,
) -> None:
    if as_json:
        rows = [
            {"stage": step.stage.name, "folder": step.stage.folder, "source": source, "inputs": inputs}
            for step, (source, inputs) in found
        ]
        print_json({"accepted": accepted, "changes": rows})
        return
    out, width = stdout(), column(step.stage.name for step, _ in found)
    for step, (source, inputs) in found:
        names = ", ".join((*sorted(source), *(f"input {name}" for name in sorted(inputs))))
        out.print(f"{step.stage.name:<{width}}{names}", markup=False)
    if not found:
        stderr().print("nothing has changed that is not accepted")
    elif not accepted:
        stderr().print("nothing is accepted yet: --why 'the reason' does", markup=False)


def _somebody() -> str:
    """The user and the machine, as far as they have names."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry in passwd, as in many containers
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
