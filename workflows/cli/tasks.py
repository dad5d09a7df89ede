"""The command ``tasks``: the evaluation tasks there are, and which fit the test sets of a folder or a recipe."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluation import evaluate
from evaluation.checks import SetReport, check_folder, reason_against, sets_at
from evaluation.tasks import Task
from infra.formats.testset import KINDS
from workflows.cli.console import print_json
from workflows.cli.fields import tables
from workflows.cli.options import Json, Set
from workflows.cli.terminal import stdout
from workflows.recipe import Recipe, load
from workflows.stage import Workflow

__all__ = ["tasks"]

Where = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE|FOLDER", help="A recipe, for its own tasks and its evaluations; or test sets."),
]
Undecoded = Annotated[
    bool, typer.Option("--undecoded", help="Leave the images of test sets undecoded: quicker, finds fewer broken ones.")
]


def tasks(where: Where = None, settings: Set = None, undecoded: Undecoded = False, as_json: Json = False) -> None:
    """List evaluation tasks, or say of test sets what they hold and which tasks can measure them.

    Exits with 1 if a set has broken samples, or an evaluation of the recipe cannot measure its set.
    """
    if where is not None and _is_place(where):
        _show_sets(where, decode=not undecoded, as_json=as_json)
    else:
        _show_tasks(load(where) if where is not None else None, settings or [], as_json=as_json)


def _is_place(where: str) -> bool:
    """True for a folder or an address, and for the path of what is neither there nor a recipe's file."""
    path = Path(where)
    return "://" in where or path.is_dir() or ("/" in where and path.suffix != ".py" and not path.exists())


# --- test sets --------------------------------------------------------------------------------------------------------


def _show_sets(place: str, *, decode: bool, as_json: bool) -> None:
    sound, shown = True, []
    for report in check_folder(place, decode=decode):
        sound &= report.sound
        if as_json:
            shown.append(report.as_dict())
        else:
            _print_set(report)
    if as_json:
        print_json(shown)
    if not sound:
        raise typer.Exit(1)


def _print_set(report: SetReport) -> None:
    """A set's lines: what it holds, what is broken, what can be measured and what not, with the reason."""
    out, holds = stdout(), report.holds
    out.print(f"{report.name}/{report.split}", style="bold", markup=False, end="")
    out.print(f"  {report.form}, {report.examples.kind if report.examples else 'unreadable'}", markup=False)
    if report.examples is None:
        out.print(f"  cannot be used: {report.refused}", markup=False, style="red")
        return
    out.print(f"  holds    {_held(report)}", markup=False)
    if holds.languages:
        spoken = ", ".join(f"{code} {count:,}" for code, count in holds.languages.most_common())
        out.print(f"  spoken   {spoken}", markup=False)
    for problem, count in holds.broken.most_common():
        first = " | ".join(line.strip() for line in holds.examples[problem].splitlines())
        word = "broken  " if report.examples.strict else "left out"
        out.print(f"  {word} {count:,} {problem}; the first: {first}", markup=False, style="red")
    out.print(f"  tasks    {', '.join(kind for kind, reason in report.against.items() if not reason) or 'none'}")
    kinds: dict[str, list[str]] = {}
    for kind, reason in report.against.items():
        kinds.setdefault(reason, []).append(kind)
    for reason, several in kinds.items():
        if reason:
            out.print(f"    not {', '.join(several)}: {reason}", markup=False, style="dim")


def _held(report: SetReport) -> str:
    examples, holds = report.examples, report.holds
    assert examples is not None
    parts = [f"{holds.images:,} {'images' if examples.pictured else 'samples without an image'}"]
    if holds.with_regions:
        bare = holds.images - holds.with_pixels
        parts.append(f"{holds.with_regions:,} with regions" + (f", {bare:,} without pixels" if bare else ""))
    if examples.captioned:
        parts.append(f"{holds.captions:,} {'captions' if examples.pictured else 'texts'}")
    else:
        without = report.empty_classes
        named = f" ({len(without):,} without an image: {', '.join(without[:3])})" if without else ""
        parts.append(f"{len(examples.classes):,} classes{named}")
        own = len(examples.templates)
        parts.append(f"{own:,} prompts" if own else "no prompts of its own: CLIP's 80 for ImageNet are used")
    return ", ".join(parts)


# --- tasks ------------------------------------------------------------------------------------------------------------


def _show_tasks(recipe: Recipe | None, settings: list[str], *, as_json: bool) -> None:
    known = {kind: member for kind, member in Task.all_members().items() if issubclass(member, Task)}
    described = {kind: _described(member, recipe) for kind, member in sorted(known.items())}
    # A recipe with parameters that are missing lists its tasks; with them it is checked as a whole.
    whole = recipe is not None and (settings or not any(one.required for one in recipe.parameters))
    evaluations = _evaluations(recipe.build(settings)) if recipe is not None and whole else {}
    if as_json:
        print_json({"tasks": described, "evaluations": evaluations})
    else:
        for kind, one in described.items():
            _print_task(kind, one)
        for name, (task, reason) in evaluations.items():
            stdout().print(f"{name}: {task}  {reason or 'fits its test set'}", markup=False)
    if any(reason for _, reason in evaluations.values()):
        raise typer.Exit(1)


def _described(member: type[Task], recipe: Recipe | None) -> dict[str, Any]:
    own = recipe is not None and inspect.getsourcefile(member) == str(recipe.path)
    return {
        "summary": (inspect.getdoc(member) or "").partition("\n")[0],
        "class": f"{recipe.path.name if own and recipe else member.__module__}:{member.__qualname__}",
        "needs": {kind: KINDS.get(kind, "a kind of test set of its own") for kind in member.needs},
        "main": member.main,
        "units": member.units,
        "fields": [vars(row) for row in tables({member.kind: member})[member.kind]],
    }


def _print_task(kind: str, one: dict[str, Any]) -> None:
    out = stdout()
    out.print(kind, style="bold", end="", markup=False)
    out.print(f"  {one['summary']}", markup=False)
    out.print(f"    {one['class']}", markup=False, style="dim")
    needs = " or ".join(f"{name} ({meaning})" for name, meaning in one["needs"].items())
    out.print(f"    needs a set for {needs or 'anything'}", markup=False)
    out.print(f"    measures {one['main'] or 'what it names'}, over {one['units']}", markup=False)
    for row in one["fields"]:
        default = "  (required)" if row["required"] else f" = {row['default']}" if row["default"] else ""
        named = f"{row['path']}: {row['type']}{default}"
        out.print(f"    {named:<46}", end="", markup=False)
        out.print(f"  {row['description']}", markup=False, style="dim")


def _evaluations(workflow: Workflow) -> dict[str, tuple[str, str]]:
    """For each evaluation its task, and why that cannot measure its set; "" if it can, or the set is yet to be made."""
    from pipelines import adopt  # every command loads this module

    found: dict[str, tuple[str, str]] = {}
    for stage in workflow:
        if isinstance(stage.config, evaluate.Config):
            task, source, reason = stage.config.task, stage.inputs["dataset"].config, ""
            if isinstance(source, adopt.Config) and isinstance(source.contents, adopt.TestSets):
                there = sets_at(source.path, splits=source.contents.splits, forms=source.contents.forms)
                reason = reason_against(task, *there)
            found[stage.name] = f"{task.kind} of {task.dataset}/{task.split}", reason
    return found
