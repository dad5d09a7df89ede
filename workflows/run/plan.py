"""The plan of a run: what it would do and the reasons, from manifests alone.

Planning writes nothing and imports neither Ray nor torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from infra.config import flatten
from infra.errors import UsageError
from infra.extras import extras_of, missing, require
from infra.run.ledger import Ledger
from infra.run.manifest import Artifact, Manifest
from infra.store import Store
from workflows.run.accepted import Change, not_accepted
from workflows.run.drift import changed_modules, source_digests
from workflows.stage import Stage, Workflow

__all__ = ["Plan", "Selection", "Step", "changed_fields", "changes", "described", "make_plan", "short"]


@dataclass(frozen=True)
class Selection:
    """The stages a command selects; empty means all.

    ``start``/``until`` cut the graph: a stage with all that depends on it / with all that it needs.
    ``force`` stages run although they are done. ``rerun_drift`` does so for stages whose source changed.
    """

    only: Sequence[str] = ()
    start: str | None = None
    until: str | None = None
    force: Sequence[str] = ()
    rerun_drift: bool = False

    def choose(self, workflow: Workflow) -> set[str]:
        for name in (*self.only, *self.force, *filter(None, (self.start, self.until))):
            workflow[name]  # raises UsageError for a name that is not there
        needs: dict[str, set[str]] = {}  # of each stage: itself and everything upstream of it
        for stage in workflow:
            needs[stage.name] = {stage.name}.union(*(needs[source.name] for source in stage.inputs.values()))
        chosen = set(needs)
        if self.only:
            chosen &= set(self.only)
        if self.start:
            chosen &= {name for name, upstream in needs.items() if self.start in upstream}
        if self.until:
            chosen &= needs[self.until]
        return chosen


@dataclass(frozen=True)
class Step:
    """One stage's part of a plan.

    ``cached``: its manifest is there. ``run``: it will run, because of ``why``. ``left``: it would run, but the
    selection leaves it out. ``drifted``: modules of the stage's code that changed since the artifact was made.
    ``rebuilt``: inputs with other content than the artifact was made of. Both are changes that nobody has accepted;
    ``accepted`` names those that somebody has. ``progress``: how far an unfinished stage is, in words.
    """

    stage: Stage
    action: Literal["cached", "run", "left"]
    why: tuple[str, ...] = ()
    manifest: Manifest | None = None
    drifted: Mapping[str, Change] = field(default_factory=dict)
    rebuilt: Mapping[str, Change] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()
    shards_done: int = 0
    progress: str = ""

    @property
    def lacking(self) -> list[str]:
        """Names of clipline's extras that the stage needs and that are not installed here."""
        return [extra for extra in extras_of(self.stage.config) if missing(extra)]


@dataclass(frozen=True)
class Plan:
    workflow: Workflow
    steps: tuple[Step, ...]
    selection: Selection = field(default_factory=Selection)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.stage.name == name)

    def has(self, digest: str) -> bool:
        """True if a stage of that digest is part of it."""
        return any(step.stage.digest == digest for step in self.steps)

    @property
    def to_run(self) -> list[Step]:
        return [step for step in self.steps if step.action == "run"]

    def check_installed(self) -> None:
        """Raise ConfigError if stages that will run need packages that are not installed here."""
        needed = {extra for step in self.to_run for extra in step.lacking}
        if needed:
            names = [step.stage.name for step in self.to_run if step.lacking]
            require(sorted(needed), f"stage{'s' if len(names) > 1 else ''} {_listed(names)}")


def make_plan(workflow: Workflow, root: Store, selection: Selection | None = None) -> Plan:
    """Look at every stage's artifact below ``root`` and decide.

    Raises UsageError when the selection leaves out a stage whose result a selected one needs.
    """
    selection = selection or Selection()
    chosen = selection.choose(workflow)
    steps: dict[str, Step] = {}
    for stage in workflow:
        step = _step(stage, root, steps, selection)
        if step.action == "run" and stage.name not in chosen:
            step = replace(step, action="left")
        steps[stage.name] = step
        missing = [source.name for source in stage.inputs.values() if steps[source.name].action == "left"]
        if step.action == "run" and missing:
            raise UsageError(
                f"stage {stage.name} needs {', '.join(missing)}, which the selection leaves out and is not done",
                fix=f"run it first: --until {missing[0]}",
            )
    return Plan(workflow, tuple(steps.values()), selection)


