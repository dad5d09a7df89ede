"""Read evaluations and match them: which are of the same task, which share their resamples, which are of one model."""

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

__all__ = ["Evaluation", "Matched", "by_task", "check_paired", "estimate", "match", "read_evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one task.

    ``task``: its name in tables; ``options``: the fields of it that differ from their defaults. ``model``: its name in
    CLIP_benchmark's results, which holds the digest of the trained artifact, or the tag of published weights.
    ``pairing``: what two evaluations must agree in to be paired image by image, by name.
    ``shares``: the metrics that are shares of right answers; ``lower``: those of which less is better.
    """

    task: str
    name: str
    model: str
    options: Mapping[str, Any]
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
        "split": task.get("split", "test"),
        "number of images": manifest.facts["examples"],
        "bootstrap": config["bootstrap"],
        "seed": config["seed"],
    }
    title = f"{task['dataset']} {task['kind'].removeprefix('zeroshot_')}"
    if (language := task.get("language", "en")) != "en":
        title += f" ({language})"
    return Evaluation(
        task=title,
        name=manifest.name,
        model=f"{result['model']} {result['pretrained']}",
        # Without defaults: a field that the task got since then, at its default, makes it no other task.
        options=manifest.identity.get("config", {}).get("task", task),
        pairing=pairing,
        images=manifest.facts["examples"],
        values=result["metrics"],
        resampled={name: table[name].to_numpy() for name in table.column_names},
        # Only shares have an interval of Wilson's.
        shares=frozenset(name for name, how in methods.items() if how.startswith("Wilson")),
        lower=frozenset(result.get("intervals", {}).get("lower_is_better", [])),
    )


def by_task(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """The evaluations of one variant by task, those of one task taken as its seeds; one given twice counts once.

    Raises DataError if those of one task cannot be paired, or are two of one model, which are no two seeds.
    """
    found: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        seeds = found.setdefault(one.task, [])
        if one.name in (other.name for other in seeds):
            continue
        if twice := [other.name for other in seeds if other.model == one.model]:
            raise DataError(
                f"{twice[0]} and {one.name} are of one model, and cannot be two seeds of a variant",
                expected="one evaluation of each model on a task",
                found=f"two of {one.model} on {one.task}",
                fix="compare them as two variants",
            )
        if seeds:
            check_paired(seeds[0], one)
        seeds.append(one)
    return found


@dataclass(frozen=True)
class Matched:
    """The evaluations of one task that stand for the baseline and for a variant.

    ``same_models``: both are of the same models, in the same order; else each has all of its own.
    """

    baseline: Sequence[Evaluation]
    other: Sequence[Evaluation]
    same_models: bool


def match(baseline: Sequence[Evaluation], other: Sequence[Evaluation]) -> Matched:
    """Pair two variants' evaluations of one task by model, where both evaluated the same ones in different ways.

    Models that only one of them evaluated are then left out. Raises DataError if the evaluations cannot be paired.
    """
    of_model = {one.model: one for one in other}
    # The very same evaluation on both sides is no second way to evaluate its model.
    shared = [one for one in baseline if one.model in of_model and one.name != of_model[one.model].name]
    found = Matched(baseline, other, same_models=False)
    if shared:
        found = Matched(shared, [of_model[one.model] for one in shared], same_models=True)
    check_paired(found.baseline[0], found.other[0])
    return found


def estimate(seeds: Sequence[Evaluation], metric: str) -> Estimate:
    """A metric of a variant, whose evaluations of one task are its seeds."""
    return Estimate(
        np.array([one.values[metric] for one in seeds]),
        np.stack([one.resampled[metric] for one in seeds]),
        seeds[0].images if metric in seeds[0].shares else None,
    )


def check_paired(one: Evaluation, other: Evaluation) -> None:
    """Raise DataError if two evaluations are not on the same resamples of the same images.

    Those of two models must be of the same task, too: else nobody could tell which of both makes the difference.
    """
    pairing = {name: (value, other.pairing[name]) for name, value in one.pairing.items()}
    if one.model != other.model:
        pairing["task"] = one.options, other.options
    for what, (value, found) in pairing.items():
        if value != found:
            raise DataError(
                f"{one.name} and {other.name} cannot be compared image by image",
                expected=f"the same {what}",
                found=f"{value} and {found}",
            )
