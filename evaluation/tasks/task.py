"""What zero-shot classification and retrieval share: their parameters, where they compute, and the form of a result.

An evaluation is one task on the cluster: features stay in its memory and only numbers, a table and pictures leave it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from infra.cluster import Limits, run_shards
from infra.config import Config, Runtime
from infra.encoder import OpenClipEncoder, Precision, load_encoder
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Interval", "Task", "batched", "evaluate", "intervals", "result", "set_up"]

T = TypeVar("T")


class Task(Config):
    """The parameters of any evaluation."""

    dataset: str = Field("seen", description="test set: a folder in CLIP_benchmark's layout below the artifact's data/")
    split: str = Field("test", description="split of the test set")
    language: str = Field("en", description="language of the set's texts, as recorded in the result")
    precision: Precision = Field("fp32", description="fp32, or autocast to bf16 or fp16, while encoding")
    bootstrap: int = Field(1000, ge=1, description="resamples of the images behind each confidence interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: int = Field(0, description="seed of the resampling and of the choice of pictured samples")
    batch_size: Runtime[int] = Field(64, ge=1, description="images or texts encoded at once")
    cpus: Runtime[int] = Field(1, ge=1, description="CPU cores of the task, one torch thread each")
    device: Runtime[str] = Field("auto", description="auto (a GPU if the task is given one), cpu or cuda")


@dataclass(frozen=True)
class Interval:
    """A metric and its bootstrap interval."""

    value: float
    low: float
    high: float


def evaluate(
    config: Task,
    inputs: Mapping[str, Artifact],
    context: Context,
    work: Callable[[tuple[Any, dict[str, Artifact]], ShardOutput], ShardRecord],
) -> Manifest:
    """Run ``work((config, inputs), output)`` as one task; the intervals among its facts become the metrics."""
    spec = (config, dict(inputs))
    (record,) = run_shards(context, [(config.dataset.replace("/", "_"), spec)], work, Limits(cpus=config.cpus))
    metrics: dict[str, float] = {}
    for name, interval in record.facts["metrics"].items():
        plain = name.replace("@", "_at_")  # MLflow takes no @ in a metric's name
        metrics |= {plain: interval["value"], f"{plain}_low": interval["low"], f"{plain}_high": interval["high"]}
    return context.finish([record], metrics=metrics, facts={k: v for k, v in record.facts.items() if k != "metrics"})


def set_up(config: Task, model: Artifact) -> OpenClipEncoder:
    """The encoder of ``model``, and torch on as many threads as the task has cores."""
    import torch

    torch.set_num_threads(config.cpus)
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return load_encoder(model, device=device, precision=config.precision, batch_size=config.batch_size)


def intervals(
    config: Task, names: Sequence[str], units: int, statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]]
) -> dict[str, Interval]:
    """Each metric on the whole set, with its interval over resampled images."""
    import numpy as np

    from evaluation.intervals import percentile_interval

    low, high = percentile_interval(
        statistic, units, samples=config.bootstrap, confidence=config.confidence, seed=config.seed
    )
    whole = statistic(np.arange(units)[None])[0]
    return {
        name: Interval(float(value), float(bottom), float(top))
        for name, value, bottom, top in zip(names, whole, low, high, strict=True)
    }


def result(config: Task, model: Artifact, task: str, metrics: Mapping[str, Interval]) -> tuple[str, bytes]:
    """CLIP_benchmark's file name and JSON. Its readers take ``metrics``; the intervals stand beside it, under ours."""
    labels = {
        "dataset": config.dataset,
        "pretrained": f"{model.manifest.stage}-{model.manifest.digest[:12]}",
        "model": _architecture(model),
        "language": config.language,
        "task": task,
    }
    content = {
        **labels,
        "metrics": {name: interval.value for name, interval in metrics.items()},
        "intervals": {
            "method": "percentile bootstrap over images",
            "confidence": config.confidence,
            "samples": config.bootstrap,
            "seed": config.seed,
            "bounds": {name: [interval.low, interval.high] for name, interval in metrics.items()},
        },
    }
    name = "_".join(labels.values()).replace("/", "_")
    return f"data/{name}.json", json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def _architecture(model: Artifact) -> str:
    """The model's name in open_clip, if it has one."""
    name = model.manifest.identity.get("config", {}).get("model")
    return name if isinstance(name, str) else "CLIP"


def batched(items: Iterable[T], size: int) -> Iterable[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
