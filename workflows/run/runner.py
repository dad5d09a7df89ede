"""Carries out a plan: stages in topological order, independent ones side by side, each attempt as a Ray task.

An attempt's task has no CPU of its own; it drives the stage's Ray work and returns a manifest, which the runner commits
under the artifact's lease. Everything that happens becomes an event of the journal; the console and MLflow follow it.
If this process dies, Ray reaps the attempts, and the next run goes on from the manifests and ledgers.
"""

from __future__ import annotations

import logging
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra import cluster
from infra.errors import CliplineError, DeadlineError, LeaseHeld, LeaseLost, Preempted, StageFailed
from infra.run.context import Event
from infra.run.lease import Lease, current_claim
from infra.run.manifest import MANIFEST, Artifact, Manifest
from infra.store.storage import Store
from infra.tracking.tracker import Address, Tracker
from workflows import user
from workflows.report.summary import manifests, note, report_files
from workflows.run.attempt import run_attempt
from workflows.run.journal import Journal
from workflows.run.plan import Plan, Step, make_plan
from workflows.run.provenance import commit, provenance
from workflows.run.records import RunRecord
from workflows.run.signals import Stop
from workflows.stage import Stage

__all__ = ["Options", "Outcome", "run"]

log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray paints its traces

Listener = Callable[[list[Event]], None]


@dataclass(frozen=True)
class Options:
    """How to run; none of it can change a result."""

    cpus: int | None = None  # of a local Ray; None: all
    wait: bool = False  # for a lease another run holds, instead of giving up
    grace_s: float = 30.0  # a stage asked to stop has this long to save its state
    tracking_required: bool = False


@dataclass(frozen=True)
class Outcome:
    run: str
    status: str  # done | failed | preempted
    exit_code: int
    error: BaseException | None = None
    page: str | None = None  # of the run in the MLflow UI
    tracked: bool = True


def run(plan: Plan, root: Store, asked: RunRecord, options: Options, listen: Listener) -> Outcome:
    """Run what the plan says is due. ``asked`` is put on record first; ``listen`` gets every event.

    Never raises for a stage's failure: the Outcome tells.
    """
    name = asked.run
    asked.save(root)
    folder = root.child(f"runs/{name}")
    journal = Journal(folder)

    def record(events: list[Event]) -> None:
        journal.append(events)
        listen(events)

    tracker = Tracker(Address.find(root), plan.workflow.name, root, folder, journal.read)
    started = time.monotonic()
    parameters = {"settings": " ".join(asked.settings)}
    record([_event("run_started", run=name, recipe=asked.recipe, parameters=parameters, commit=commit())])
    error: BaseException | None = None
    concluding: Future[None] | None = None
    with ExitStack() as stack, ThreadPoolExecutor(1) as aside:
        stop = stack.enter_context(Stop.installed())
        try:
            for service in plan.workflow.services:
                stack.enter_context(service())
            with cluster.connect(options.cpus):
                user.publish()
                tracker.start()  # not sooner: importing MLflow would hold Ray up, which everything waits for
                stop.install()  # again: Ray puts its own handler for SIGTERM
                _Driver(plan, root, options, record, stop).drive()
                concluding = aside.submit(_conclude, plan, root, asked, folder, record)  # while Ray shuts down
        except CliplineError as caught:
            error = caught
        status, code = _verdict(error, stop)
        if concluding is not None:
            concluding.result()
        took = time.monotonic() - started
        record([_event("run_finished", run=name, status=status, exit_code=code, seconds=took, note=note(asked, root))])
        tracked = tracker.close(timeout_s=60.0)
        if options.tracking_required and status == "done" and (tracker.refused or not tracked):
            error = _untracked(tracker, name, tracked)
            status, code = "failed", 1
    return Outcome(name, status, code, error, tracker.page, tracked)


def _untracked(tracker: Tracker, run: str, sent: bool) -> CliplineError:
    if not sent:
        return CliplineError("MLflow did not get everything", found=tracker.degraded, fix=f"clipline sync {run}")
    return CliplineError(
        "MLflow did not take everything",
        found=f"{tracker.refused} events refused for good; a warning named each",
        fix="every stage is done: run without --tracking-required",
    )


def _event(kind: str, **fields: Any) -> Event:  # noqa: ANN401 - JSON values
    return {"event": kind, "time": time.time(), **fields}


def _verdict(error: BaseException | None, stop: Stop) -> tuple[str, int]:
    if error is None:
        return "done", 0
    if isinstance(error, Preempted):
        return "preempted", 130 if stop.signal == signal.SIGINT else error.exit_code
    return "failed", error.exit_code if isinstance(error, CliplineError) else 1


