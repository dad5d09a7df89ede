"""Runs and artifacts below a root as ``clipline ls`` lists them, from few requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from infra.errors import LeaseHeld
from infra.events import RunFinished, RunStarted
from infra.run.manifest import MANIFEST, Manifest
from infra.store import Store
from workflows.run.journal import Journal
from workflows.run.records import RunRecord, load_runs, run_states

__all__ = ["Row", "artifacts", "run_state", "runs"]

_AT_ONCE = 16
_SAID = {"preempted": "stopped"}


@dataclass(frozen=True)
class Row:
    """A run. ``state``: done | failed | stopped | running | interrupted (killed) | waiting (nothing has begun).

    ``changed``: parameters and fields that differ from the recipe's defaults. ``headline``: the main metrics of models
    and evaluations in the order of the recipe; those of a run that has not ended are not known.
    """

    run: str
    started: float  # seconds since the epoch
    state: str
    seconds: float | None  # that it took, when it has ended
    stages: int
    stages_done: int | None
    changed: dict[str, Any]
    headline: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def runs(root: Store, wanted: Callable[[str], bool] = lambda name: True) -> list[Row]:
    """The runs whose names are wanted, the latest started last.

    One file of each is read. Only of those whose record has no end (running, killed, or of earlier versions) the
    journal and the stages are looked at.
    """
    records = load_runs(root, wanted)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda record: _row(root, record), records))


def _row(root: Store, record: RunRecord) -> Row:
    ended = record.ended
    return Row(
        record.run,
        record.started,
        run_state(root, record),
        ended.seconds if ended else None,
        len(record.stages),
        ended.stages_done if ended else None,
        record.changed,
        ended.headline if ended else {},
    )


def run_state(root: Store, record: RunRecord) -> str:
    """The ``state`` of a :class:`Row`."""
    if record.ended:
        return _SAID.get(record.ended.status, record.ended.status)
    states = {stage.state for stage in run_states(root, record)}
    if "running" in states:
        return "running"
    events, _ = Journal(root.child(f"runs/{record.run}")).read()
    last = next((event for event in reversed(events) if isinstance(event, (RunStarted, RunFinished))), None)
    if isinstance(last, RunFinished) and last.exit_code != LeaseHeld.exit_code:  # else only a second process ended
        return _SAID.get(last.status, last.status)
    if states == {"waiting"}:
        return "waiting"
    return "done" if states <= {"done"} else "interrupted"


def artifacts(root: Store, stages: Sequence[str] | None = None) -> list[tuple[str, Manifest]]:
    """The finished artifacts of these stages, or of all, as their folders and manifests."""
    folders = [
        f"artifacts/{stage}/{digest}"
        for stage in (root.folders("artifacts") if stages is None else stages)
        for digest in root.folders(f"artifacts/{stage}")
    ]
    found = root.read_there([f"{folder}/{MANIFEST}" for folder in folders])
    return [
        (path.removesuffix(f"/{MANIFEST}"), Manifest.from_bytes(data, f"{root.url}/{path}"))
        for path, data in found.items()
    ]
