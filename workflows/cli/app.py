"""The command line. Data goes to stdout, progress and messages to stderr; ``--json`` wherever a person would pipe.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 73 another run holds the lease, 75 stopped but resumable,
130/143 ended by a signal.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import CliplineError, StorageError, UsageError, redact
from infra.store import Store, open_store
from workflows.cli.console import print_json, strict

if TYPE_CHECKING:
    from rich.console import Console

    from workflows.recipe import Recipe
    from workflows.run.plan import Plan, Selection
    from workflows.stage import Workflow

DOING, LOOKING, HELPING = "Run", "Look (writes nothing)", "Help"


def _examples(*commands: str) -> str:
    return "\n\n".join(("**Examples**", *(f"- `{command}`" for command in commands)))


app = typer.Typer(
    name="clipline",
    help="From web pages to an evaluated CLIP model: one recipe, one Ray cluster, one MLflow run.",
    epilog=_examples(
        "clipline doctor",
        "clipline run quickstart",
        "clipline status",
        "clipline plan quickstart --set samples=100000",
    )
    + "\n\n**Exit codes** 0 done, 1 failed, 2 wrong usage or configuration, 73 another run holds a stage, "
    "75 stopped and resumable, 130 and 143 ended by a signal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"clipline {version('clipline')}")
        raise typer.Exit


@app.callback()
def clipline(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in recipe's name or a recipe file.")]
RunName = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A run's name or its beginning. Default: the latest.")
]
Root = Annotated[
    str,
    typer.Option(
        envvar="CLIPLINE_ROOT",
        metavar="FOLDER",
        help="Where artifacts and runs are kept: a folder or a URL like s3://...",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="`dial=value` or `stage.field=value`. Repeatable."),
]
Only = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Only this stage. Repeatable.")]
From = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="This stage and all that depends on it.")]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="This stage and all that it needs.")]
Force = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Run it although it is done. Repeatable.")]
Drift = Annotated[bool, typer.Option("--rerun-drift", help="Run again the stages whose source has changed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="CPUs of the local Ray. Default: all. Ignored with RAY_ADDRESS.")]
Wait = Annotated[bool, typer.Option("--wait", help="If another run holds a stage, wait for it instead of exiting 73.")]
Required = Annotated[bool, typer.Option("--tracking-required", help="Fail if MLflow does not get everything.")]

DEFAULT_ROOT = ".clipline"

# What a disk answers that is no place for results. Any other OSError is a fault of ours and keeps its trace.
_STORE_REFUSES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)


def _out() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def _err() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


# --- doing


@app.command(
    rich_help_panel=DOING,
    epilog=_examples(
        "clipline run quickstart",
        "clipline run website --set seeds=https://example.org/ --set contact=you@example.org",
        "clipline run my_recipe.py --set download.image_size=224 --until filter",
        "clipline run my_recipe.py --root s3://bucket/clip --wait",
    ),
)
def run(
    recipe: RecipeName,
    settings: Set = None,
    root: Root = DEFAULT_ROOT,
    only: Only = None,
    start: From = None,
    until: Until = None,
    force: Force = None,
    rerun_drift: Drift = False,
    cpus: Cpus = None,
    wait: Wait = False,
    tracking_required: Required = False,
    as_json: Json = False,
) -> None:
    """Run a recipe. What is done already is not done again; what was interrupted is continued."""
    from workflows.run.plan import Selection

    selection = Selection(only or (), start, until, force or (), rerun_drift)
    _execute(recipe, settings or [], root, selection, cpus, wait, tracking_required, as_json)


@app.command(rich_help_panel=DOING)
def resume(
    name: RunName = None,
    root: Root = DEFAULT_ROOT,
    cpus: Cpus = None,
    wait: Wait = False,
    tracking_required: Required = False,
    as_json: Json = False,
) -> None:
    """Continue a run that was stopped or failed, as it was started: same recipe, settings and selection."""
    from dataclasses import replace

    from workflows.run.records import find_run

    record = find_run(open_store(root), name)
    selection = replace(record.selection, force=())  # what was forced and has begun is due anyhow
    _execute(record.recipe, record.settings, root, selection, cpus, wait, tracking_required, as_json)


def _execute(
    name: str,
    settings: list[str],
    root_url: str,
    selection: Selection,
    cpus: int | None,
    wait: bool,
    tracking_required: bool,
    as_json: bool,
) -> None:
    from workflows.report import summary
    from workflows.run.plan import make_plan
    from workflows.run.records import RunRecord

    root, err = open_store(root_url), _err()
    recipe, workflow = _load(name, settings)
    asked = RunRecord.of(str(recipe.path) if Path(name).exists() else name, settings, workflow, selection)
    made = make_plan(workflow, root, selection)
    if not made.to_run:  # decided before the runner, and with it Ray, is even imported
        err.print(f"{asked.run}: nothing to do, every stage is done.", style="green")
        summary.show(asked, root, _out(), as_json=as_json)
        return
    from workflows.cli.doctor import ray_cluster

    if (ray := ray_cluster()).verdict == "bad":  # Ray itself would try for a quarter of an hour, deaf to Ctrl-C
        raise CliplineError(
            "no Ray cluster answers at RAY_ADDRESS",
            found=ray.detail,
            fix="start it, or unset RAY_ADDRESS to start one here",
        )
    from infra.tracking import Address
    from workflows.cli.console import Watcher
    from workflows.run import runner

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    err.print(
        f"{asked.run}: {len(made.to_run)} of {len(made.steps)} stages to run, below {redact(root.url)}", markup=False
    )
    options = runner.Options(cpus=cpus, wait=wait, tracking_required=tracking_required)
    with Watcher(err, [step.stage.name for step in made]).live() as watch:
        outcome = runner.run(made, root, asked, options, watch)
    if outcome.error is not None:
        err.print(str(outcome.error), style="red" if outcome.status == "failed" else "yellow", markup=False)
        if outcome.status == "preempted":
            err.print(f"clipline resume {asked.run} continues.")
        raise typer.Exit(outcome.exit_code)
    summary.show(asked, root, _out(), as_json=as_json)
    if not outcome.tracked:
        err.print(f"MLflow has not got everything yet; clipline sync {asked.run} sends the rest.", style="yellow")
    if not as_json:
        summary.show_address(Address.find(root), outcome.page, _out())


@app.command(rich_help_panel=DOING)
def sync(name: RunName = None, root: Root = DEFAULT_ROOT) -> None:
    """Send to MLflow what a run's journal holds and MLflow has not got (after an outage, say)."""
    from infra.tracking import Address, Tracker
    from workflows.run.journal import Journal
    from workflows.run.records import find_run

    store = open_store(root)
    record = find_run(store, name)
    folder = store.child(f"runs/{record.run}")
    experiment = record.run.rpartition("-")[0]
    tracker = Tracker(Address.find(store), experiment, store, folder, Journal(folder).read)
    tracker.start()
    if not tracker.close(timeout_s=600):
        raise CliplineError("MLflow did not take everything", found=tracker.degraded, fix="check MLFLOW_TRACKING_URI")
    _out().print(tracker.page or "")


