"""The report of a run: one HTML file to read, print, mail and keep.

It shows whatever a recipe's stages have written: funnels from manifests, images from ``figures/``, training curves from
``data/history.jsonl``, tables from CLIP_benchmark's JSON. The page loads nothing from the network and runs no script
(its content policy forbids both), and all text in it is escaped, since captions come from strangers.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from infra.errors import redact
from infra.run.manifest import Artifact, Manifest
from workflows.cli.console import seconds
from workflows.report import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "StageView", "funnel_png", "render"]

_HISTORY = "data/history.jsonl"
_TASKS = {
    "zeroshot_classification": "zero-shot classification",
    "zeroshot_retrieval": "retrieval",
    "linear_probe": "linear probe",
    "image_caption_selection": "image-caption selection",
    "captioning": "captioning",
}
_HEADLINES = ("acc1", "mean_recall@1", "image_retrieval_recall@1", "lp_acc1", "acc")
_NAMES = {
    "acc1": "top-1 accuracy",
    "acc5": "top-5 accuracy",
    "mean_per_class_recall": "mean per-class recall",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "logit_scale": "logit scale",
    "text_to_image": "captions and the images they find",
    "image_to_text": "images and the captions they find",
    "confusion": "confusion matrix",
    "predictions": "sample predictions",
}
_SHRINK_ABOVE = 150_000  # bytes of a PNG; photographs in PNG would make the page heavy


@dataclass(frozen=True)
class StageView:
    """A stage as the run left it. ``seconds`` its attempts took; manifest and artifact are None unless it is done."""

    name: str
    manifest: Manifest | None
    artifact: Artifact | None
    seconds: float | None
    attempts: int
    status: str


@dataclass(frozen=True)
class Report:
    """A run, its stages in the order of the recipe."""

    run_id: str
    recipe: str
    stages: Sequence[StageView]
    commits: Sequence[str] = ()  # of clipline's code, in the order they were first run


def render(report: Report) -> str:
    """The HTML of a report. Equal runs give equal bytes except for the times that the stages took."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": _duration, "size": _size, "label": _label, "number": charts.number}
    results = [result for view in report.stages for result in _results(view)]
    rows = _bars(report.stages)
    return environment.get_template("report.html.j2").render(
        report=report,
        name=Path(report.recipe).stem,
        headlines=list(_headlines(results, rows, report.stages)),
        bars=rows,
        funnel=_svg_uri(charts.funnel(rows)) if rows else "",
        galleries=[(view, figures) for view in report.stages if (figures := _figures(view))],
        trainings=[(view.name, curves) for view in report.stages if (curves := _curves(view))],
        results=results,
        times=_times(report.stages),
        versions=_versions(report.stages),
        commits=report.commits,
        stages=[_provenance(view) for view in report.stages],
    )


def funnel_png(stages: Sequence[StageView]) -> bytes:
    """The funnel as PNG, for MLflow and READMEs."""
    return charts.image(charts.funnel(_bars(stages)), "png")


def _bars(stages: Sequence[StageView]) -> list[charts.Bar]:
    return charts.bars((v.name, v.manifest.funnel) for v in stages if v.manifest is not None and v.manifest.funnel)


def _manifests(stages: Sequence[StageView]) -> list[Manifest]:
    return [view.manifest for view in stages if view.manifest is not None]


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Metric:
    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class _Result:
    """One CLIP_benchmark JSON."""

    stage: str
    dataset: str
    task: str
    model: str
    confidence: float | None
    method: str
    metrics: list[_Metric]


def _results(view: StageView) -> Iterator[_Result]:
    if view.artifact is None:
        return
    for file in view.artifact.files("data/", ".json"):
        if not file.path.removesuffix(".json").endswith(tuple(_TASKS)):
            continue
        content = json.loads(view.artifact.read(file.path))
        intervals = content.get("intervals", {})
        metrics = []
        for name, value in content["metrics"].items():
            low, high = intervals.get("bounds", {}).get(name, (None, None))
            metrics.append(_Metric(name, value, low, high))
        yield _Result(
            stage=view.name,
            dataset=content["dataset"],
            task=_TASKS[content["task"]],
            model=f"{content['model']} {content['pretrained']}",
            confidence=intervals.get("confidence"),
            method=intervals.get("method", ""),
            metrics=metrics,
        )


@dataclass(frozen=True)
class _Headline:
    value: str
    label: str
    note: str


