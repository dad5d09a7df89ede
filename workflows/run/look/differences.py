"""The differences between two runs: what was asked for, of which data, by which code, and what came of it.

What was asked for is in the runs' records, the rest in the manifests of their stages. Stages that both runs share are
one artifact and differ in nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from infra.run.manifest import MANIFEST, Manifest
from infra.store import Store
from workflows.run.drift import changed_modules
from workflows.run.plan import changed_fields, short
from workflows.run.records import RunRecord

__all__ = ["Differences", "Score", "differences"]

Pair = tuple[Any, Any]
"""The values of the first and the second run; None where a run has none."""

_CONTENT = "content"  # the digest of what an adopting stage took, in its identity


@dataclass(frozen=True)
class Score:
    """A metric in both runs. ``low``, ``high``: its 95% interval, where the stage gives one."""

    values: Pair
    low: Pair
    high: Pair

    @property
    def has_interval(self) -> bool:
        return None not in (*self.low, *self.high)


@dataclass
class Differences:
    """Everything in which two runs differ; keys are ``stage.field`` unless said otherwise."""

    runs: tuple[str, str]
    parameters: dict[str, Pair] = field(default_factory=dict)  # as recipe and --set name them
    stages: dict[str, Pair] = field(default_factory=dict)  # True for the run that has the stage, by stage
    config: dict[str, Pair] = field(default_factory=dict)
    inputs: dict[str, Pair] = field(default_factory=dict)  # content of adopted data; the stage an input comes from
    code: dict[str, Pair] = field(default_factory=dict)  # commit, code versions of stages, versions of packages
    modules: dict[str, list[str]] = field(default_factory=dict)  # source files that differ, by stage
    funnel: dict[str, Pair] = field(default_factory=dict)
    metrics: dict[str, Score] = field(default_factory=dict)
    unfinished: dict[str, list[str]] = field(default_factory=dict)  # stages without a result, by run

    def __bool__(self) -> bool:
        return any(value for name, value in vars(self).items() if name not in ("runs", "unfinished"))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def differences(root: Store, one: RunRecord, other: RunRecord) -> Differences:
    """Compare two runs below ``root``, whether they have ended or not."""
    found = Differences((one.run, other.run))
    found.parameters = _unequal(one.changed, other.changed)
    if one.commit != other.commit:
        found.code["commit"] = (one.commit or None, other.commit or None)
    before, after = ({stage.name: stage for stage in record.stages} for record in (one, other))
    folders = {stage.folder for stages in (before, after) for stage in stages.values()}
    data = root.read_there([f"{folder}/{MANIFEST}" for folder in sorted(folders)])
    manifests = {path.removesuffix(f"/{MANIFEST}"): Manifest.from_bytes(text, path) for path, text in data.items()}
    for record, stages in ((one, before), (other, after)):
        if lacking := [name for name, stage in stages.items() if stage.folder not in manifests]:
            found.unfinished[record.run] = lacking
    for name in dict.fromkeys((*before, *after)):
        if name not in before or name not in after:
            found.stages[name] = (name in before, name in after)
        elif before[name].folder != after[name].folder:
            old, new = before[name], after[name]
            _compare_plans(found, name, (old.described, new.described), (old.inputs, new.inputs))
            _compare_results(found, name, manifests.get(old.folder), manifests.get(new.folder))
    return found


def _compare_plans(
    found: Differences,
    stage: str,
    described: tuple[dict[str, Any], dict[str, Any]],
    inputs: tuple[dict[str, str], dict[str, str]],
) -> None:
    old, new = described
    if old.get("code_version") != new.get("code_version"):
        found.code[f"{stage}.code_version"] = (old.get("code_version"), new.get("code_version"))
    for key, (before, after) in changed_fields(old.get("config", {}), new.get("config", {})).items():
        into = found.inputs if key == _CONTENT else found.config
        into[f"{stage}.{key}"] = (_json(before), _json(after))
    found.inputs |= {f"{stage}.{name}": pair for name, pair in _unequal(*inputs).items()}


def _compare_results(found: Differences, stage: str, old: Manifest | None, new: Manifest | None) -> None:
    if old and new:
        sources = [one.provenance.get("source", {}) for one in (old, new)]
        if modules := changed_modules(*sources):
            found.modules[stage] = list(modules)
        versions = [one.provenance.get("versions", {}) for one in (old, new)]
        found.code |= _unequal(*versions)
    counts = [dict(_counts(one)) for one in (old, new)]
    found.funnel |= {f"{stage}.{name}": pair for name, pair in _unequal(*counts).items()}
    scores = [one.metrics if one else {} for one in (old, new)]
    for name in _unequal(*scores):
        if not name.endswith(("_low", "_high")):
            keys = (name, f"{name}_low", f"{name}_high")
            found.metrics[f"{stage}.{name}"] = Score(*((scores[0].get(key), scores[1].get(key)) for key in keys))


def _counts(manifest: Manifest | None) -> Iterator[tuple[str, int]]:
    if manifest and (funnel := manifest.funnel):
        yield from (("entered", funnel.entered), ("kept", funnel.kept))
        yield from ((f"dropped.{reason}", count) for reason, count in funnel.dropped.items())


def _unequal(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Pair]:
    pairs = {key: (old.get(key), new.get(key)) for key in dict.fromkeys((*old, *new))}
    return {key: pair for key, pair in pairs.items() if repr(pair[0]) != repr(pair[1])}  # NaN is unequal to itself


def _json(value: object) -> object:
    """A field's value; the words for one that is not there are :func:`short`'s."""
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else short(value)
