"""The evaluation results in a run's artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from workflows.report.view import StageView

__all__ = ["Metric", "Result", "results"]

_TASKS = {
    "zeroshot_classification": "zero-shot classification",
    "zeroshot_retrieval": "retrieval",
    "linear_probe": "linear probe",
    "image_caption_selection": "image-caption selection",
    "captioning": "captioning",
}


@dataclass(frozen=True)
class Metric:
    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Result:
    """One CLIP_benchmark JSON."""

    stage: str
    dataset: str
    task: str
    model: str
    confidence: float | None
    method: str
    metrics: list[Metric]


def results(view: StageView) -> Iterator[Result]:
    if view.artifact is None:
        return
    # CLIP_benchmark ends a result's file name with its task: one of its own, or the kind of a task from a recipe.
    task = view.artifact.manifest.config.get("task")
    kinds = (*_TASKS, *([task["kind"]] if isinstance(task, dict) and "kind" in task else []))
    for file in view.artifact.files("data/", ".json"):
        if not file.path.removesuffix(".json").endswith(kinds):
            continue
        content = json.loads(view.artifact.read(file.path))
        intervals = content.get("intervals", {})
        metrics = []
        for name, value in content["metrics"].items():
            low, high = intervals.get("bounds", {}).get(name, (None, None))
            metrics.append(Metric(name, value, low, high))
        yield Result(
            stage=view.name,
            dataset=content["dataset"],
            task=_TASKS.get(content["task"], content["task"].replace("_", " ")),
            model=f"{content['model']} {content['pretrained']}",
            confidence=intervals.get("confidence"),
            method=", ".join(dict.fromkeys(intervals.get("method", {}).values())),
            metrics=metrics,
        )