# --- looking: none of these imports Ray or torch, or writes anything


@app.command(
    rich_help_panel=LOOKING,
    epilog=_examples("clipline plan quickstart", "clipline plan quickstart --set download.image_size=64 --json"),
)
def plan(
    recipe: RecipeName,
    settings: Set = None,
    root: Root = DEFAULT_ROOT,
    only: Only = None,
    start: From = None,
    until: Until = None,
    force: Force = None,
    rerun_drift: Drift = False,
    as_json: Json = False,
) -> None:
    """Say for each stage whether it is done or will run, and why, down to the field that changed."""
    from workflows.cli.console import column
    from workflows.run.plan import Selection, make_plan

    _, workflow = _load(recipe, settings or [])
    made = make_plan(workflow, open_store(root), Selection(only or (), start, until, force or (), rerun_drift))
    if as_json:
        print_json(_plan_rows(made))
        return
    out, width = _out(), column(step.stage.name for step in made)
    marks = {"cached": ("cached", "dim"), "run": ("will run", "bold yellow"), "left": ("left out", "dim")}
    for step in made:
        word, style = marks[step.action]
        drift = "source has changed since (--rerun-drift runs it again)" if step.drifted else ""
        why = "; ".join(filter(None, (*step.why, drift if step.action == "cached" else "")))
        out.print(f"{step.stage.name:<{width}}", end="")
        out.print(f"{word:<10}", style=style, end="")
        out.print(why, markup=False)
    out.print(f"{len(made.to_run)} of {len(made.steps)} stages would run.")


def _plan_rows(made: Plan) -> list[dict[str, Any]]:
    return [
        {
            "stage": step.stage.name,
            "action": step.action,
            "why": step.why,
            "digest": step.stage.digest,
            "folder": step.stage.folder,
            "drifted": step.drifted,
            "shards_done": step.shards_done,
        }
        for step in made
    ]


