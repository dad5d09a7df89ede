"""How a run ends on the terminal: the funnel, the metrics with their intervals, and where to see more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from infra.events import RunStarted
from infra.run.manifest import Artifact, Manifest
from infra.store import Store
from workflows.cli.console import print_json
from workflows.run.journal import Journal
from workflows.run.records import RunRecord, run_states

if TYPE_CHECKING:
    from rich.console import Console

    from infra.tracking import Address

__all__ = ["manifests", "note", "report_files", "show", "show_address"]


def show(record: RunRecord, root: Store, out: Console, *, as_json: bool) -> None:
    """Print funnel and metrics of every finished stage of the run."""
    done = manifests(record, root)
    if as_json:
        rows = {m.stage: {"funnel": m.funnel.model_dump() if m.funnel else None, "metrics": m.metrics} for m in done}
        print_json({"run": record.run, "stages": rows})
        return
    from rich import box
    from rich.table import Table

    funnel = Table("stage", "unit", box=box.SIMPLE_HEAD, title="Funnel", title_justify="left")
    for name in ("entered", "kept"):
        funnel.add_column(name, justify="right")
    funnel.add_column("dropped")
    for manifest in done:
        if manifest.funnel:
            drops = sorted(manifest.funnel.dropped.items(), key=lambda item: -item[1])
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in drops if count)
            counts = (f"{manifest.funnel.entered:,}", f"{manifest.funnel.kept:,}")
            funnel.add_row(manifest.stage, manifest.funnel.unit, *counts, reasons)
    metrics = Table("stage", "metric", box=box.SIMPLE_HEAD, title="Metrics", title_justify="left")
    metrics.add_column("value", justify="right")
    metrics.add_column("95% interval", justify="right")
    for manifest in done:
        for name, value, interval in _intervals(manifest):
            metrics.add_row(manifest.stage, name, f"{value:.3f}", interval)
    for table in (funnel, metrics):
        if table.row_count:
            out.print(table)


def manifests(record: RunRecord, root: Store) -> list[Manifest]:
    """Those of the run's finished stages, in the order of the recipe."""
    folders = [root.child(stage.folder) for stage in record.stages]
    return [artifact.manifest for folder in folders if (artifact := Artifact.find(folder))]


def _intervals(manifest: Manifest) -> Iterator[tuple[str, float, str]]:
    """Metrics that have bounds beside them (``acc1``, ``acc1_low``, ``acc1_high``), with the bounds."""
    for name, value in manifest.metrics.items():
        low, high = manifest.metrics.get(f"{name}_low"), manifest.metrics.get(f"{name}_high")
        if low is not None and high is not None:
            yield name, value, f"{low:.3f} - {high:.3f}"


def note(record: RunRecord, root: Store) -> str:
    """The run's funnel and metrics as Markdown, for its page in MLflow."""
    funnel, metrics = ["| stage | entered | kept |", "|---|---:|---:|"], ["| metric | value | 95% |", "|---|---:|---|"]
    for manifest in manifests(record, root):
        if manifest.funnel:
            counts = f"{manifest.funnel.entered:,} {manifest.funnel.unit} | {manifest.funnel.kept:,}"
            funnel.append(f"| {manifest.stage} | {counts} |")
        for name, value, interval in _intervals(manifest):
            metrics.append(f"| {manifest.stage} {name} | {value:.3f} | {interval} |")
    return "\n".join([*funnel, "", *metrics])


def show_address(address: Address, page: str | None, out: Console) -> None:
    """The command that opens MLflow, then, as the last line, the address of the run."""
    if address.ui_command:
        out.print(f"See it in MLflow:  {address.ui_command}", soft_wrap=True)
    if page:
        out.print(page, style="bold", soft_wrap=True)


def report_files(root: Store, record: RunRecord) -> Iterator[tuple[str, bytes]]:
    """The run's report and the picture of its funnel, by file name."""
    from workflows.report import page as report

    views = []
    for state in run_states(root, record):
        folder = root.child(state.folder)
        artifact = Artifact.load(folder) if state.state == "done" else None
        manifest = artifact.manifest if artifact else None
        views.append(report.StageView(state.name, manifest, artifact, state.seconds, state.attempts, state.state))
    events, _ = Journal(root.child(f"runs/{record.run}")).read()
    commits = dict.fromkeys(event.commit for event in events if isinstance(event, RunStarted) and event.commit)
    yield "report.html", report.render(report.Report(record.run, record.recipe, views, list(commits))).encode()
    if any(view.manifest and view.manifest.funnel for view in views):
        yield "funnel.png", report.funnel_png(views)
