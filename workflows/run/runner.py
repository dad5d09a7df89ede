"""Runs a plan from beginning to end: Ray, the journal and MLflow around the stages, then the gate and the report.

The stages themselves are run by :class:`~workflows.run.driver.Driver`. Everything that happens becomes an event of the
journal; the console and MLflow follow it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from infra import cluster
from infra.errors import CliplineError, LeaseHeld, Preempted, redact
from infra.events import Event, Gate, Listener, RunArtifact, RunFinished, RunStarted, StopRequested
from infra.store import Store
from infra.tracking import Address, Tracker
from workflows import user
from workflows.report.summary import manifests, note, report_files
from workflows.run.champion import Better, better_than_champion
from workflows.run.journal import Journal, shared
from workflows.run.notify import notify
from workflows.run.parameters import headline, main_metric, parameters
from workflows.run.plan import Plan
from workflows.run.provenance import commit
from workflows.run.reclaim import settled
from workflows.run.records import Ended, RunRecord
from workflows.run.signals import SignalHandler
from workflows.run.stopping import StopRequest, heeding
from workflows.stage import Check

__all__ = ["Options", "Outcome", "run", "run_together"]


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


class _Run:
    """A plan with its record, journal and tracker. ``sweep``: the name of what it is one run of."""

    def __init__(self, plan: Plan, record: RunRecord, root: Store, sweep: str) -> None:
        self.plan, self.root = plan, root
        self.record = record.save(root)
        self.folder = root.child(f"runs/{record.run}")
        self._journal = Journal(self.folder)
        self.tracker = Tracker(Address.find(root), plan.workflow.name, root, self.folder, self._journal.follow)
        self.error: CliplineError | None = None
        self.concluding: Future[None] | None = None
        self.stop = StopRequest(self.folder)  # whoever reads that the run has started may ask
        self._begun = self._started(sweep)
        self.emit([self._begun])

    def _started(self, sweep: str) -> RunStarted:
        return RunStarted(
            run=self.record.run,
            recipe=self.record.recipe,
            settings=redact(" ".join(self.record.settings)),
            commit=commit(),
            sweep=sweep,
            parameters=parameters(self.plan.workflow),
            headline=headline(self.plan.workflow),
        )

    def emit(self, events: list[Event]) -> None:
        self._journal.append(events)

    def end(self, options: Options, signals: SignalHandler, seconds: float) -> Outcome:
        """The last event, and the outcome when MLflow has it, or does not answer."""
        status, code = _status(self.error, signals)
        if self.concluding is not None:
            self.concluding.result()
        if ours := not isinstance(self.error, LeaseHeld) or not shared(self._journal.read()[0], self._begun):
            text = note(self.record, self.root)
            self.emit([RunFinished(run=self.record.run, status=status, exit_code=code, seconds=seconds, note=text)])
        tracker, tracked = self.tracker, self.tracker.close(timeout_s=60.0, drain=ours)
        self._record_end(status, seconds)  # last: a run that is killed before it is concluded by the next command
        if options.tracking_required and status == "done" and (tracker.refused or not tracked):
            self.error = _untracked(tracker, self.record.run, tracked)
            status, code = "failed", self.error.exit_code
        outcome = Outcome(self.record.run, status, code, self.error, tracker.page, tracked)
        notify(self._told(outcome, seconds))
        return outcome

    def _told(self, outcome: Outcome, seconds: float) -> dict[str, Any]:
        """The outcome as :func:`notify` sends it; ``text`` is what chat services show."""
        said = "stopped" if outcome.status == "preempted" else outcome.status
        error = str(outcome.error) if outcome.error is not None else ""
        return {
            "text": "\n".join(filter(None, (f"clipline: {outcome.run} {said} after {seconds:.0f} s", error))),
            "run": outcome.run,
            "status": said,
            "exit_code": outcome.exit_code,
            "seconds": seconds,
            "error": error,
            "page": outcome.page,
        }

    def _record_end(self, status: str, seconds: float) -> None:
        if isinstance(self.error, LeaseHeld):  # another process is at it, maybe with this very run
            return
        done = {one.stage: one for one in manifests(self.record, self.root)}
        speak = [done[stage] for stage in headline(self.plan.workflow) if stage in done]
        scores = {name: value for one in speak for name, value in main_metric(one).items()}
        ended = Ended(status=status, at=time.time(), seconds=seconds, stages_done=len(done), headline=scores)
        self.record.end(self.root, ended)


def run(plan: Plan, root: Store, record: RunRecord, options: Options, listen: Listener) -> Outcome:
    """Run the stages of the plan that are due. ``record`` is saved first; ``listen`` gets every event.

    Never raises for a stage's failure: it is the Outcome's ``error``.
    """
    return run_together([(plan, record)], root, options, listen)[0]


def run_together(
    runs: Sequence[tuple[Plan, RunRecord]], root: Store, options: Options, listen: Listener, sweep: str = ""
) -> list[Outcome]:
    """Run several plans as one: :func:`run` for each, but what they share is done once.

    The failure of one ends no other. ``sweep``: the name of the whole, to which the runs belong in MLflow.
    """
    started = time.monotonic()
    found = [_Run(plan, record, root, sweep) for plan, record in runs]
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        signals = stack.enter_context(SignalHandler.installed())
        stack.enter_context(heeding([one.stop for one in found], partial(_stop, found, signals)))
        # The stages, with the services they need, on a cluster.
        try:
            for one in found:
                one.plan = _settled(one.plan, root, wait=options.wait)
            for service in _services(found):
                stack.enter_context(service())
            with cluster.connect(options.cpus):
                user.publish()
                for one in found:
                    one.tracker.start()  # not sooner: importing MLflow would hold Ray up, which everything waits for
                signals.install()  # again: Ray installs its own handler for SIGTERM
                _run_stages(found, root, listen, signals, options)
                for one in found:  # while Ray shuts down
                    if one.error is None:
                        one.concluding = pool.submit(_conclude, one.plan, root, one.record, one.folder, one.emit)
        except CliplineError as caught:
            for one in found:
                one.error = one.error or caught
        # The end, for people and for MLflow.
        return [one.end(options, signals, time.monotonic() - started) for one in found]


def _stop(runs: Sequence[_Run], signals: SignalHandler) -> None:
    """Do what SIGTERM does, and say that the request was heard."""
    signals.ask("clipline stop")
    for one in runs:
        one.emit([StopRequested()])


def _services(runs: Sequence[_Run]) -> list[Callable[[], AbstractContextManager[Any]]]:
    """The services that the runs need, each once: partial functions are equal if they call the same."""
    found: dict[Any, Callable[[], AbstractContextManager[Any]]] = {}
    for service in (service for one in runs for service in one.plan.workflow.services):
        same = (service.func, service.args, *service.keywords.items()) if isinstance(service, partial) else service
        found.setdefault(same, service)
    return list(found.values())


def _settled(plan: Plan, root: Store, *, wait: bool) -> Plan:
    """The plan after what ``clipline gc`` removes at this moment is gone. Raises LeaseHeld unless it may ``wait``."""
    while True:
        try:
            return settled(plan, root)
        except LeaseHeld:
            if not wait:
                raise
            time.sleep(1.0)


def _run_stages(runs: Sequence[_Run], root: Store, listen: Listener, signals: SignalHandler, options: Options) -> None:
    from workflows.run.driver import Driver, Member  # imports ray, which cluster.connect has to prepare

    members = [Member(one.plan, one.emit, one.record.run) for one in runs]
    driver = Driver(members, root, listen, signals, stages=options.stages, wait=options.wait, grace_s=options.grace_s)
    try:
        driver.drive()
    finally:
        for one, member in zip(runs, members, strict=True):
            one.error = member.failure


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
