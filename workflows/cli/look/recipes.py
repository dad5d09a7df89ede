"""The commands ``recipes`` and ``fields``: what can be run and set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from infra.config import Config
from workflows.cli import fields as reference
from workflows.cli.console import print_json
from workflows.cli.options import Json, Set
from workflows.cli.terminal import stdout
from workflows.recipe import built_in, load

__all__ = ["fields", "recipes"]


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Show only this recipe.")] = None,
    as_json: Json = False,
) -> None:
    """List the built-in recipes and their parameters."""
    found = [load(one) for one in ([name] if name else built_in())]
    if as_json:
        print_json(
            {r.name: {"summary": r.summary, "parameters": {p.name: vars(p) for p in r.parameters}} for r in found}
        )
        return
    out = stdout()
    for recipe in found:
        out.print(recipe.name, style="bold", end="")
        out.print(f"  {recipe.summary}", markup=False)
        for parameter in recipe.parameters:
            default = "  (required)" if parameter.required else f" = {parameter.default!r}"
            out.print(f"    {f'{parameter.name}: {parameter.type}{default}':<46}", end="", markup=False)
            out.print(f"  {parameter.description}", markup=False, style="dim")


def fields(
    stage: Annotated[str | None, typer.Argument(help="Show only the fields of this stage.")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Show the stages of this recipe instead of all known ones.")
    ] = None,
    settings: Set = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the fields as Markdown tables.")] = False,
    as_json: Json = False,
) -> None:
    """List the configuration fields of each stage, as `--set stage.field=value` sets them."""
    if recipe:
        configs: Mapping[str, type[Config]] = {one.name: type(one.config) for one in load(recipe).build(settings or ())}
    else:
        configs = reference.built_in()
    tables = reference.tables(configs, stage)
    if as_json:
        print_json({name: [vars(row) for row in rows] for name, rows in tables.items()})
        return
    if markdown:
        sys.stdout.write(reference.markdown(tables))
        return
    out = stdout()
    for name, rows in tables.items():
        out.print(name, style="bold")
        for row in rows:
            out.print(f"    {f'{row.path}: {row.type}{row.assigned}':<54}", end="", markup=False)
            out.print(f"  {'[runtime] ' if row.runtime else ''}{row.description}", markup=False, style="dim")
    out.print("[runtime]: cannot change the result, so it never enters the fingerprint", markup=False, style="dim")
