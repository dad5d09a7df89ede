"""Runs on record: what was asked for, and how each stage stands, read from manifests, leases and the journal."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python

from infra.config import digest
from infra.errors import UsageError, redact, redact_values
from infra.events import Progress, StageCached, StageFailed, StageFinished, StageStarted
from infra.run.lease import current_claim
from infra.run.manifest import MANIFEST, Artifact
from infra.store import Store
from workflows.run.journal import Journal
from workflows.run.plan import Selection, changes, described
from workflows.run.provenance import commit
from workflows.stage import Workflow

__all__ = ["Ended", "RunRecord", "StageState", "find_run", "finished", "list_runs", "load_runs", "run_states"]


class _Planned(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    folder: str
    inputs: dict[str, str]
    described: dict[str, Any] = {}  # the identity with every field, to say later what has changed


class Ended(BaseModel):
    """The end of a run, kept in its record so that a list of runs reads one file of each."""

    model_config = ConfigDict(frozen=True)

    status: str  # done | failed | preempted
    at: float  # seconds since the epoch
    seconds: float
    stages_done: int
    headline: dict[str, float] = {}  # the main metrics of models and evaluations, by ``stage.metric``


class RunRecord(BaseModel):
    """``runs/{run}/run.json``: enough to resume the run and to show it without its recipe."""

    model_config = ConfigDict(frozen=True)

    run: str
    recipe: str  # absolute path of the recipe file, or the name of a built-in one
    recipe_digest: str = ""  # sha256 of that file
    copy_path: str = ""  # below the root, of the recipe file as it was submitted; empty if the file itself is there
    job: str = ""  # submission id of a run that was submitted
    directory: str = ""  # where the command was given: relative paths in the settings start there
    settings: list[str]
    changed: dict[str, Any] = {}  # parameters and fields that differ from the recipe's defaults
    selection: Selection = Selection()
    stages: list[_Planned]
    started: float = 0.0  # seconds since the epoch; only for people, and to list the latest last
    commit: str = ""  # of clipline's checkout when it last began
    ended: Ended | None = None  # None while it runs, and after it was killed

    @classmethod
    def of(
        cls, recipe: str, settings: Iterable[str], workflow: Workflow, selection: Selection | None = None
    ) -> RunRecord:
        """The run of a workflow. Its name holds a digest of all fingerprints: the same plan is always the same run."""
        name = f"{workflow.name}-{digest([stage.digest for stage in workflow])[:8]}"
        stages = [
            _Planned(
                name=stage.name,
                folder=stage.folder,
                inputs={name: source.name for name, source in stage.inputs.items()},
                described=redact_values(described(stage.identity, stage.config.resolved())),
            )
            for stage in workflow
        ]
        path = Path(recipe).absolute()
        return cls(
            run=name,
            recipe=str(path) if path.is_file() else recipe,
            recipe_digest=hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            directory=str(Path.cwd()),
            settings=list(settings),
            changed=redact_values(to_jsonable_python(dict(workflow.changed), fallback=str)),
            selection=selection or Selection(),
            stages=stages,
        )

    @property
    def origin(self) -> dict[str, str]:
        """Fields that a submitted run keeps when it is continued from another place; none for a run started here."""
        if not self.job:
            return {}
        return {"recipe": self.recipe, "copy_path": self.copy_path, "job": self.job, "directory": ""}

    def recipe_file(self, root: Store, to: Path) -> str:
        """The recipe to load: the run's copy, brought into the folder ``to`` from a remote root, or what was given."""
        return str(root.fetch(self.copy_path, to)) if self.copy_path else self.recipe

    def check_same(self, workflow: Workflow) -> None:
        """Raise UsageError, naming stage and field, if ``workflow`` is not the one on record: resuming is going on
        with the same work, and an edited recipe is other work.
        """
        now = RunRecord.of(self.recipe, self.settings, workflow)
        if now.run == self.run:
            return
        before = {stage.name: stage.described for stage in self.stages}
        found = []
        for stage in now.stages:
            if stage.name not in before:
                found.append(f"stage {stage.name} is new")
            elif differences := [line for line in changes(before[stage.name], stage.described) if "input " not in line]:
                found += [f"{stage.name}.{line}" for line in differences]
        found += [f"stage {name} is gone" for name in before if name not in {stage.name for stage in now.stages}]
        edited = now.recipe_digest != self.recipe_digest
        raise UsageError(
            f"run {self.run} was started with another recipe",
            found="; ".join(found) or "its stages have other inputs",
            expected=f"{self.recipe} as it was" if edited else "the same data and versions as then",
            fix=f"start a new run, which reuses all that is done: clipline run {self.recipe}",
        )

    def check_whole(self) -> None:
        """Raise UsageError if a secret in the settings was not recorded: only the command itself has it."""
        if any("***" in setting for setting in self.settings):
            raise UsageError(
                f"run {self.run} was started with a secret in its settings, which is not kept",
                fix=f"repeat the command: clipline run {self.recipe} --set ..., which goes on where it was",
            )

    def save(self, root: Store) -> RunRecord:
        """Write the record of a run that starts now, without secrets in its settings; the record as written."""
        settings = [redact(setting) for setting in self.settings]
        now = {"started": time.time(), "commit": commit(), "settings": settings, "ended": None}
        started = self.model_copy(update=now)
        started._write(root)
        return started

    def left_open(self, root: Store) -> bool:
        """True if this run was begun and never ended: its stages may be done, but not gate, report and MLflow."""
        return root.exists(f"runs/{self.run}/run.json") and RunRecord.load(root, self.run).ended is None

    def end(self, root: Store, ended: Ended) -> None:
        """Write the record of a run that was saved and has ended."""
        self.model_copy(update={"ended": ended})._write(root)

    def _write(self, root: Store) -> None:
        root.write(f"runs/{self.run}/run.json", self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, root: Store, run: str) -> RunRecord:
        return cls.model_validate_json(root.read(f"runs/{run}/run.json"))


