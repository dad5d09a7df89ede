"""The typer application and its entry point.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 73 another run holds the lease, 75 stopped but resumable,
130/143 ended by a signal.
"""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from infra.errors import CliplineError, StorageError
from workflows.cli import cluster, run
from workflows.cli import gc as garbage
from workflows.cli.drift import accept_drift
from workflows.cli.help import ABOUT, EXIT_CODES, epilog
from workflows.cli.look.compare import compare
from workflows.cli.look.diff import diff
from workflows.cli.look.ls import ls
from workflows.cli.look.recipes import fields, recipes
from workflows.cli.look.search import search
from workflows.cli.look.show import show
from workflows.cli.look.status import logs, report, status
from workflows.cli.look.trace import trace
from workflows.cli.stop import stop
from workflows.cli.submit import submit
from workflows.cli.sweep import sweep
from workflows.cli.tasks import tasks
from workflows.cli.terminal import stderr
from workflows.cli.transfer import export_to, import_from

__all__ = ["app", "main", "reporting"]

_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Run": {
        "run": run.run,
        "resume": run.resume,
        "stop": stop,
        "submit": submit,
        "sweep": sweep,
        "sync": cluster.sync,
        "gc": garbage.gc,
        "accept-drift": accept_drift,
        "export": export_to,
        "import": import_from,
    },
    "Look (writes nothing)": {
        "plan": run.plan,
        "status": status,
        "ls": ls,
        "show": show,
        "diff": diff,
        "compare": compare,
        "search": search,
        "trace": trace,
        "logs": logs,
        "report": report,
    },
    "Help": {"recipes": recipes, "fields": fields, "tasks": tasks, "doctor": cluster.doctor},
}

# What the operating system answers where results cannot be stored. Any other OSError is a bug and keeps its trace.
_CANNOT_STORE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    name="clipline",
    help=ABOUT,
    epilog=f"{epilog('clipline')}\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for _panel, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel, epilog=epilog(_name))(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipline {version('clipline')}")
        raise typer.Exit


@app.callback()
def clipline(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    reporting(app)


def reporting(work: Callable[[], object]) -> None:
    """Do the work of a process; print an expected error as one message and exit with its code."""
    try:
        work()
    except CliplineError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in _CANNOT_STORE:
            raise
        fix = "another --root; clipline doctor checks it"
        _fail(StorageError(f"cannot use {error.filename}", found=error.strerror or "", fix=fix))
    finally:
        # Or Python's exit would search all that was imported for cycles: with MLflow most of a second. Where torch has
        # loaded triton, what is frozen would be told to the user as hundreds of leaks.
        if "triton" not in sys.modules:
            gc.freeze()


def _fail(error: CliplineError) -> None:
    stderr().print(str(error), style="red", markup=False)
    sys.exit(error.exit_code)
