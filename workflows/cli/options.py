"""Arguments and options that several commands share, one by one and in groups.

Typer has no groups of options. Here a group is a function whose parameters are the options and whose result the command
takes as one argument: see :func:`grouped`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.run.root import set_root
from workflows.profile import read_profile
from workflows.recipe import Recipe, load
from workflows.run.plan import Selection
from workflows.stage import Workflow

__all__ = [
    "DEFAULT_ROOT",
    "Execution",
    "Group",
    "Json",
    "Profile",
    "RecipeName",
    "Request",
    "Requested",
    "Root",
    "RunName",
    "RunOrSweep",
    "Set",
    "all_settings",
    "grouped",
]

DEFAULT_ROOT = ".clipline"

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A built-in recipe's name, a recipe file, or package.module of one.")
]
RunName = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A run's name or its beginning. Default: the latest run.")
]
RunOrSweep = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="A run's name or its beginning, or a sweep's name. Default: the latest run."),
]
Root = Annotated[
    str,
    typer.Option(
        envvar="CLIPLINE_ROOT", metavar="FOLDER", help="Where artifacts and runs are stored: a folder or s3://..."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="`parameter=value` or `stage.field=value`. Repeatable."),
]
Profile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="YAML of KEY: VALUE, as if each were given by --set; --set itself wins."),
]
Only = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Run only this stage. Repeatable.")]
From = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Run this stage and all that depend on it.")]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="Run this stage and all that it depends on.")]
Force = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Re-run this stage even if cached. Repeatable.")]
Drift = Annotated[bool, typer.Option("--rerun-drift", help="Re-run cached stages whose source code has changed.")]

Cpus = Annotated[int | None, typer.Option(min=1, help="CPUs of the local Ray. Default: all. Ignored with RAY_ADDRESS.")]
Stages = Annotated[
    int | None, typer.Option("--stages", min=1, help="Stages at once, at most. Default: as many as CPUs, 2 to 16.")
]
Wait = Annotated[bool, typer.Option("--wait", help="If another run holds a stage, wait for it instead of exiting 73.")]
Required = Annotated[bool, typer.Option("--tracking-required", help="Fail if MLflow does not receive everything.")]


@dataclass(frozen=True)
class Request:
    """The settings of a recipe, the root to run below, and the selected stages."""

    settings: list[str]
    root: str
    selection: Selection

    def build(self, name: str) -> tuple[Recipe, Workflow]:
        """The recipe called ``name`` and its workflow under these settings. Raises UsageError."""
        set_root(self.root)
        recipe = load(name)
        return recipe, recipe.build(self.settings)


def all_settings(settings: list[str] | None, profile: Path | None) -> list[str]:
    """The settings of the profile, and those given, which win by coming last. Raises UsageError."""
    return [*(read_profile(profile) if profile else ()), *(settings or ())]


def _request(
    settings: Set = None,
    profile: Profile = None,
    root: Root = DEFAULT_ROOT,
    only: Only = None,
    start: From = None,
    until: Until = None,
    force: Force = None,
    rerun_drift: Drift = False,
) -> Request:
    return Request(all_settings(settings, profile), root, Selection(only or (), start, until, force or (), rerun_drift))


def _execution(
    cpus: Cpus = None, stages: Stages = None, wait: Wait = False, tracking_required: Required = False
) -> dict[str, Any]:
    return {"cpus": cpus, "stages": stages, "wait": wait, "tracking_required": tracking_required}


@dataclass(frozen=True)
class Group:
    """Options of which ``make`` makes one value."""

    make: Callable[..., Any]


Requested = Annotated[Request, Group(_request)]
Execution = Annotated[dict[str, Any], Group(_execution)]
"""Fields of the runner's Options; the runner itself is imported only where something has to run."""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command that typer sees with the options of each group in place of the group's one parameter."""
    shown: list[inspect.Parameter] = []
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group = next((m for m in getattr(parameter.annotation, "__metadata__", ()) if isinstance(m, Group)), None)
        if group is None:
            shown.append(parameter)
        else:
            options = inspect.signature(group.make, eval_str=True).parameters
            groups[parameter.name] = group.make, list(options)
            shown += options.values()

    @functools.wraps(command)
    def call(**values: Any) -> None:  # noqa: ANN401 - whatever the options are
        made = {name: make(**{key: values.pop(key) for key in keys}) for name, (make, keys) in groups.items()}
        command(**values, **made)

    by_keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shown]
    call.__signature__ = inspect.Signature(by_keyword)  # type: ignore[attr-defined]
    return call
