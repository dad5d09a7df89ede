"""The work of an evaluation, in one process: load the model, run the task, add the intervals, write the files.

Features stay in this process's memory; only numbers, tables and figures leave it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.compare.config import RESAMPLED
from evaluation.evaluate.config import Config
from evaluation.intervals import Interval, interval, resampled
from evaluation.tasks import Scores
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, ShardRecord

__all__ = ["evaluate"]


def evaluate(config: Config, inputs: Mapping[str, Artifact], output: ShardOutput) -> ShardRecord:
    """Run ``config.task`` on the inputs and commit its scores to ``output``.

    Raises ConfigError if there is no such test set, DataError if it or the model cannot be used.
    """
    task, model = config.task, inputs.get("model")
    examples = EvalSet.open(inputs["dataset"], task.dataset, task.split)
    encoder = config.encoder(model, batch_size=config.batch_size, cpus=config.cpus, gpus=config.gpus)
    scores = task.evaluate(encoder, examples)
    intervals, values = _measured(config, scores)
    images = next(iter(scores.metrics.values())).images

    output.write(*_result(config, model, intervals))
    # What a comparison with another model pairs its own with.
    output.write_table(RESAMPLED, pa.table(dict(zip(scores.metrics, values.T, strict=True))))
    for name, columns in scores.tables.items():
        output.write_table(f"data/{name}.parquet", pa.table(dict(columns)))
    for name, png in scores.figures.items():
        output.write(f"figures/{name}.png", png)
    metrics = {name: asdict(interval) for name, interval in intervals.items()}
    return output.commit(facts={**scores.facts, "examples": images, "metrics": metrics})


def _measured(config: Config, scores: Scores) -> tuple[dict[str, Interval], NDArray[np.float64]]:
    """Each metric on the whole test set with its interval; and all on every resample of its images, (bootstrap, m)."""
    sizes = {name: metric.images for name, metric in scores.metrics.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(
            f"the metrics of task {config.task.kind} are not of the same images",
            expected="at least one metric, and a value for each image",
            found=", ".join(f"{name} of {images}" for name, images in sizes.items()) or "none",
        )
    values = resampled(list(scores.metrics.values()), samples=config.bootstrap, seed=config.seed)
    found = zip(scores.metrics.items(), values.T, strict=True)
    return {name: interval(metric, column, config.confidence) for (name, metric), column in found}, values


def _result(config: Config, model: Artifact | None, intervals: Mapping[str, Interval]) -> tuple[str, bytes]:
    """Return the result as CLIP_benchmark's file name and JSON. Its readers use ``metrics``; ``intervals`` is ours."""
    labels = {
        "dataset": config.task.dataset,
        "pretrained": f"{model.manifest.stage}-{model.manifest.digest[:12]}" if model else str(config.pretrained),
        "model": config.model or _architecture(model),
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
        },
    }
    name = "_".join(labels.values()).replace("/", "_")
    return f"data/{name}.json", json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def _architecture(model: Artifact | None) -> str:
    """The name in open_clip of a trained model, if it has one."""
    name = model.manifest.config.get("model") if model else None
    return name if isinstance(name, str) else "CLIP"