@app.command(rich_help_panel=LOOKING)
def status(name: RunName = None, root: Root = DEFAULT_ROOT, as_json: Json = False) -> None:
    """How each stage of a run stands."""
    from workflows.cli.console import column, seconds
    from workflows.run.records import find_run, run_states

    store = open_store(root)
    record = find_run(store, name)
    states = run_states(store, record)
    if as_json:
        print_json({"run": record.run, "stages": [state.as_dict() for state in states]})
        return
    out, width = _out(), column(state.name for state in states)
    out.print(record.run, style="bold")
    styles = {"done": "green", "running": "bold", "failed": "red", "interrupted": "yellow", "waiting": "dim"}
    for state in states:
        took = "cached" if state.cached else seconds(state.seconds) if state.seconds is not None else ""
        detail = "  ".join(filter(None, (took, state.progress, state.error)))
        out.print(f"  {state.name:<{width}}", end="")
        out.print(f"{state.state:<13}", style=styles[state.state], end="")
        out.print(detail, markup=False)


@app.command("ls", rich_help_panel=LOOKING)
def list_(
    stage: Annotated[str | None, typer.Argument(help="Only artifacts of this stage.")] = None,
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """List runs and finished artifacts."""
    from infra.run.manifest import Artifact
    from workflows.run.records import list_runs

    store = open_store(root)
    artifacts = []
    for name in [stage] if stage else store.folders("artifacts"):
        for digest in store.folders(f"artifacts/{name}"):
            if artifact := Artifact.find(store.child(f"artifacts/{name}/{digest}")):
                manifest = artifact.manifest
                row: dict[str, Any] = {"name": manifest.name, "files": len(manifest.files)}
                row["bytes"] = sum(file.bytes for file in manifest.files)
                row["kept"] = manifest.funnel.kept if manifest.funnel else None
                artifacts.append({**row, "folder": artifact.store.url})
    runs = [] if stage else list_runs(store)
    if as_json:
        print_json({"runs": runs, "artifacts": artifacts})
        return
    if not runs and not artifacts:
        _err().print(f"nothing below {redact(store.url)} yet", markup=False)
    out = _out()
    for run_name in runs:
        out.print(f"run       {run_name}")
    for row in artifacts:
        kept = f"{row['kept']:>10,} kept" if row["kept"] is not None else ""
        out.print(f"artifact  {row['name']:<26}{row['files']:>6} files {row['bytes'] / 1e6:>10.1f} MB {kept}")


@app.command(rich_help_panel=LOOKING, epilog=_examples("clipline show filter", "clipline show download/3fa9 --verify"))
def show(
    name: Annotated[str, typer.Argument(metavar="ARTIFACT", help="`stage/digest` as `ls` prints it, or a part.")],
    root: Root = DEFAULT_ROOT,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare it with the manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Show an artifact's manifest: what it is, what it holds, what was dropped and why."""
    artifact = _artifact(open_store(root), name)
    manifest = artifact.manifest
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        from infra.config import flatten

        out = _out()
        out.print(manifest.name, style="bold")
        out.print(f"  {artifact.store.url}")
        if manifest.funnel:
            out.print(f"  {manifest.funnel.entered:,} {manifest.funnel.unit} entered, {manifest.funnel.kept:,} kept")
            for reason, count in manifest.funnel.dropped.items():
                out.print(f"    {count:>10,} {reason}")
        for title, values in (("metrics", manifest.metrics), ("config", manifest.identity.get("config", {}))):
            for key, value in flatten(values).items():
                out.print(f"  {title}  {key} = {value}", markup=False)
        for kind, digest in manifest.identity.get("inputs", {}).items():
            out.print(f"  input   {kind} = {digest[:12]}")
        size = sum(file.bytes for file in manifest.files)
        out.print(f"  {len(manifest.files)} files, {size / 1e6:,.1f} MB")
    if verify:
        wrong = list(artifact.verify())
        for file, problem in wrong:
            _err().print(f"{file.path}: {problem}", style="red")
        if wrong:
            raise CliplineError(
                f"{len(wrong)} files of {manifest.name} are not what its manifest says", fix=f"--force {manifest.stage}"
            )
        _err().print("every file is as the manifest says", style="green")


@app.command(rich_help_panel=LOOKING, epilog=_examples("clipline diff zeroshot/3fa9 zeroshot/81c0"))
def diff(
    one: Annotated[str, typer.Argument(metavar="ARTIFACT", help="`stage/digest` as `ls` prints it, or a part.")],
    other: Annotated[str, typer.Argument(metavar="ARTIFACT", help="Likewise.")],
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Compare two artifacts: configuration, funnel and metrics, side by side."""
    from infra.config import flatten

    store = open_store(root)
    sides = []
    for name in (one, other):
        manifest = _artifact(store, name).manifest
        funnel = manifest.funnel.model_dump() if manifest.funnel else {}
        whole = {"config": manifest.identity.get("config", {}), "inputs": manifest.identity.get("inputs", {})}
        sides.append(flatten({**whole, "funnel": funnel, "metrics": manifest.metrics}))
    rows = {
        key: [side.get(key) for side in sides]
        for key in sorted({*sides[0], *sides[1]})
        if strict(sides[0].get(key)) != strict(sides[1].get(key))
    }
    if as_json:
        print_json(rows)
    elif rows:
        for key, (before, after) in rows.items():
            _out().print(f"{key}: {before} -> {after}", markup=False)
    else:
        _err().print("no difference")


@app.command(rich_help_panel=LOOKING)
def logs(
    name: RunName = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage's.")] = None,
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Print a run's journal: what happened when, with log messages and traces of failures."""
    from datetime import datetime

    from infra.events import Metrics, Progress
    from workflows.cli.console import column, detail
    from workflows.run.journal import Journal
    from workflows.run.records import find_run

    store = open_store(root)
    record = find_run(store, name)
    width = column(planned.name for planned in record.stages)
    events, _ = Journal(store.child(f"runs/{record.run}")).read()
    for event in events:
        if stage and event.stage != stage:
            continue
        if as_json:
            sys.stdout.write(json.dumps(strict(event.to_json())) + "\n")
            continue
        if isinstance(event, (Progress, Metrics)):
            continue
        when = datetime.fromtimestamp(event.time).strftime("%H:%M:%S")
        sys.stdout.write(f"{when} {event.stage:<{width}} {event.kind:<15} {detail(event)}".rstrip() + "\n")


@app.command(rich_help_panel=DOING)
def report(
    name: RunName = None,
    root: Root = DEFAULT_ROOT,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a run's report, one self-contained HTML file, and print where it is."""
    from workflows.report import summary
    from workflows.run.records import find_run

    store = open_store(root)
    record = find_run(store, name)
    folder = store.child(f"runs/{record.run}")
    for path, data in summary.report_files(store, record):
        folder.write(path, data)
    sys.stdout.write(f"{folder.url}/report.html\n")
    if open_it:
        import webbrowser

        webbrowser.open(f"file://{folder.url}/report.html")


@app.command(rich_help_panel=HELPING)
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Only this one.")] = None,
    as_json: Json = False,
) -> None:
    """List the built-in recipes and their dials."""
    from workflows.recipe import built_in, load

    found = [load(one) for one in ([name] if name else built_in())]
    if as_json:
        print_json({r.name: {"summary": r.summary, "dials": {d.name: vars(d) for d in r.dials}} for r in found})
        return
    out = _out()
    for recipe in found:
        out.print(recipe.name, style="bold", end="")
        out.print(f"  {recipe.summary}", markup=False)
        for dial in recipe.dials:
            default = "  (needed)" if dial.needed else f" = {dial.default!r}"
            out.print(f"    {f'{dial.name}: {dial.annotation}{default}':<46}", end="", markup=False)
            out.print(f"  {dial.note}", markup=False, style="dim")


@app.command(rich_help_panel=HELPING)
def doctor(root: Root = DEFAULT_ROOT) -> None:
    """Check this machine: Python, packages, the store, Ray, MLflow, GPUs, disk and memory."""
    from workflows.cli.doctor import checks

    out, bad = _out(), 0
    for check in checks(open_store(root)):
        mark, style = {"ok": ("ok", "green"), "warn": ("note", "yellow"), "bad": ("BAD", "red")}[check.verdict]
        out.print(f"{mark:<5}", style=style, end="")
        out.print(f"{check.name:<17}{check.detail}", markup=False)
        bad += check.verdict == "bad"
    if bad:
        raise CliplineError(f"{bad} check{'s' if bad > 1 else ''} failed")


# --- shared


def _load(name: str, settings: list[str]) -> tuple[Recipe, Workflow]:
    from workflows.recipe import load

    recipe = load(name)
    return recipe, recipe.build(settings)


def _artifact(root: Store, name: str) -> Any:  # noqa: ANN401 - Artifact; imported late
    from infra.run.manifest import MANIFEST, Artifact

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
            fix="clipline ls lists them" if others else "clipline run quickstart makes some",
        )
    if len(found) > 1:
        others = ", ".join(f"{stage}/{digest[:12]}" for digest in found)
        raise UsageError(f"{name!r} names {len(found)} artifacts", expected=f"one of {others}")
    return Artifact.load(root.child(f"artifacts/{stage}/{found[0]}"))


def main() -> None:
    """Entry point: errors of ours become one readable message and their exit code."""
    try:
        app()
    except CliplineError as error:
        _err().print(str(error), style="red", markup=False)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _STORE_REFUSES:
            raise
        refused = StorageError(
            f"cannot use {error.filename}", found=error.strerror or "", fix="another --root; clipline doctor tells"
        )
        _err().print(str(refused), style="red", markup=False)
        sys.exit(refused.exit_code)
    finally:
        gc.freeze()  # at exit Python looks for cycles in all that was imported; with MLflow that takes most of a second
