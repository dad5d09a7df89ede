"""Test that a run's model is better than the registered one: paired by test image, with an interval above 0.

Who the champion is, the model registry says; its evaluation is looked for among the artifacts of the same root. If it
cannot be told, the gate stays closed, and says why: a model must not become champion because a server was down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from infra.errors import CliplineError, DataError, UsageError
from infra.run.lineage import model_of
from infra.run.manifest import Artifact, Manifest
from infra.store import Store
from infra.tracking import Address
from workflows.stage import Gate

__all__ = ["Better", "better_than_champion"]


@dataclass(frozen=True)
class Better:
    """One metric of ``Gate.better``: the model's value, the champion's, and the bounds of the difference, if known.

    ``note``: why not, or that there is no other champion yet.
    """

    metric: str
    found: float | None = None
    champion: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    alone: bool = False
    lower_is_better: bool = False

    @property
    def passed(self) -> bool:
        if self.found is None or self.low is None or self.high is None:
            return self.found is not None and self.alone
        return self.high < 0 if self.lower_is_better else self.low > 0


def better_than_champion(gate: Gate, done: Mapping[str, Manifest], root: Store) -> list[Better]:
    """Compare each metric of ``gate.better`` with the model that has the gate's alias now."""
    if not gate.better:
        return []
    from infra.tracking.models import champion  # loads MLflow

    try:
        digest, trouble = champion(Address.find(root), gate.name, gate.alias), ""
    except CliplineError as error:
        digest, trouble = None, error.message
    checks = []
    for key in gate.better:
        stage, _, metric = key.partition(".")
        found = done[stage].metrics.get(metric) if stage in done else None
        if found is None or trouble:
            checks.append(Better(key, found, note=trouble or "this run has no such metric"))
        elif digest is None or digest == done[gate.model].digest:
            checks.append(Better(key, found, note=f"there is no other {gate.alias} of {gate.name}", alone=True))
        else:
            checks.append(_compared(key, metric, done[stage], digest, root))
    return checks


def _compared(key: str, metric: str, manifest: Manifest, champion: str, root: Store) -> Better:
    from evaluation.compare.work import compare_artifacts  # loads numpy

    folder = f"artifacts/{manifest.stage}/{manifest.digest[:16]}"
    found, own = manifest.metrics[metric], Artifact(root.child(folder), manifest)
    reason = "it has no evaluation of this kind here: evaluate it, too"
    for other in _evaluations(root, manifest.stage, champion):
        try:
            comparison = compare_artifacts({"champion": [other], "this": [own]}, primary=[metric])
        except (DataError, UsageError) as error:  # of other test images, another task, or without this metric
            reason = f"{error.message}: {error.found}"
            continue
        for row in comparison.rows:
            if metric == row.metric.replace("@", "_at_"):
                apart = row.difference
                return Better(key, found, row.baseline, apart.low, apart.high, lower_is_better=row.lower_is_better)
    return Better(key, found, note=f"not compared with the champion: {reason}"[:500])


def _evaluations(root: Store, stage: str, model: str) -> Iterator[Artifact]:
    """The artifacts of ``stage`` that evaluate the model with that digest."""
    for folder in root.folders(f"artifacts/{stage}"):
        artifact = Artifact.find(root.child(f"artifacts/{stage}/{folder}"))
        if artifact is not None and model_of(root, artifact.manifest) == model:
            yield artifact