def _step(stage: Stage, root: Store, before: dict[str, Step], selection: Selection) -> Step:
    folder = root.child(stage.folder)
    artifact = Artifact.find(folder)
    manifest = artifact.manifest if artifact else None
    modules, contents = _changes_since(stage, manifest, before)
    drifted, rebuilt = not_accepted(folder, modules, contents)
    accepted = tuple(sorted((modules.keys() - drifted.keys()) | (contents.keys() - rebuilt.keys())))
    why: list[str] = []
    if manifest is not None and manifest.location != stage.config.location():
        why.append(f"its files are at {stage.config.location()} now")
    if stage.name in selection.force:
        why.append("forced")
    if drifted and selection.rerun_drift:
        why.append(f"its source changed: {_listed(sorted(drifted))}")
    if manifest is None:
        why += _differences(stage, root)
    for name, source in stage.inputs.items():
        upstream = before[source.name]
        # Stages are deterministic, so a repaired or forced input usually comes out the same; whether it did is known
        # only when it is there, and until then its dependants are due.
        if manifest is None or upstream.action == "left":
            continue  # an input that is left out changes nothing: somebody may have removed it to make room
        if upstream.action == "run":
            why.append(f"input {name} ({source.name}) will run")
        elif name in rebuilt:
            why.append(f"input {name} ({source.name}) was rebuilt with other content")
    done = Ledger(folder).count() if manifest is None else 0
    progress = stage.config.progress(folder) if manifest is None else ""
    if done or progress:
        why.append(f"continues: {progress or f'{done} shards are committed'}")
    action: Literal["cached", "run"] = "run" if why else "cached"
    return Step(stage, action, tuple(why), manifest, drifted, rebuilt, accepted, done, progress)


def _changes_since(
    stage: Stage, manifest: Manifest | None, before: dict[str, Step]
) -> tuple[dict[str, Change], dict[str, Change]]:
    """The modules, and the content of the inputs, that are not as they were when the artifact was made."""
    if manifest is None:
        return {}, {}
    old, new = manifest.provenance.get("source", {}), source_digests(stage.run, stage.config)
    source: dict[str, Change] = {name: (old.get(name), new.get(name)) for name in changed_modules(old, new)}
    recorded: dict[str, str] = manifest.provenance.get("inputs", {})
    contents: dict[str, Change] = {
        name: (recorded.get(name), made.content_digest)
        for name, upstream in stage.inputs.items()
        if (made := before[upstream.name].manifest) and recorded.get(name) != made.content_digest
    }
    return source, contents


def _differences(stage: Stage, root: Store) -> list[str]:
    """Return the differences between the stage and the most similar artifact there is."""
    folders = [root.child(f"artifacts/{stage.name}/{name}") for name in root.folders(f"artifacts/{stage.name}")]
    others = [artifact.manifest for folder in folders if (artifact := Artifact.find(folder))]
    if not others:
        return ["not done yet"]
    new = described(stage.identity, stage.config.resolved())
    return min((list(changes(described(other.identity, other.config), new)) for other in others), key=len)


def described(identity: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """An identity with every field of the configuration, so that a difference shows both values.

    What only the identity knows (the content of adopted files, code versions of parts) is kept.
    """
    return {**identity, "config": _merged(config, identity["config"])}


def _merged(values: Any, over: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(values, dict) and isinstance(over, dict):
        return {**values, **{key: _merged(values.get(key), item) for key, item in over.items()}}
    if isinstance(values, list) and isinstance(over, list) and len(values) == len(over):
        return [_merged(value, item) for value, item in zip(values, over, strict=True)]
    return over


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Each difference of two :func:`described` identities, as ``field: old -> new``."""
    if old["code_version"] != new["code_version"]:
        yield f"code version {old['code_version']} -> {new['code_version']}"
    for name in sorted({*old["inputs"], *new["inputs"]}):
        if old["inputs"].get(name) != new["inputs"].get(name):
            yield f"input {name} changed"
    for key, (before, after) in changed_fields(old["config"], new["config"]).items():
        yield f"{key}: {short(before)} -> {short(after)}"


_ABSENT = object()


def changed_fields(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """The fields in which two configurations differ, by path; :func:`short` shows a value that is not there."""
    before, after = flatten(_numbered(old)), flatten(_numbered(new))
    pairs = {key: (before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in sorted({*before, *after})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _numbered(value: object) -> object:
    """Lists of records as dictionaries by position, so that a change in one shows as that field's."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    return {key: _numbered(item) for key, item in value.items()} if isinstance(value, dict) else value


def _listed(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def short(value: object) -> str:
    """A value of a field as a line has room for."""
    text = "(none)" if value is _ABSENT else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
