"""The typer application and its entry point.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 73 another run holds the lease, 75 stopped but resumable,
130/143 ended by a signal.
"""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from infra.errors import CliplineError, StorageError
from infra.garbage import few_collections
from workflows.cli.help import ABOUT, EXIT_CODES, epilog
from workflows.cli.terminal import stderr

__all__ = ["app", "main", "reporting"]

# Each is a function of its name, or of the name behind a colon, in a module of this package.
_COMMANDS: dict[str, dict[str, str]] = {
    "Run": {
        "run": "run",
        "resume": "resume",
        "stop": "stop",
        "submit": "submit",
        "sweep": "sweep",
        "sync": "cluster:sync",
        "gc": "gc",
        "accept-drift": "drift:accept_drift",
        "export": "transfer:export_to",
        "import": "transfer:import_from",
    },
    "Look (writes nothing)": {
        "plan": "run:plan",
        "status": "look.status",
        "ls": "look.ls",
        "show": "look.show",
        "diff": "look.diff",
        "compare": "look.compare",
        "search": "look.search",
        "trace": "look.trace",
        "logs": "look.status:logs",
        "report": "look.status:report",
    },
    "Help": {"recipes": "look.recipes", "fields": "look.recipes:fields", "tasks": "tasks", "doctor": "cluster:doctor"},
}
_PLACES = {name: (panel, found[name]) for panel, found in _COMMANDS.items() for name in found}

# What the operating system answers where results cannot be stored. Any other OSError is a bug and keeps its trace.
_CANNOT_STORE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)


class _Commands(Mapping[str, Any]):
    """Commands by name. A module is imported when its command is asked for: all take as long as a whole cached run."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - typer does not export click's Command
        panel, place = _PLACES[name]
        module, _, function = place.partition(":")
        work = getattr(import_module(f"workflows.cli.{module}"), function or name)
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
        alone.command(name, rich_help_panel=panel, epilog=epilog(name))(work)
        return typer.main.get_command(alone)

    def __contains__(self, name: object) -> bool:
        return name in _PLACES  # without an import, which Mapping's own would make

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(**{**attributes, "commands": _Commands()})

    def list_commands(self, ctx: object) -> list[str]:
        return list(self.commands)


app = typer.Typer(
    name="clipline",
    cls=_Group,
    help=ABOUT,
    epilog=f"{epilog('clipline')}\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


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
        with few_collections():  # of what is imported nothing is garbage; searching MLflow's modules took 0.4 CPU s
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