def load_runs(root: Store, wanted: Callable[[str], bool] = lambda name: True) -> list[RunRecord]:
    """The records of the runs below ``root`` whose names are wanted, the latest started last.

    On an object store: one listing, and one request a run, many at once.
    """
    places = [f"runs/{name}/run.json" for name in root.folders("runs") if wanted(name)]
    records = [RunRecord.model_validate_json(data) for data in root.read_there(places).values()]
    return sorted(records, key=lambda record: record.started)


def list_runs(root: Store) -> list[str]:
    """Names of the runs below ``root``, the latest started last."""
    return [record.run for record in load_runs(root)]


def find_run(root: Store, name: str | None) -> RunRecord:
    """The run of that name or unique beginning; without a name the latest. Raises UsageError."""
    records = load_runs(root)
    if not records:
        raise UsageError(f"there are no runs below {root.url}", fix="clipline run quickstart")
    if name is None:
        return records[-1]
    matches = [one for one in records if one.run == name] or [one for one in records if one.run.startswith(name)]
    if len(matches) != 1:
        known = ", ".join(one.run for one in records)
        raise UsageError(f"{name!r} names {len(matches)} runs", expected=f"one of {known}")
    return matches[0]


def finished(root: Store, record: RunRecord) -> list[Artifact]:
    """The artifacts of the run's finished stages, in the order of the recipe."""
    return [artifact for stage in record.stages if (artifact := Artifact.find(root.child(stage.folder)))]


@dataclass(frozen=True)
class StageState:
    """``state``: done | running | failed | interrupted | waiting. A holder on another machine counts as running:
    only what is certainly gone is called interrupted."""

    name: str
    folder: str
    state: str
    seconds: float | None = None
    attempts: int = 0
    progress: str = ""
    error: str = ""
    cached: bool = False

    def as_dict(self) -> dict[str, Any]:
        return vars(self)


def run_states(root: Store, record: RunRecord) -> list[StageState]:
    """Return the present state of each stage of a run."""
    events, _ = Journal(root.child(f"runs/{record.run}")).read()
    latest: dict[str, dict[str, Any]] = {stage.name: {} for stage in record.stages}
    for event in events:
        facts = latest.get(event.stage)
        if facts is None:
            continue
        match event:
            case StageStarted():
                facts.update(attempts=event.attempt, error="", began=event.time, progress="", cached=False)
            case Progress() if event.total:
                facts["progress"] = f"{event.done}/{event.total}"
            case StageFailed():
                facts["error"] = "" if event.preempted else event.error
            case StageFinished():
                facts.update(seconds=event.seconds, error="")
            case StageCached():
                facts["cached"] = "seconds" not in facts
    states = []
    for stage in record.stages:
        facts, folder = latest[stage.name], root.child(stage.folder)
        shown = {key: value for key, value in facts.items() if key != "began"}
        if folder.exists(MANIFEST):
            state, shown["progress"] = "done", ""
        elif current_claim(folder):
            state = "running"
        elif facts.get("error"):
            state = "failed"
        else:
            state = "interrupted" if facts.get("began") or folder.paths("ledger") else "waiting"
        states.append(StageState(stage.name, stage.folder, state, **shown))
    return states
