"""The work of an evaluation, in one process: read the vectors, run the task, add the intervals, write the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.compare.config import RESAMPLED
from evaluation.embedded import open_embedded
from evaluation.evaluate.config import Config
from evaluation.intervals import Interval, interval, resampled
from infra.encoder import Captioner, Encoder, Matcher
from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet
from infra.measures import Metric
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, ShardRecord

__all__ = ["evaluate"]


def evaluate(config: Config, inputs: Mapping[str, Artifact], output: ShardOutput) -> ShardRecord:
    """Run ``config.task`` on the inputs and commit its scores to ``output``.

    Raises ConfigError if there is no such test set or it is not embedded, DataError if it cannot be used.
    """
    task, embeddings = config.task, inputs["embeddings"]
    examples = EvalSet.open(inputs["dataset"], task.dataset, task.split)
    model = inputs.get("model")
    data = open_embedded(embeddings, examples, partial(_encoder, config, model), partial(_matcher, config, model))
    data = replace(data, prompts=inputs.get("prompts"), captioner=partial(_captioner, config, model))
    scores = task.evaluate(data)
    intervals, values = _measured(config, scores.metrics)
    images = next(iter(scores.metrics.values())).images

    output.write(*_result(config, embeddings, scores.metrics, intervals))
    # What a comparison with another model pairs its own with.
    output.write_table(RESAMPLED, pa.table(dict(zip(scores.metrics, values.T, strict=True))))
    for name, columns in scores.tables.items():
        output.write_table(f"data/{name}.parquet", pa.table(dict(columns)))
    for name, groups in scores.groups.items():
        output.write_table(f"data/{name}.parquet", pa.Table.from_pylist(_rows(config, groups)))
    for name, png in scores.figures.items():
        output.write(f"figures/{name}.png", png)
    metrics = {name: asdict(interval) for name, interval in intervals.items()}
    shown = {"main": next(iter(metrics)).replace("@", "_at_"), "tables": [*scores.groups, *scores.tables]}
    return output.commit(facts={**scores.facts, **shown, "examples": images, "metrics": metrics})


def _rows(config: Config, groups: Mapping[str, Mapping[str, Metric]]) -> list[dict[str, Any]]:
    """A row for each group: its name, its number of images, and each metric with the bounds of its interval."""
    rows = []
    for name, metrics in groups.items():
        row: dict[str, Any] = {"group": name, "images": next(iter(metrics.values())).images}
        for metric, found in _measured(config, metrics)[0].items():
            row |= {metric: found.value, f"{metric}_low": found.low, f"{metric}_high": found.high}
        rows.append(row)
    return rows


def _measured(config: Config, metrics: Mapping[str, Metric]) -> tuple[dict[str, Interval], NDArray[np.float64]]:
    """Each metric on the whole test set with its interval; and all on every resample of its images, (bootstrap, m)."""
    sizes = {name: metric.images for name, metric in metrics.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(
            f"the metrics of task {config.task.kind} are not of the same images",
            expected="at least one metric, and a value for each image",
            found=", ".join(f"{name} of {images}" for name, images in sizes.items()) or "none",
        )
    values = resampled(list(metrics.values()), samples=config.bootstrap, seed=config.seed)
    found = zip(metrics.items(), values.T, strict=True)
    return {name: interval(metric, column, config.confidence) for (name, metric), column in found}, values


def _encoder(config: Config, model: Artifact | None) -> Encoder:
    """Load the model for texts that the test set does not have. Raises ConfigError if it is not given."""
    if model is None and not (config.model and config.pretrained):
        raise ConfigError(
            f"task {config.task.kind} has texts of its own to encode, and no model",
            expected="the input 'model', or the fields model and pretrained",
        )
    return config.encoder(model, batch_size=config.batch_size, cpus=config.cpus, gpus=config.gpus)


def _matcher(config: Config, model: Artifact | None) -> Matcher:
    """Load the model's fusion encoder. Raises ConfigError if the model is not given."""
    if model is None:
        raise ConfigError(
            f"task {config.task.kind} reads images and texts together, and has no model", expected="the input 'model'"
        )
    return config.matcher(model, batch_size=config.batch_size, cpus=config.cpus, gpus=config.gpus)


def _captioner(config: Config, model: Artifact | None) -> Captioner:
    """Load what writes captions. Raises ConfigError if the model is not given."""
    if model is None:
        raise ConfigError(f"task {config.task.kind} writes captions, and has no model", expected="the input 'model'")
    return config.captioner(model, batch_size=config.batch_size, cpus=config.cpus, gpus=config.gpus)


def _result(
    config: Config, embeddings: Artifact, metrics: Mapping[str, Metric], intervals: Mapping[str, Interval]
) -> tuple[str, bytes]:
    """Return the result as CLIP_benchmark's file name and JSON. Its readers use ``metrics``; ``intervals`` is ours."""
    labels = {
        "dataset": config.task.dataset,
        "pretrained": embeddings.manifest.facts["pretrained"],
        "model": embeddings.manifest.facts["model"],
        "language": config.task.language,
        "task": config.task.kind,
    }
    content = {
        **labels,
        "metrics": {name: interval.value for name, interval in intervals.items()},
        "intervals": {
            "method": {name: interval.method for name, interval in intervals.items()},
            "confidence": config.confidence,
            "samples": config.bootstrap,
            "seed": config.seed,
            "bounds": {name: [interval.low, interval.high] for name, interval in intervals.items()},
            "range": {name: list(metric.range) for name, metric in metrics.items()},
            "lower_is_better": [name for name, metric in metrics.items() if metric.lower_is_better],
        },
    }
    name = "_".join(labels.values()).replace("/", "_")
    return f"data/{name}.json", json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
