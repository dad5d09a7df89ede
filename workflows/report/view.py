"""A run as its report shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.run.manifest import Artifact, Manifest

__all__ = ["HISTORY", "Report", "StageView"]

HISTORY = "data/history.jsonl"  # of a training stage: a JSON object per line


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
