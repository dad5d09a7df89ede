"""Commands that only look: none of them imports Ray or torch, and none but ``report`` writes anything."""

from __future__ import annotations

import json
import sys
import time
import webbrowser
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated

import typer

from infra.config import Config, flatten
from infra.errors import CliplineError, UsageError
from infra.events import Event, Metrics, Progress
from infra.rows import FACT
from infra.run.manifest import MANIFEST, Artifact
from infra.schema import Drop
from infra.store import Store, open_store
from workflows.cli import fields as reference
from workflows.cli.console import column, detail, print_json, seconds, strict
from workflows.cli.options import DEFAULT_ROOT, Json, Root, RunName, Set
from workflows.cli.terminal import stderr, stdout
from workflows.recipe import built_in, load
from workflows.report import summary
from workflows.run.accepted import acceptances
from workflows.run.journal import Journal, under_way
from workflows.run.records import find_run, run_states

__all__ = ["artifact_named", "fields", "logs", "recipes", "report", "show", "status"]

ArtifactName = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="`stage/digest` as `ls` prints it, or its beginning.")
]


def status(name: RunName = None, root: Root = DEFAULT_ROOT, as_json: Json = False) -> None:
    """Show the state of each stage of a run."""
    store = open_store(root)
    record = find_run(store, name)
    states = run_states(store, record)
    if as_json:
        print_json({"run": record.run, "stages": [state.as_dict() for state in states]})
        return
    out, width = stdout(), column(state.name for state in states)
    out.print(record.run, style="bold")
    styles = {"done": "green", "running": "bold", "failed": "red", "interrupted": "yellow", "waiting": "dim"}
    for state in states:
        took = "cached" if state.cached else seconds(state.seconds) if state.seconds is not None else ""
        detail = "  ".join(filter(None, (took, state.progress, state.error)))
        out.print(f"  {state.name:<{width}}", end="")
        out.print(f"{state.state:<13}", style=styles[state.state], end="")
        out.print(detail, markup=False)


def show(
    name: ArtifactName,
    root: Root = DEFAULT_ROOT,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare it with the manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Show an artifact: its configuration, inputs, files and metrics, and why rows were dropped."""
    artifact = artifact_named(open_store(root), name)
    if as_json:
        print_json(artifact.manifest.to_json())
    else:
        _print_manifest(open_store(root), artifact)
    if verify:
        _verify(artifact)


def _print_manifest(root: Store, artifact: Artifact) -> None:
    manifest, out = artifact.manifest, stdout()
    out.print(manifest.name, style="bold")
    out.print(f"  {artifact.store.url}")
    if manifest.funnel:
        out.print(f"  {manifest.funnel.entered:,} {manifest.funnel.unit} entered, {manifest.funnel.kept:,} kept")
        for reason, count in manifest.funnel.dropped.items():
            out.print(f"    {count:>10,} {reason}")
    for message, count in manifest.facts.get(FACT, {}).items():
        out.print(f"    {count:>10,} {Drop.UNFORESEEN}: {message}", markup=False)
    for title, values in (("metrics", manifest.metrics), ("config", manifest.config)):
        for key, value in flatten(values).items():
            out.print(f"  {title}  {key} = {value}", markup=False)
    for kind, digest in manifest.identity.get("inputs", {}).items():
        out.print(f"  input   {kind} = {digest[:12]}")
    for one in acceptances(root.child(f"artifacts/{manifest.stage}/{manifest.digest[:16]}")):
        when = datetime.fromtimestamp(one.at).strftime("%Y-%m-%d %H:%M")
        names = ", ".join((*one.source, *one.inputs))
        out.print(f"  accepted  {when} by {one.by}: {one.why} ({names})", markup=False)
    size = manifest.size
    out.print(f"  {manifest.file_count} files, {size / 1e6:,.1f} MB")


def _verify(artifact: Artifact) -> None:
    """Compare every file with the manifest. Raises CliplineError if one differs."""
    manifest, err = artifact.manifest, stderr()
    wrong = list(artifact.verify())
    for file, problem in wrong:
        err.print(f"{file.path}: {problem}", style="red")
    if wrong:
        raise CliplineError(
            f"{len(wrong)} files of {manifest.name} are not what its manifest says", fix=f"--force {manifest.stage}"
        )
    err.print("every file matches the manifest", style="green")


def artifact_named(root: Store, name: str) -> Artifact:
    """The finished artifact that ``stage/digest`` names; the digest may be cut short or left out. Raises UsageError."""
    stage, _, start = name.partition("/")
    found = [
        digest
        for digest in root.folders(f"artifacts/{stage}")
        if digest.startswith(start[:16]) and root.exists(f"artifacts/{stage}/{digest}/{MANIFEST}")
    ]
    if not found:
        others = ", ".join(root.folders("artifacts"))
        raise UsageError(
            f"there is no artifact {name!r} below {root.url}",
            expected=f"one of these stages: {others}" if others else "",
            fix="clipline ls --artifacts lists them" if others else "clipline run quickstart makes some",
        )
    if len(found) > 1:
        others = ", ".join(f"{stage}/{digest[:12]}" for digest in found)
        raise UsageError(f"{name!r} names {len(found)} artifacts", expected=f"one of {others}")
    return Artifact.load(root.child(f"artifacts/{stage}/{found[0]}"))


def logs(
    name: RunName = None,
    stage: Annotated[str | None, typer.Option(help="Print only events of this stage.")] = None,
    root: Root = DEFAULT_ROOT,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Print the events of a run with their times, log messages and traces of failures."""
    store = open_store(root)
    record = find_run(store, name)
    width = column(planned.name for planned in record.stages)
    for event in _events(Journal(store.child(f"runs/{record.run}")), follow=follow):
        if stage and event.stage != stage:
            continue
        if as_json:
            sys.stdout.write(json.dumps(strict(event.to_json())) + "\n")
        elif not isinstance(event, (Progress, Metrics)):
            when = datetime.fromtimestamp(event.time).strftime("%H:%M:%S")
            sys.stdout.write(f"{when} {event.stage:<{width}} {event.kind:<15} {detail(event)}".rstrip() + "\n")


def _events(journal: Journal, *, follow: bool) -> Iterator[Event]:
    """The events of a run so far; ``follow``: and all that come until it has ended."""
    events, position = journal.read()
    yield from events
    while follow and under_way(events):
        sys.stdout.flush()
        time.sleep(1.0)
        more, position = journal.read(position)
        yield from more
        events += more


def report(
    name: RunName = None,
    root: Root = DEFAULT_ROOT,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report of a run, one self-contained HTML file, and print its path."""
    store = open_store(root)
    record = find_run(store, name)
    folder = store.child(f"runs/{record.run}")
    for path, data in summary.report_files(store, record):
        folder.write(path, data)
    sys.stdout.write(f"{folder.url}/report.html\n")
    if open_it:
        webbrowser.open(f"file://{folder.url}/report.html")


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
