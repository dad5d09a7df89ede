"""A sweep: one recipe under every combination of some settings, several seeds of each, compared in the end.

The runs of a sweep are ordinary runs, whose plans are carried out as one graph. The sweep itself has a folder below
``sweeps/``, a run of its own in MLflow above the others, and no state: what is done is seen from the manifests.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.config import digest
from infra.errors import UsageError, redact
from infra.events import Event, RunArtifact, RunFinished, RunStarted
from infra.store import Store
from infra.tracking import Address, Tracker
from workflows.recipe import Recipe
from workflows.run.journal import Journal
from workflows.run.plan import Plan, make_plan
from workflows.run.provenance import commit
from workflows.run.records import RunRecord, find_run, load_runs
from workflows.stage import Workflow

__all__ = ["Design", "Sweep", "SweepRecord", "Trial", "find_runs", "find_sweep", "parse_grid", "plan_sweep"]

_SEED = "seed"
_RECORD = "sweep.json"


class Design(BaseModel):
    """The design of an experiment: all combinations of ``grid``, or ``draw`` of them, with ``seeds`` runs of each.

    ``primary``: the metrics that its verdict is about; they change no run.
    """

    model_config = ConfigDict(frozen=True)

    grid: dict[str, list[str]] = {}
    seeds: int = 1
    draw: int | None = None
    primary: list[str] | None = None

    @property
    def settings(self) -> list[str]:
        """The values of the grid, each as a setting."""
        return [f"{key}={value}" for key, values in self.grid.items() for value in values]


class Member(BaseModel):
    """A run of a sweep on record."""

    model_config = ConfigDict(frozen=True)

    run: str
    variant: str
    settings: list[str]


class SweepRecord(BaseModel):
    """``sweeps/{sweep}/sweep.json``: what was asked for, without secrets, and which runs that makes."""

    model_config = ConfigDict(frozen=True)

    sweep: str
    recipe: str
    settings: list[str] = []  # of all runs
    design: Design = Design()
    runs: list[Member]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. ``variant``: the combination it is of, in words; ``settings``: all of the run."""

    variant: str
    settings: tuple[str, ...]
    workflow: Workflow
    record: RunRecord


@dataclass(frozen=True)
class Sweep:
    """The runs, each combination's seeds behind one another, the first combination first."""

    name: str
    recipe: str
    settings: tuple[str, ...]  # of all trials
    design: Design
    trials: tuple[Trial, ...]

    @property
    def variants(self) -> dict[str, list[Trial]]:
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.variant, []).append(trial)
        return found

    def plans(self, root: Store) -> list[Plan]:
        return [make_plan(trial.workflow, root) for trial in self.trials]

    def folder(self, root: Store) -> Store:
        return root.child(f"sweeps/{self.name}")

    def with_records(self, change: Callable[[RunRecord], RunRecord]) -> Sweep:
        """The same sweep with ``change`` applied to the record of each run."""
        return replace(self, trials=tuple(replace(one, record=change(one.record)) for one in self.trials))

    def save(self, root: Store) -> None:
        runs = [Member(run=one.record.run, variant=one.variant, settings=_shown(one.settings)) for one in self.trials]
        grid = {key: [redact(f"{key}={one}").partition("=")[2] for one in of] for key, of in self.design.grid.items()}
        record = SweepRecord(
            sweep=self.name,
            recipe=self.recipe,
            settings=_shown(self.settings),
            design=self.design.model_copy(update={"grid": grid}),
            runs=runs,
        )
        self.folder(root).write(_RECORD, record.model_dump_json(indent=1).encode())

    def track(self, root: Store, files: Mapping[str, bytes], note: str, code: int) -> bool:
        """Keep the sweep's own ``files``, and show them and the ``note`` in MLflow above its runs.

        True if MLflow has all of it. ``code``: the exit code that it ends with.
        """
        folder = self.folder(root)
        journal = Journal(folder)
        events: list[Event] = [RunStarted(run=self.name, recipe=self.recipe, commit=commit())]
        for path, data in files.items():
            folder.write(path, data)
            events.append(RunArtifact(path=path))
        status = "done" if code == 0 else "preempted" if code in (75, 130) else "failed"
        journal.append([*events, RunFinished(run=self.name, status=status, exit_code=code, seconds=0, note=note)])
        workflow = self.trials[0].workflow.name
        tracker = Tracker(Address.find(root), workflow, root, folder, journal.read)
        tracker.start()
        return tracker.close(timeout_s=60.0)


