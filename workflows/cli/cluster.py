"""Commands about the machines and servers a run needs: ``doctor``, ``sync``."""

from __future__ import annotations

from infra.errors import CliplineError
from infra.store import open_store
from infra.tracking import Address, Tracker
from workflows.cli.doctor import checks
from workflows.cli.options import DEFAULT_ROOT, Root, RunName
from workflows.cli.terminal import stdout
from workflows.run.journal import Journal
from workflows.run.records import find_run

__all__ = ["doctor", "sync"]


def doctor(root: Root = DEFAULT_ROOT) -> None:
    """Check this machine: Python, packages, the store, Ray, MLflow, GPUs, disk and memory."""
    out, bad = stdout(), 0
    for check in checks(open_store(root)):
        mark, style = {"ok": ("ok", "green"), "warn": ("note", "yellow"), "bad": ("BAD", "red")}[check.verdict]
        out.print(f"{mark:<5}", style=style, end="")
        out.print(f"{check.name:<17}{check.detail}", markup=False)
        bad += check.verdict == "bad"
    if bad:
        raise CliplineError(f"{bad} check{'s' if bad > 1 else ''} failed")


def sync(name: RunName = None, root: Root = DEFAULT_ROOT) -> None:
    """Send to MLflow the events of a run that it is missing, for example after an outage."""
    store = open_store(root)
    record = find_run(store, name)
    folder = store.child(f"runs/{record.run}")
    experiment = record.run.rpartition("-")[0]
    tracker = Tracker(Address.find(store), experiment, store, folder, Journal(folder).read)
    tracker.start()
    if not tracker.close(timeout_s=600):
        fix = "" if tracker.degraded.startswith("The root") else "check MLFLOW_TRACKING_URI"
        raise CliplineError("MLflow did not take everything", found=tracker.degraded, fix=fix)
    stdout().print(tracker.page or "")
