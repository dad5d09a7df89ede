"""The command ``sweep``: a recipe under many settings, what they share done once, compared in the end."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from evaluation.compare.config import RESAMPLED
from infra.errors import DataError, redact
from infra.run.root import set_root
from infra.store import Store, open_store
from infra.tracking import Address as MlflowAddress
from workflows.cli import result
from workflows.cli.console import column, print_json, strict
from workflows.cli.look.compare import Primary, compared, show
from workflows.cli.options import DEFAULT_ROOT, Execution, Json, Profile, RecipeName, Root, Set, all_settings, grouped
from workflows.cli.run import carry_out, check_ready
from workflows.cli.submit import OtherVersions, send
from workflows.cli.terminal import stderr, stdout
from workflows.recipe import load
from workflows.run.plan import Plan
from workflows.run.records import finished
from workflows.run.sweep import Design, Sweep, parse_grid, plan_sweep
from workflows.submit.submission import Submission

__all__ = ["execute", "sweep"]

Grid = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=A,B", help="Values of a parameter or `stage.field`; all combinations are run. Repeatable."
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="Runs of each combination, of seeds 0, 1, ...")]
Random = Annotated[
    int | None, typer.Option("--random", min=1, metavar="N", help="Only so many of the combinations, drawn at random.")
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Only show what would run.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Run it as one job of the Ray cluster with this dashboard, without this machine."),
]


@grouped
def sweep(
    recipe: RecipeName,
    execution: Execution,
    grid: Grid = None,
    seeds: Seeds = 1,
    draw: Random = None,
    settings: Set = None,
    profile: Profile = None,
    primary: Primary = None,
    root: Root = DEFAULT_ROOT,
    plan_only: PlanOnly = False,
    address: Address = None,
    other_versions: OtherVersions = False,
    as_json: Json = False,
) -> None:
    """Run a recipe under every combination of settings and compare them. The same command again continues."""
    set_root(root)
    store, found = open_store(root), load(recipe)
    given = all_settings(settings, profile)
    design = Design(grid=parse_grid(grid or []), seeds=seeds, draw=draw, primary=primary)
    if address and not plan_only:
        submission = Submission.of(
            recipe, found, given, store.url, execution, sweep=design, other_versions=other_versions
        )
        send(submission, found, address, as_json=as_json)
        return
    whole = plan_sweep(found, found.recorded_as(recipe), given, design)
    if plan_only:
        _show_plan(whole, whole.plans(store), as_json)
        return
    execute(whole, store, execution, as_json)


def execute(whole: Sweep, store: Store, execution: dict[str, Any], as_json: bool = False) -> None:
    """Run a sweep, and compare its runs in the end. Exits with the code of what did not end."""
    plans = whole.plans(store)
    whole.save(store)
    due = {step.stage.digest for plan in plans for step in plan.to_run}
    stages = {step.stage.digest for plan in plans for step in plan}
    stderr().print(
        f"{whole.name}: {len(plans)} runs, {len(due)} of {len(stages)} stages to run, below {redact(store.url)}",
        markup=False,
    )
    errors, code = {}, 0
    if due or any(trial.record.left_open(store) for trial in whole.trials):
        check_ready(plans)
        runs = [(plan, trial.record) for plan, trial in zip(plans, whole.trials, strict=True)]
        outcomes = carry_out(runs, store, execution, whole.name)
        errors = {outcome.run: str(outcome.error) for outcome in outcomes if outcome.error is not None}
        # A run that was stopped can go on; else the first failure says what to do.
        code = next((one.exit_code for one in outcomes if one.status == "preempted"), 0)
        code = code or next((one.exit_code for one in outcomes if one.error is not None), 0)
    _conclude(whole, store, errors, code, as_json)
    if code:
        raise typer.Exit(code)


def _conclude(whole: Sweep, root: Store, errors: dict[str, str], code: int, as_json: bool) -> None:
    """Compare what is done, keep it with the sweep, and print it; name the runs that failed."""
    done = [(trial.variant, one) for trial in whole.trials for one in finished(root, trial.record)]
    evaluated = {name: [one for of, one in done if of == name and one.files(RESAMPLED)] for name in whole.variants}
    given = {variant: artifacts for variant, artifacts in evaluated.items() if artifacts}
    comparison, described, why, files = None, None, "", {}
    if len(given) < 2:
        why = f"{len(given)} of {len(evaluated)} variants have evaluations: nothing to compare"
    else:
        try:
            comparison, draw = compared(given, whole.design.primary)
            described = strict(comparison.as_dict())
            files = {"comparison.json": json.dumps(described).encode(), "comparison.png": draw()}
        except DataError as error:
            why = str(error)
    said = [comparison.verdict if comparison else why, *(f"{run}: {error}" for run, error in errors.items())]
    tracked = whole.track(root, files, "\n\n".join(said), code)
    err = stderr()
    if as_json:
        print_json({**_runs(whole, errors), "comparison": described, "why": why})
    elif comparison:
        show(comparison, list(given))
        stdout().print(whole.folder(root).locate("comparison.png"), markup=False)
    if why and not as_json:
        err.print(why, markup=False, style="yellow")
    for trial in whole.trials:
        if failure := errors.get(trial.record.run):
            err.print(
                f"{trial.record.run} ({_words(trial.settings)}) did not end:\n{failure}", style="red", markup=False
            )
    if errors:
        err.print(f"{len(errors)} of {len(whole.trials)} runs did not end; the same command continues.", style="yellow")
    if not tracked:
        err.print("MLflow is missing some events; the same command again sends them.", style="yellow")
    if not as_json:
        result.show_address(MlflowAddress.find(root), None, stdout())


def _runs(whole: Sweep, errors: dict[str, str]) -> dict[str, Any]:
    runs = [
        {
            "run": trial.record.run,
            "variant": trial.variant,
            "settings": [redact(one) for one in trial.settings],
            "error": errors.get(trial.record.run),
        }
        for trial in whole.trials
    ]
    return {"sweep": whole.name, "runs": runs}


def _show_plan(whole: Sweep, plans: list[Plan], as_json: bool) -> None:
    """Each distinct stage: whether it would run, and for which runs."""
    steps = {step.stage.digest: step for plan in plans for step in plan}
    users = {key: [t for t, p in zip(whole.trials, plans, strict=True) if p.has(key)] for key in steps}
    if as_json:
        rows = [
            {
                "stage": step.stage.name,
                "digest": key,
                "folder": step.stage.folder,
                "action": step.action,
                "runs": [trial.record.run for trial in users[key]],
            }
            for key, step in steps.items()
        ]
        print_json({**_runs(whole, {}), "stages": rows})
        return
    out, words = stdout(), {"cached": "cached", "run": "will run", "left": "left out"}
    names = {key: f"{step.stage.name}/{key[:6]}" for key, step in steps.items()}
    width = column(names.values())
    for key, step in steps.items():
        every = len(users[key]) == len(whole.trials)
        of = "all runs" if every else "; ".join(dict.fromkeys(_words(trial.settings) for trial in users[key]))
        out.print(f"{names[key]:<{width}}{words[step.action]:<10}{of}", markup=False)
    due = sum(step.action == "run" for step in steps.values())
    out.print(f"{whole.name}: {due} of {len(steps)} stages would run, for {len(whole.trials)} runs.", markup=False)


def _words(settings: tuple[str, ...]) -> str:
    return redact(" ".join(settings))
