"""The result of a run on the terminal: funnel, counts, metrics with their intervals, and where to see more."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from infra.store import Store
from infra.tracking import Address
from workflows.cli.console import print_json
from workflows.report.summary import intervals, manifests, tables_of_counts
from workflows.run.records import RunRecord

__all__ = ["show", "show_address"]


def show(record: RunRecord, root: Store, out: Console, *, as_json: bool) -> None:
    """Print funnel, counts and metrics of every finished stage of the run."""
    done = manifests(record, root)
    if as_json:
        stages = {
            m.stage: {
                "funnel": m.funnel.to_json() if m.funnel else None,
                "counts": dict(tables_of_counts(m)),
                "metrics": m.metrics,
            }
            for m in done
        }
        print_json({"run": record.run, "stages": stages})
        return
    funnel = Table("stage", "unit", box=box.SIMPLE_HEAD, title="Funnel", title_justify="left")
    for name in ("entered", "kept"):
        funnel.add_column(name, justify="right")
    funnel.add_column("dropped")
    for manifest in done:
        if manifest.funnel:
            drops = sorted(manifest.funnel.dropped.items(), key=lambda item: -item[1])
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in drops if count)
            sizes = (f"{manifest.funnel.entered:,}", f"{manifest.funnel.kept:,}")
            funnel.add_row(manifest.stage, manifest.funnel.unit, *sizes, reasons)
    metrics = Table("stage", "metric", box=box.SIMPLE_HEAD, title="Metrics", title_justify="left")
    metrics.add_column("value", justify="right")
    metrics.add_column("95% interval", justify="right")
    for manifest in done:
        for name, value, interval in intervals(manifest):
            metrics.add_row(manifest.stage, name, f"{value:.3f}", interval)
    counts = Table("stage", "of", "counts", box=box.SIMPLE_HEAD, title="Counts", title_justify="left")
    for manifest in done:
        for name, values in tables_of_counts(manifest):
            counts.add_row(manifest.stage, name, ", ".join(f"{reason} {count:,}" for reason, count in values.items()))
    for table in (funnel, counts, metrics):
        if table.row_count:
            out.print(table)


def show_address(address: Address, page: str | None, out: Console) -> None:
    """Print the command that opens MLflow and, as the last line, the URL of the run."""
    if address.ui_command:
        out.print(f"See it in MLflow:  {address.ui_command}", soft_wrap=True, markup=False)
    if page:
        out.print(page, style="bold", soft_wrap=True, markup=False)
