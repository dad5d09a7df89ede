"""The evaluation results in a run's artifacts."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from infra.run.manifest import Artifact
from workflows.report.view import StageView

__all__ = ["Metric", "Result", "results"]

_TASKS = {
    "zeroshot_classification": "zero-shot classification",
    "zeroshot_corrupted": "zero-shot classification under corruptions",
    "zeroshot_retrieval": "retrieval",
    "linear_probe": "linear probe",
    "image_caption_selection": "image-caption selection",
    "multiple_choice": "multiple choice",
    "captioning": "captioning",
}

_ROBUSTNESS = "data/robustness.parquet"
_METHOD = "squares of the parts' intervals added up (Zou and Donner, 2008)"
_ACCURACIES = {
    "standard": "accuracy on the standard set",
    "shifted": "accuracy on the shifted set",
    "expected": "accuracy that the line expects",
    "effective_robustness": "effective robustness",
}


@dataclass(frozen=True)
class Metric:
    name: str
    value: float
    low: float | None
    high: float | None
    axis: tuple[float, float] = (0.0, 1.0)
    """Ends of the line that it is drawn on."""

    def place(self, value: float) -> float:
        """Position of ``value`` on the axis, in percent."""
        start, end = self.axis
        return 100 * (value - start) / (end - start)


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
    """The results in a stage's artifact: CLIP_benchmark's JSON of an evaluation, rows of effective robustness."""
    if view.artifact is None:
        return
    if view.artifact.files(_ROBUSTNESS):
        yield from _robustness(view, view.artifact)
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
            ends = intervals.get("range", {}).get(name, (0.0, 1.0))
            metrics.append(Metric(name, value, low, high, _axis(ends, [value, low, high])))
        yield Result(
            stage=view.name,
            dataset=content["dataset"],
            task=_TASKS.get(content["task"], content["task"].replace("_", " ")),
            model=f"{content['model']} {content['pretrained']}",
            confidence=intervals.get("confidence"),
            method=", ".join(dict.fromkeys(intervals.get("method", {}).values())),
            metrics=metrics,
        )


def _robustness(view: StageView, artifact: Artifact) -> Iterator[Result]:
    """A result for each model and shift: its two accuracies, and what it has beyond the line."""
    for row in pq.read_table(io.BytesIO(artifact.read(_ROBUSTNESS))).to_pylist():
        metrics = []
        for name, title in _ACCURACIES.items():
            low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
            least = -1.0 if name == "effective_robustness" else 0.0
            metrics.append(Metric(title, row[name], low, high, (least, 1.0)))
        confidence = artifact.manifest.config["confidence"]
        yield Result(view.name, row["shift"], "effective robustness", row["model"], confidence, _METHOD, metrics)


def _axis(ends: Sequence[float | None], shown: Sequence[float | None]) -> tuple[float, float]:
    """An axis from the least to the most that a metric can be, as far as is known; it holds all that is ``shown``."""
    values = [value for value in shown if value is not None]
    low, high = ends
    low = min([*values, *([] if low is None else [low])])
    high = max([*values, *([] if high is None else [high])])
    if (low, high) == (0.0, 1.0):
        return low, high
    # Round numbers behind what no bound ends: 1, 2, 5, 10, 20, 50, ...
    wide = high - low or 1.0
    power = 10 ** math.floor(math.log10(wide))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= wide)
    return low, low + step if ends[1] is None or high > ends[1] else high