def plan_sweep(recipe: Recipe, name: str, settings: Sequence[str], design: Design) -> Sweep:
    """The sweep of ``design`` over a recipe. ``name``: of the recipe as runs record it.

    Raises UsageError for a recipe without a seed, and for values that make no difference.
    """
    grid, seeds = design.grid, design.seeds
    if seeds > 1 and _SEED not in [parameter.name for parameter in recipe.parameters]:
        raise UsageError(
            f"recipe {recipe.name} has no parameter {_SEED!r}",
            expected="def workflow(..., seed: int = 0), passed on to what draws at random",
            fix="or name the field: --grid train.seed=0,1,2",
        )
    trials = []
    for values in _drawn(list(product(*grid.values())), design.draw):
        chosen = dict(zip(grid, values, strict=True))
        for seed in range(seeds):
            given = [*settings, *(f"{key}={value}" for key, value in chosen.items())]
            if seeds > 1:
                given.append(f"{_SEED}={seed}")
            workflow = recipe.build(given)
            record = RunRecord.of(name, given, workflow)
            trials.append(Trial(_named(chosen) or recipe.name, tuple(given), workflow, record))
    _check_different(trials)
    workflow_name = trials[0].workflow.name
    sweep = f"{workflow_name}-sweep-{digest([one.record.run for one in trials])[:8]}"
    return Sweep(sweep, name, tuple(settings), design, tuple(trials))


def find_sweep(root: Store, name: str | None) -> SweepRecord | None:
    """The record of the sweep called ``name``; None if there is none."""
    if name is None or name not in root.folders("sweeps"):
        return None
    return SweepRecord.model_validate_json(root.read(f"sweeps/{name}/{_RECORD}"))


def find_runs(root: Store, name: str | None) -> list[RunRecord]:
    """The runs of the sweep called ``name`` that have begun, in the order they do, or the run of that name.

    A run is found as by :func:`~workflows.run.records.find_run`. Raises UsageError if there is none.
    """
    sweep = find_sweep(root, name)
    if sweep is None:
        return [find_run(root, name)]
    members = [one.run for one in sweep.runs]
    found = load_runs(root, set(members).__contains__)
    if not found:
        raise UsageError(f"no run of {name} has begun")
    return sorted(found, key=lambda record: members.index(record.run))


def parse_grid(given: Sequence[str]) -> dict[str, list[str]]:
    """Values by setting, from ``field=a,b``; what is JSON stays whole: ``field=[1,2],[3]``. Raises UsageError."""
    grid: dict[str, list[str]] = {}
    for one in given:
        key, mark, text = one.partition("=")
        values = _values(text)
        if not mark or not key.strip() or not values or "" in values:
            raise UsageError(f"--grid {one} has no values", expected="parameter=a,b or stage.field=a,b")
        if key.strip() in grid:
            raise UsageError(f"--grid names {key.strip()} twice", fix=f"give all its values at once: {key.strip()}=a,b")
        if len(set(values)) < len(values):
            raise UsageError(f"--grid {one} has a value twice", fix="--seeds repeats a run with other seeds")
        grid[key.strip()] = values
    return grid


def _values(text: str) -> list[str]:
    try:
        return [value if isinstance(value, str) else json.dumps(value) for value in json.loads(f"[{text}]")]
    except ValueError:
        return [value.strip() for value in text.split(",")]


def _drawn(combinations: list[tuple[Any, ...]], draw: int | None) -> list[tuple[Any, ...]]:
    """``draw`` of the combinations, in their order, the same each time: a continued sweep is the same sweep."""
    if draw is None or draw >= len(combinations):
        return combinations
    places = random.Random(digest(combinations)).sample(range(len(combinations)), draw)
    return [combinations[place] for place in sorted(places)]


def _named(chosen: Mapping[str, str]) -> str:
    """A combination in words: fields by their last part where that tells them apart."""
    last = Counter(key.rpartition(".")[2] for key in chosen)
    short = {key: key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key for key in chosen}
    return " ".join(f"{short[key]}={value}" for key, value in chosen.items())


def _check_different(trials: Sequence[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in trials:
        other = seen.setdefault(trial.record.run, trial)
        if other is not trial:
            differ = sorted(set(trial.settings) ^ set(other.settings))
            raise UsageError(
                "two runs of the sweep are the same",
                found=", ".join(_shown(differ)),
                expected="settings that change a result; workers and time limits do not",
            )


def _shown(settings: Sequence[str]) -> list[str]:
    return [redact(one) for one in settings]
