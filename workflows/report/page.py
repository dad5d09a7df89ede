"""The report of a run: one HTML file to read, print, mail and keep.

It shows whatever a recipe's stages have written: funnels from manifests, images from ``figures/``, training curves from
``data/history.jsonl``, tables from CLIP_benchmark's JSON. The page loads nothing from the network and runs no script
(its content policy forbids both), and all text in it is escaped, since captions come from strangers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from infra.errors import redact
from infra.run.manifest import Manifest
from workflows.cli.console import seconds
from workflows.report import text
from workflows.report.bars import Bar, bars
from workflows.report.embedded import curves, draw_funnel, images, pages, svg_uri
from workflows.report.results import Metric, Result, results
from workflows.report.view import Report, StageView

__all__ = ["funnel_png", "render"]

# The metric that stands for a result: the first of these it has.
_HEADLINES = ("acc1_corrupted", "acc1", "mean_recall@1", "image_retrieval_recall@1", "lp_acc1", "knn_acc1", "acc")
_CARDS = 4  # for one metric of one test set


def render(report: Report) -> str:
    """The HTML of a report. Equal runs give equal bytes except for the times that the stages took."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": text.duration, "size": text.size, "label": text.label, "number": text.number}
    scores = [result for view in report.stages for result in results(view)]
    rows = _bars(report.stages)
    return environment.get_template("report.html.j2").render(
        report=report,
        name=Path(report.recipe).stem,
        headlines=list(_headlines(scores, rows, report.stages)),
        bars=rows,
        funnel=svg_uri(draw_funnel(rows, "svg")) if rows else "",
        galleries=[(view, found, pages(view)) for view in report.stages if (found := images(view))],
        trainings=[(view.name, drawn) for view in report.stages if (drawn := curves(view))],
        results=scores,
        times=_times(report.stages),
        versions=_versions(report.stages),
        commits=report.commits,
        stages=[_provenance(view) for view in report.stages],
    )


def funnel_png(stages: Sequence[StageView]) -> bytes:
    """The funnel as PNG, for MLflow and READMEs."""
    return draw_funnel(_bars(stages), "png")


def _bars(stages: Sequence[StageView]) -> list[Bar]:
    return bars((v.name, v.manifest.funnel) for v in stages if v.manifest is not None and v.manifest.funnel)


def _manifests(stages: Sequence[StageView]) -> list[Manifest]:
    return [view.manifest for view in stages if view.manifest is not None]


@dataclass(frozen=True)
class _Headline:
    value: str
    label: str
    note: str


def _headlines(scores: Sequence[Result], rows: Sequence[Bar], stages: Sequence[StageView]) -> Iterator[_Headline]:
    """The most important numbers: quality, amount of data, time."""
    alike: dict[str, list[tuple[str, Metric]]] = {}
    for result in scores:
        if main := next((m for name in _HEADLINES for m in result.metrics if m.name == name), None):
            alike.setdefault(f"{text.label(main.name)}, {result.dataset}", []).append((result.stage, main))
    for title, found in alike.items():
        yield from _quality(title, found)
    if rows:
        first, last = rows[0].funnel, rows[-1].funnel
        yield _Headline(f"{last.kept:,}", f"{last.unit} at the end", f"from {first.entered:,} {first.unit}")
    if worked := sum(view.seconds or 0 for view in stages):
        done = sum(view.status == "done" for view in stages)
        yield _Headline(seconds(worked), "of work in all stages", f"{done} of {len(stages)} stages done")


def _quality(title: str, found: Sequence[tuple[str, Metric]]) -> Iterator[_Headline]:
    """A card for each of a few models, which it names, or one for the range of many."""
    if len(found) > _CARDS:
        (worst, low), *_, (best, high) = sorted(found, key=lambda one: one[1].value)
        span = f"{len(found)} models, from {worst} to {best}"
        yield _Headline(f"{low.value:.1%} – {high.value:.1%}", title, span)
        return
    for stage, main in found:
        span = f"{main.low:.1%} – {main.high:.1%}" if main.low is not None and main.high is not None else ""
        whose = [stage] if len(found) > 1 else []
        yield _Headline(f"{main.value:.1%}", title, ": ".join([*whose, *filter(None, [span])]))


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
            f"{text.number(round(funnel.entered / view.seconds, 1))} {funnel.unit}/s" if funnel and view.seconds else ""
        )
        size = view.manifest.size if view.manifest else None
        times.append(_Time(view, (view.seconds or 0) / longest if longest else 0, size, rate))
    return times


def _versions(stages: Sequence[StageView]) -> dict[str, str]:
    """Package versions over all stages; several of one package are joined by commas."""
    found: dict[str, dict[str, None]] = {}
    for manifest in _manifests(stages):
        for name, version in manifest.provenance.get("versions", {}).items():
            found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in sorted(found.items())}


def _provenance(view: StageView) -> dict[str, Any]:
    manifest = view.manifest
    config = manifest.config if manifest else {}
    return {
        "view": view,
        "config": redact(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)) if config else "",
        "inputs": manifest.identity.get("inputs", {}) if manifest else {},
        "facts": redact(json.dumps(manifest.facts, indent=2, ensure_ascii=False))
        if manifest and manifest.facts
        else "",
    }
