"""The results of a run: manifests, metrics with intervals, the note in MLflow and the files of its report."""

from __future__ import annotations

from collections.abc import Iterator

from infra.events import RunStarted
from infra.run.manifest import Artifact, Manifest
from infra.store import Store
from workflows.report.view import Report, StageView
from workflows.run.journal import Journal
from workflows.run.records import RunRecord, finished, run_states

__all__ = ["intervals", "manifests", "note", "report_files", "tables_of_counts"]


def manifests(record: RunRecord, root: Store) -> list[Manifest]:
    """The manifests of the run's finished stages, in the order of the recipe."""
    return [artifact.manifest for artifact in finished(root, record)]


def intervals(manifest: Manifest) -> Iterator[tuple[str, float, str]]:
    """The metrics with bounds (``acc1`` with ``acc1_low`` and ``acc1_high``): name, value, interval as text."""
    for name, value in manifest.metrics.items():
        low, high = manifest.metrics.get(f"{name}_low"), manifest.metrics.get(f"{name}_high")
        if low is not None and high is not None:
            yield name, value, f"{low:.3f} - {high:.3f}"


def tables_of_counts(manifest: Manifest) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the facts that are counts by reason (``records``: page 20, damaged 1), the largest first, by name."""
    for name, fact in manifest.facts.items():
        if isinstance(fact, dict) and any(fact.values()) and all(type(count) is int for count in fact.values()):
            yield name, {reason: count for reason, count in sorted(fact.items(), key=lambda item: -item[1]) if count}


def note(record: RunRecord, root: Store) -> str:
    """The run's funnel and metrics as Markdown, for its page in MLflow."""
    funnel, metrics = ["| stage | entered | kept |", "|---|---:|---:|"], ["| metric | value | 95% |", "|---|---:|---|"]
    for manifest in manifests(record, root):
        if manifest.funnel:
            counts = f"{manifest.funnel.entered:,} {manifest.funnel.unit} | {manifest.funnel.kept:,}"
            funnel.append(f"| {manifest.stage} | {counts} |")
        for name, value, interval in intervals(manifest):
            metrics.append(f"| {manifest.stage} {name} | {value:.3f} | {interval} |")
    return "\n".join([*funnel, "", *metrics])


def report_files(root: Store, record: RunRecord) -> Iterator[tuple[str, bytes]]:
    """The report of a run and the image of its funnel, by file name."""
    from workflows.report import page  # loads jinja2 and pyarrow, which status has no time for

    views = []
    for state in run_states(root, record):
        folder = root.child(state.folder)
        artifact = Artifact.load(folder) if state.state == "done" else None
        manifest = artifact.manifest if artifact else None
        views.append(StageView(state.name, manifest, artifact, state.seconds, state.attempts, state.state))
    events, _ = Journal(root.child(f"runs/{record.run}")).read()
    commits = dict.fromkeys(event.commit for event in events if isinstance(event, RunStarted) and event.commit)
    yield "report.html", page.render(Report(record.run, record.recipe, views, list(commits))).encode()
    if any(view.manifest and view.manifest.funnel for view in views):
        yield "funnel.png", page.funnel_png(views)
