"""The command ``compare``: which differences between runs or evaluations are real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluation.compare.config import PRIMARY, RESAMPLED
from infra.errors import UsageError
from infra.run.manifest import Artifact
from infra.store import Store, open_store
from workflows.cli.console import column, print_json
from workflows.cli.look.show import artifact_named
from workflows.cli.options import DEFAULT_ROOT, Json, Root
from workflows.cli.terminal import stdout
from workflows.run.records import find_run, finished

if TYPE_CHECKING:
    from evaluation.compare.result import Comparison

__all__ = ["Primary", "compare", "compared", "show"]

Variants = Annotated[
    list[str],
    typer.Argument(
        metavar="VARIANT...",
        help="A run or an evaluation (`stage/digest`), the baseline first. With commas between them, several are the "
        "seeds of one variant; `name=` before them names it.",
    ),
]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="Coverage of the intervals and of all verdicts.")]
Primary = Annotated[
    list[str] | None,
    typer.Option(
        "--primary",
        metavar="METRIC",
        help="A metric that the verdict is about, by name or pattern, such as `'*recall@1'`; may be repeated. "
        f"Without: {', '.join(PRIMARY)}.",
    ),
]
Figure = Annotated[Path | None, typer.Option("--figure", metavar="FILE", help="Draw the differences as PNG.")]


def compare(
    variants: Variants,
    primary: Primary = None,
    confidence: Confidence = 0.95,
    figure: Figure = None,
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Compare runs or evaluations: paired differences with intervals, and which are separated from 0."""
    store = open_store(root)
    given = {
        name: [artifact for one in members for artifact in _evaluations(store, one)]
        for name, members in _named(variants).items()
    }
    comparison, draw = compared(given, primary, confidence)
    if not comparison.rows:
        raise UsageError(comparison.verdict, found="; ".join(comparison.notes))
    if figure:
        figure.write_bytes(draw())
    if as_json:
        print_json(comparison.as_dict())
    else:
        show(comparison, list(given))


def compared(
    given: Mapping[str, Sequence[Artifact]], primary: Sequence[str] | None, confidence: float = 0.95
) -> tuple[Comparison, Callable[[], bytes]]:
    """The comparison of the evaluations of each variant with those of the first, and what draws it as PNG."""
    from evaluation.compare.work import compare_artifacts, draw  # loads numpy

    comparison = compare_artifacts(given, primary=primary or PRIMARY, confidence=confidence)
    return comparison, lambda: draw(comparison)


def show(comparison: Comparison, variants: Sequence[str]) -> None:
    """Print the differences, what limits them, and the verdict."""
    out = stdout()
    title, name = column(row.title for row in comparison.rows), column([comparison.baseline, *variants])
    out.print(f"{'':<{title}}{comparison.baseline:>12.12}  {'variant':<{name}}         difference", style="bold")
    for row in sorted(comparison.rows, key=lambda row: not row.primary):
        line = f"{row.title:<{title}}{row.baseline:>12.3f}  {row.variant:<{name}}{row.value:>7.3f}  {row.difference}"
        out.print(f"{line}  {row.said}", markup=False, style="" if row.separated else "dim")
    for note in comparison.notes:
        out.print(f"note: {note}", markup=False, style="dim")
    out.print(comparison.verdict, markup=False)


def _named(variants: list[str]) -> dict[str, list[str]]:
    """Members of each variant by its name. Raises UsageError for fewer than two, or two of one name."""
    found: dict[str, list[str]] = {}
    for given in variants:
        name, mark, members = given.partition("=")
        name = name if mark else given
        if name in found:
            raise UsageError(f"two variants are called {name!r}", fix="name them: compare a=RUN b=RUN")
        found[name] = [member for member in (members if mark else given).split(",") if member]
        if not found[name]:
            raise UsageError(f"variant {name!r} has no runs", expected="NAME=RUN,RUN")
    if len(found) < 2:
        raise UsageError("one variant alone cannot be compared", expected="a baseline and at least one other")
    return found


def _evaluations(root: Store, name: str) -> list[Artifact]:
    """The evaluation of that name, or all finished ones of the run of that name. Raises UsageError."""
    if "/" in name:
        return [artifact_named(root, name)]
    run = find_run(root, name)
    found = [artifact for artifact in finished(root, run) if artifact.files(RESAMPLED)]
    if not found:
        raise UsageError(f"run {run.run} has no finished evaluation", fix=f"clipline resume {run.run}")
    return found
