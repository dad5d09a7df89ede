"""Read evaluations and match them: which are of the same task, and which share their resamples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from evaluation.compare.config import RESAMPLED
from evaluation.compare.differences import Estimate
from infra.errors import DataError
from infra.run.manifest import Artifact

__all__ = ["Evaluation", "check_paired", "estimates", "read_evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one task.

    ``task``: its name in tables. ``pairing``: what two evaluations must agree in to be paired, by name.
    ``shares``: the metrics that are shares of right answers; ``lower``: those of which less is better.
    """

    task: str
    name: str
    pairing: Mapping[str, Any]
    images: int
    values: Mapping[str, float]
    resampled: Mapping[str, np.ndarray[Any, Any]]
    shares: frozenset[str]
    lower: frozenset[str]


def read_evaluation(artifact: Artifact) -> Evaluation:
    """Read an artifact of the stage ``evaluate``. Raises DataError if it is none, or of a version without resamples."""
    manifest = artifact.manifest
    results = [file.path for file in artifact.files("data/", ".json")]
    if len(results) != 1 or not artifact.files(RESAMPLED):
        raise DataError(
            f"{manifest.name} holds no scores that can be compared",
            expected="an evaluation of this version",
            fix="evaluate again",
        )
    with artifact.store.open(RESAMPLED) as source:
        table = pq.read_table(source)
    result = json.loads(artifact.read(results[0]))
    methods = result.get("intervals", {}).get("method", {})
    config, task = manifest.config, manifest.config["task"]
    pairing = {
        "test set": manifest.identity.get("inputs", {}).get("dataset"),
        # Without defaults: a field that the task got since then, at its default, makes it no other task.
        "task": manifest.identity.get("config", {}).get("task", task),
        "bootstrap": config["bootstrap"],
        "seed": config["seed"],
    }
    title = f"{task['dataset']} {task['kind'].removeprefix('zeroshot_')}"
    if (language := task.get("language", "en")) != "en":
        title += f" ({language})"
    return Evaluation(
        task=title,
        name=manifest.name,
        pairing=pairing,
        images=manifest.facts["examples"],
        values=result["metrics"],
        resampled={name: table[name].to_numpy() for name in table.column_names},
        # Only shares have an interval of Wilson's.
        shares=frozenset(name for name, how in methods.items() if how.startswith("Wilson")),
        lower=frozenset(result.get("intervals", {}).get("lower_is_better", [])),
    )


def estimates(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], tuple[Estimate, Evaluation]]:
    """Estimates of one variant by task and metric, its evaluations of one task taken as its seeds.

    With each comes the first of these evaluations. Raises DataError if those of one task cannot be paired.
    """
    by_task: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        by_task.setdefault(one.task, []).append(one)
    found = {}
    for task, seeds in by_task.items():
        for other in seeds[1:]:
            check_paired(seeds[0], other)
        for metric in seeds[0].values:
            values = np.array([one.values[metric] for one in seeds])
            resampled = np.stack([one.resampled[metric] for one in seeds])
            images = seeds[0].images if metric in seeds[0].shares else None
            found[task, metric] = Estimate(values, resampled, images), seeds[0]
    return found


def check_paired(one: Evaluation, other: Evaluation) -> None:
    """Raise DataError if two evaluations are not of the same task on the same resamples of the same images."""
    for what, value in one.pairing.items():
        if other.pairing[what] != value:
            raise DataError(
                f"{one.name} and {other.name} cannot be compared image by image",
                expected=f"the same {what}",
                found=f"{value} and {other.pairing[what]}",
            )
