"""Runs a plan from beginning to end: Ray, the journal and MLflow around the stages, then the gate and the report.

The stages themselves are run by :class:`~workflows.run.driver.Driver`. Everything that happens becomes an event of the
journal; the console and MLflow follow it.
"""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from infra import cluster
from infra.errors import CliplineError, LeaseHeld, Preempted, redact
from infra.events import Event, Gate, Listener, RunArtifact, RunFinished, RunStarted
from infra.store import Store
from infra.tracking import Address, Tracker
from workflows import user
from workflows.report.summary import manifests, note, report_files
from workflows.run.champion import Better, better_than_champion
from workflows.run.journal import Journal
from workflows.run.plan import Plan
from workflows.run.provenance import commit
from workflows.run.reclaim import settled
from workflows.run.records import RunRecord
from workflows.run.signals import SignalHandler
from workflows.stage import Check

__all__ = ["Options", "Outcome", "run"]


@dataclass(frozen=True)
class Options:
    """Options of a run; none of them can change a result."""

    cpus: int | None = None  # of a local Ray; None: all
    stages: int | None = None  # at once; None: as many as there are CPUs, 2 to 16
    wait: bool = False  # for a lease another run holds, instead of giving up
    grace_s: float = 30.0  # a stage asked to stop has this long to save its state
    tracking_required: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a run."""

    run: str
    status: str  # done | failed | preempted
    exit_code: int
    error: CliplineError | None = None
    page: str | None = None  # of the run in the MLflow UI
    tracked: bool = True  # whether MLflow got all of the journal


def run(plan: Plan, root: Store, record: RunRecord, options: Options, listen: Listener) -> Outcome:
    """Run the stages of the plan that are due. ``record`` is saved first; ``listen`` gets every event.

    Never raises for a stage's failure: it is the Outcome's ``error``.
    """
    name = record.run
    record.save(root)
    folder = root.child(f"runs/{name}")
    journal = Journal(folder)

    def emit(events: list[Event]) -> None:
        journal.append(events)
        listen(events)

    tracker = Tracker(Address.find(root), plan.workflow.name, root, folder, journal.read)
    started = time.monotonic()
    emit([RunStarted(run=name, recipe=record.recipe, settings=redact(" ".join(record.settings)), commit=commit())])
    error: CliplineError | None = None
    concluding: Future[None] | None = None
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        signals = stack.enter_context(SignalHandler.installed())
        # The stages, with the services they need, on a cluster.
        try:
            plan = _settled(plan, root, wait=options.wait)
            for service in plan.workflow.services:
                stack.enter_context(service())
            with cluster.connect(options.cpus):
                user.publish()
                tracker.start()  # not sooner: importing MLflow would hold Ray up, which everything waits for
                signals.install()  # again: Ray installs its own handler for SIGTERM
                _run_stages(plan, root, emit, signals, options)
                concluding = pool.submit(_conclude, plan, root, record, folder, emit)  # while Ray shuts down
        except CliplineError as caught:
            error = caught
        # The end, for people and for MLflow.
        status, code = _status(error, signals)
        if concluding is not None:
            concluding.result()
        seconds, text = time.monotonic() - started, note(record, root)
        emit([RunFinished(run=name, status=status, exit_code=code, seconds=seconds, note=text)])
        tracked = tracker.close(timeout_s=60.0)
    if options.tracking_required and status == "done" and (tracker.refused or not tracked):
        error = _untracked(tracker, name, tracked)
        status, code = "failed", error.exit_code
    return Outcome(name, status, code, error, tracker.page, tracked)


def _settled(plan: Plan, root: Store, *, wait: bool) -> Plan:
    """The plan after what ``clipline gc`` removes at this moment is gone. Raises LeaseHeld unless it may ``wait``."""
    while True:
        try:
            return settled(plan, root)
        except LeaseHeld:
            if not wait:
                raise
            time.sleep(1.0)


def _run_stages(plan: Plan, root: Store, emit: Listener, signals: SignalHandler, options: Options) -> None:
    from workflows.run.driver import Driver  # imports ray, which cluster.connect has to prepare

    driver = Driver(plan, root, emit, signals, stages=options.stages, wait=options.wait, grace_s=options.grace_s)
    driver.drive()


def _untracked(tracker: Tracker, run: str, sent: bool) -> CliplineError:
    """The error of a run that had to be tracked and was not, or not all of it."""
    if not sent:
        return CliplineError("MLflow did not get everything", found=tracker.degraded, fix=f"clipline sync {run}")
    return CliplineError(
        "MLflow did not take everything",
        found=f"{tracker.refused} events refused for good; a warning named each",
        fix="every stage is done: run without --tracking-required",
    )


def _status(error: CliplineError | None, signals: SignalHandler) -> tuple[str, int]:
    """Status and exit code of a run that ended with ``error``."""
    if error is None:
        return "done", 0
    if isinstance(error, Preempted):
        return "preempted", 130 if signals.received == signal.SIGINT else error.exit_code
    return "failed", error.exit_code


def _conclude(plan: Plan, root: Store, record: RunRecord, folder: Store, emit: Listener) -> None:
    """Evaluate the gate and write the report of a run whose stages are done."""
    done = {manifest.stage: manifest for manifest in manifests(record, root)}
    gate = plan.workflow.gate
    if gate is not None and gate.model in done:
        checks: list[Check | Better] = [*gate.check(done), *better_than_champion(gate, done, root)]
        passed = all(check.passed for check in checks)
        found = [{**asdict(check), "passed": check.passed} for check in checks]
        digest = done[gate.model].digest
        emit([Gate(model=gate.model, digest=digest, name=gate.name, alias=gate.alias, checks=found, passed=passed)])
    for path, data in report_files(root, record):
        folder.write(path, data)
        emit([RunArtifact(path=path)])