def _headlines(
    results: Sequence[_Result], rows: Sequence[charts.Bar], stages: Sequence[StageView]
) -> Iterator[_Headline]:
    """The most important numbers: quality, amount of data, time."""
    for result in results:
        main = next((m for name in _HEADLINES for m in result.metrics if m.name == name), None)
        if main is not None:
            span = f"{main.low:.1%} – {main.high:.1%}" if main.low is not None and main.high is not None else ""
            yield _Headline(f"{main.value:.1%}", f"{_label(main.name)}, {result.dataset}", span)
    if rows:
        first, last = rows[0].funnel, rows[-1].funnel
        yield _Headline(f"{last.kept:,}", f"{last.unit} at the end", f"from {first.entered:,} {first.unit}")
    if worked := sum(view.seconds or 0 for view in stages):
        done = sum(view.status == "done" for view in stages)
        yield _Headline(seconds(worked), "of work, all stages added up", f"{done} of {len(stages)} stages done")


# --- images and curves ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Figure:
    uri: str
    label: str
    count: int | None  # rows dropped for the reason the image shows
    width: int
    height: int


def _figures(view: StageView) -> list[_Figure]:
    if view.artifact is None or view.manifest is None:
        return []
    drawn = {"training"} if view.artifact.files(_HISTORY) else set()  # the page draws the same curves
    dropped = view.manifest.funnel.dropped if view.manifest.funnel else {}
    figures = []
    for file in view.artifact.files("figures/", ".png"):
        name = Path(file.path).stem
        if name not in drawn:
            data = view.artifact.read(file.path)
            # The first chunk of a PNG holds width and height.
            width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
            reason = max((r for r in dropped if name.endswith(r)), key=len, default=None)
            figures.append(_Figure(_data_uri(data), _label(name), dropped[reason] if reason else None, width, height))
    return figures


def _data_uri(png: bytes) -> str:
    kind, data = "png", png
    if len(png) > _SHRINK_ABOVE:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB").save(buffer, "WEBP", quality=88, method=4)
        if buffer.tell() < len(png):
            kind, data = "webp", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _svg_uri(figure: Figure) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(charts.image(figure, 'svg')).decode()}"


@dataclass(frozen=True)
class _Curve:
    name: str
    uri: str
    last: float


def _curves(view: StageView) -> list[_Curve]:
    """A curve over the step for every number in the training history."""
    if view.artifact is None or not view.artifact.files(_HISTORY):
        return []
    lines = [json.loads(line) for line in view.artifact.read(_HISTORY).splitlines() if line.strip()]
    step = next((key for key in ("samples", "step") if lines and key in lines[0]), None)
    if step is None:
        return []
    names = dict.fromkeys(name for line in lines for name in line if name != step)
    curves = []
    for name in names:
        points = [(line[step], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
        if figure := charts.curve(points, "samples seen" if step == "samples" else step):
            curves.append(_Curve(name, _svg_uri(figure), points[-1][1]))
    return curves


# --- time and provenance ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Time:
    view: StageView
    share: float  # of the longest stage
    bytes: int | None
    rate: str


def _times(stages: Sequence[StageView]) -> list[_Time]:
    longest = max((view.seconds or 0 for view in stages), default=0)
    times = []
    for view in stages:
        funnel = view.manifest.funnel if view.manifest else None
        rate = (
            f"{charts.number(round(funnel.entered / view.seconds, 1))} {funnel.unit}/s"
            if funnel and view.seconds
            else ""
        )
        size = sum(file.bytes for file in view.manifest.files) if view.manifest else None
        times.append(_Time(view, (view.seconds or 0) / longest if longest else 0, size, rate))
    return times


def _versions(stages: Sequence[StageView]) -> dict[str, str]:
    """Package versions of all stages; more than one of a package are listed."""
    found: dict[str, dict[str, None]] = {}
    for manifest in _manifests(stages):
        for name, version in manifest.provenance.get("versions", {}).items():
            found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in sorted(found.items())}


def _provenance(view: StageView) -> dict[str, Any]:
    manifest = view.manifest
    config = manifest.identity.get("config", {}) if manifest else {}
    return {
        "view": view,
        "config": redact(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)) if config else "",
        "inputs": manifest.identity.get("inputs", {}) if manifest else {},
        "facts": redact(json.dumps(manifest.facts, indent=2, ensure_ascii=False))
        if manifest and manifest.facts
        else "",
    }


# --- words and numbers ------------------------------------------------------------------------------------------------


def _label(name: str) -> str:
    """A readable name: ``dropped_text_length`` -> ``dropped: text length``."""
    if name in _NAMES:
        return _NAMES[name]
    for prefix in ("kept", "dropped"):
        if name.startswith((f"{prefix}_", f"{prefix}-")):
            return f"{prefix}: {_label(name[len(prefix) + 1 :])}"
    return name.replace("_retrieval_recall", " recall").replace("_", " ").strip()


def _duration(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else seconds(value)


def _size(count: int | None) -> str:
    if count is None:
        return "–"
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
