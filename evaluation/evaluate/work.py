"""The work of an evaluation, in one process: load the model, run the task, add the intervals, write the files.

Features stay in this process's memory; only numbers, tables and figures leave it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.compare.config import RESAMPLED
from evaluation.evaluate.config import Config
from evaluation.intervals import percentile_interval, resampled
from evaluation.tasks import Scores
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, ShardRecord

__all__ = ["Interval", "evaluate"]


@dataclass(frozen=True)
class Interval:
    """A metric and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def evaluate(config: Config, inputs: Mapping[str, Artifact], output: ShardOutput) -> ShardRecord:
    """Run ``config.task`` on the inputs and commit its scores to ``output``.

    Raises ConfigError if there is no such test set, DataError if it or the model cannot be used.
    """
    task, model = config.task, inputs.get("model")
    examples = EvalSet.open(inputs["dataset"], task.dataset, task.split)
    encoder = config.encoder(model, batch_size=config.batch_size, cpus=config.cpus, gpus=config.gpus)
    scores = task.evaluate(encoder, examples)
    intervals, values = _measured(config, scores)

    output.write(*_result(config, model, intervals))
    # What a comparison with another model pairs its own with.
    output.write_table(RESAMPLED, pa.table(dict(zip(scores.names, values.T, strict=True))))
    for name, columns in scores.tables.items():
        output.write_table(f"data/{name}.parquet", pa.table(dict(columns)))
    for name, png in scores.figures.items():
        output.write(f"figures/{name}.png", png)
    metrics = {name: asdict(interval) for name, interval in intervals.items()}
    return output.commit(facts={**scores.facts, "examples": scores.examples, "metrics": metrics})


def _measured(config: Config, scores: Scores) -> tuple[dict[str, Interval], NDArray[np.float64]]:
    """Each metric on the whole test set with its interval; and all on every resample of its images, (bootstrap, m)."""
    whole = scores.statistic(np.arange(scores.examples)[None])
    if whole.shape != (1, len(scores.names)):
        raise DataError(
            f"the statistic of task {config.task.kind} does not fit its metrics",
            expected=f"(b, {len(scores.names)}) values for {', '.join(scores.names)}",
            found=f"{whole.shape} for one resample",
        )
    values = resampled(scores.statistic, scores.examples, samples=config.bootstrap, seed=config.seed)
    low, high = percentile_interval(values, config.confidence)
    intervals = {
        name: Interval(float(value), float(bottom), float(top))
        for name, value, bottom, top in zip(scores.names, whole[0], low, high, strict=True)
    }
    return intervals, values


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
            "method": "percentile bootstrap over images",
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