def _conclude(plan: Plan, root: Store, asked: RunRecord, folder: Store, record: Listener) -> None:
    """What a finished run adds: the gate's verdict and the report."""
    done = {manifest.stage: manifest for manifest in manifests(asked, root)}
    gate = plan.workflow.gate
    if gate is not None and gate.model in done:
        checks = gate.check(done)
        record(
            [
                _event(
                    "gate",
                    model=gate.model,
                    digest=done[gate.model].digest,
                    name=gate.name,
                    alias=gate.alias,
                    checks=[{**asdict(check), "passed": check.passed} for check in checks],
                    passed=all(check.passed for check in checks),
                )
            ]
        )
    for path, data in report_files(root, asked):
        folder.write(path, data)
        record([_event("run_artifact", path=path)])


@dataclass
class _Attempt:
    """A stage at work."""

    stage: Stage
    number: int
    lease: Lease
    started: float  # monotonic


class _Driver:
    """The loop that starts attempts, listens to them and commits their manifests."""

    POLL_S = 0.25

    def __init__(self, plan: Plan, root: Store, options: Options, record: Listener, stop: Stop) -> None:
        self._plan, self._root, self._options, self._record, self._stop = plan, root, options, record, stop
        self._waiting = {step.stage.name: step for step in plan.to_run}
        self._not_before: dict[str, float] = {}
        self._tries: dict[str, int] = {}
        self._contended: set[str] = set()  # stages somebody else was seen to hold
        self._running: dict[Any, _Attempt] = {}
        self._mailbox = cluster.mailbox()
        self._failure: CliplineError | None = None
        self._asked_at: float | None = None

    def drive(self) -> None:
        """Until everything due is done. Raises the first failure, after stages already running have ended."""
        for step in self._plan:
            if step.action == "cached":
                self._emit("stage_cached", step.stage, folder=step.stage.folder, inputs=_input_folders(step.stage))
        try:
            while self._running or (self._waiting and self._failure is None):
                self._mind_signals()
                if self._failure is None:
                    for step in [step for step in self._waiting.values() if self._ready(step)]:
                        self._start(step)
                self._listen()
                self._reap()
        finally:
            self._abandon()
        if self._failure is not None:
            raise self._failure

    # --- starting

    def _ready(self, step: Step) -> bool:
        busy = {*self._waiting, *(attempt.stage.name for attempt in self._running.values())}
        inputs_done = not any(source.name in busy for source in step.stage.inputs.values())
        return inputs_done and time.monotonic() >= self._not_before.get(step.stage.name, 0.0)

    def _start(self, step: Step) -> None:
        import ray

        stage, folder = step.stage, self._root.child(step.stage.folder)
        number = self._tries.get(stage.name, 0) + 1
        lease = self._acquire(stage, folder)
        if lease is None:
            return
        forced = "forced" in step.why and number == 1
        if not forced and self._settled(step):
            lease.release()
            del self._waiting[stage.name]
            self._emit("stage_cached", stage, folder=stage.folder, inputs=_input_folders(stage))
            return
        if folder.exists(MANIFEST):  # due although done: what is there does not count any more
            folder.delete(MANIFEST)
            for part in ("ledger", "data", "figures", "checkpoints"):
                folder.delete(part)
        inputs = {name: Artifact.load(self._root.child(source.folder)) for name, source in stage.inputs.items()}
        origin = provenance(stage.run, stage.config, {name: artifact.manifest for name, artifact in inputs.items()})
        task = ray.remote(run_attempt).options(num_cpus=0, max_retries=0, name=f"clipline:{stage.name}")
        ref = task.remote(
            stage.run, stage.config, inputs, folder, stage.name, stage.digest, stage.identity, origin, self._mailbox
        )
        del self._waiting[stage.name]
        self._tries[stage.name] = number
        self._running[ref] = _Attempt(stage, number, lease, time.monotonic())
        self._emit(
            "stage_started",
            stage,
            attempt=number,
            digest=stage.digest,
            config=stage.config.resolved(),
            forced=forced,
            why=step.why,
        )

    def _acquire(self, stage: Stage, folder: Store) -> Lease | None:
        if stage.name not in self._contended and (claim := current_claim(folder)):
            self._contended.add(stage.name)
            message = f"{claim.owner} holds it; waiting for a sign of life, {Lease.TTL_S:g} s at most"
            self._emit("log", stage, level="WARNING", message=message)
        try:
            return Lease.acquire(folder)
        except LeaseHeld as held:
            if self._options.wait:
                self._not_before[stage.name] = time.monotonic() + 1.0
            else:
                self._fail(held)
            return None

    def _settled(self, step: Step) -> bool:
        """Whether, now that its inputs are there, the stage is done after all: another run did it, or an input that
        was made again came out the same."""
        selection = replace(self._plan.selection, force=())
        return make_plan(self._plan.workflow, self._root, selection)[step.stage.name].action == "cached"

    # --- minding

    def _mind_signals(self) -> None:
        if self._stop.signal is None:
            return
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._fail(Preempted(f"stopped by {signal.Signals(self._stop.signal).name}"))
            self._mailbox.stop.remote()
        elif time.monotonic() - self._asked_at > self._options.grace_s:
            self._abandon()

    def _listen(self) -> None:
        import ray

        try:
            self._record(ray.get(self._mailbox.take.remote()))
        except ray.exceptions.RayError as error:
            raise StageFailed(
                "the connection to the Ray cluster was lost", found=str(error), fix="run again"
            ) from error

    def _reap(self) -> None:
        import ray

        if not self._running:
            time.sleep(self.POLL_S)
            return
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=self.POLL_S)
        if done:
            self._listen()
        for ref in done:
            attempt = self._running.pop(ref)
            try:
                self._commit(attempt, Manifest.from_bytes(ray.get(ref)))
            except Exception as error:  # noqa: BLE001 - a stage may fail with anything; it is recorded and judged below
                self._failed(attempt, error)
            finally:
                attempt.lease.release()
        for ref, attempt in list(self._running.items()):
            if verdict := _overdue(attempt):
                del self._running[ref]
                ray.cancel(ref, force=True)
                self._failed(attempt, verdict)
                attempt.lease.release()

    # --- ending

    def _commit(self, attempt: _Attempt, manifest: Manifest) -> None:
        folder = self._root.child(attempt.stage.folder)
        attempt.lease.check()
        if not folder.create(MANIFEST, manifest.to_bytes()):
            raise LeaseLost(f"{attempt.stage.name} was committed by another run meanwhile")
        self._emit(
            "stage_finished",
            attempt.stage,
            seconds=time.monotonic() - attempt.started,
            attempt=attempt.number,
            folder=attempt.stage.folder,
            inputs=_input_folders(attempt.stage),
            funnel=manifest.funnel.model_dump() if manifest.funnel else None,
            metrics=manifest.metrics,
        )

    def _failed(self, attempt: _Attempt, error: Exception) -> None:
        stage, cause = attempt.stage, cluster.original(error)
        again = cluster.is_transient(error) and attempt.number <= stage.retries and self._failure is None
        self._emit(
            "stage_failed",
            stage,
            attempt=attempt.number,
            error=f"{type(cause).__name__}: {cause}",
            trace=_COLOUR.sub("", str(error)),
            preempted=isinstance(cause, Preempted),
            will_retry=again,
            seconds=time.monotonic() - attempt.started,
        )
        if again:
            self._waiting[stage.name] = self._plan[stage.name]
            self._not_before[stage.name] = time.monotonic() + cluster.backoff(attempt.number + 1)
        elif isinstance(cause, CliplineError):
            self._fail(cause)
        else:
            failure = StageFailed(
                f"stage {stage.name} failed",
                found=f"{type(cause).__name__}: {cause}",
                fix="clipline logs shows the trace; run again to continue from what is committed",
            )
            failure.__cause__ = cause
            self._fail(failure)

    def _fail(self, error: CliplineError) -> None:
        if self._failure is None:
            self._failure = error

    def _abandon(self) -> None:
        """End what is still running, now."""
        import ray

        for ref, attempt in self._running.items():
            ray.cancel(ref, force=True)
            self._emit("stage_failed", attempt.stage, attempt=attempt.number, error="abandoned", preempted=True)
            attempt.lease.release()
        self._running.clear()

    def _emit(self, kind: str, stage: Stage, **fields: Any) -> None:  # noqa: ANN401 - JSON values
        self._record([_event(kind, stage=stage.name, **fields)])


def _overdue(attempt: _Attempt) -> CliplineError | None:
    """Why an attempt must end now, if it must."""
    stage = attempt.stage
    if attempt.lease.lost:
        return LeaseLost(f"the lease on {stage.name} was taken by another run", fix="let the other finish")
    if stage.timeout_s is not None and time.monotonic() - attempt.started > stage.timeout_s:
        return DeadlineError(f"stage {stage.name} ran past {stage.timeout_s:g} s")
    return None


def _input_folders(stage: Stage) -> dict[str, str]:
    return {name: source.folder for name, source in stage.inputs.items()}
