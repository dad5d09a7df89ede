"""Carries out plans: stages in topological order, independent ones side by side, each attempt as a Ray task.

Several plans, as of a sweep, are one graph: what they share is done once, and a stage that fails ends only the plans it
is part of.

An attempt's task has no CPU of its own; it drives the stage's Ray work and returns a manifest, which the driver commits
under the artifact's lease. If this process dies, Ray reaps the attempts, and the next run continues from the manifests
and ledgers.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayError

from infra.cluster import backoff
from infra.cluster.failures import is_transient, original, trace
from infra.cluster.head import joined, listens, patience_s
from infra.cluster.mailbox import mailbox
from infra.errors import CliplineError, DeadlineError, LeaseHeld, LeaseLost, Preempted, StageFailed
from infra.events import Event, Listener, Log, StageCached, StageFinished, StageStarted
from infra.events import StageFailed as StageFailedEvent
from infra.run.lease import Lease, current_claim
from infra.run.manifest import MANIFEST, Artifact, Manifest
from infra.store import Store
from workflows.run.attempt import run_attempt
from workflows.run.meters import Meters
from workflows.run.plan import Plan, Step, make_plan
from workflows.run.provenance import provenance
from workflows.run.signals import SignalHandler
from workflows.stage import Stage

__all__ = ["Driver", "Member"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray colours its traces


@dataclass
class Member:
    """One of the plans. ``emit`` gets its events; ``failure``: the first, after which no other stage begins for it."""

    plan: Plan
    emit: Listener
    run: str  # its name
    failure: CliplineError | None = None


@dataclass
class _StageRun:
    """One stage of the plans and how far it is. ``ended``: done, failed, cached, or left out by the selection."""

    step: Step
    state: Literal["waiting", "running", "ended"]
    label: str  # what it is called on the terminal
    members: list[Member] = field(default_factory=list)
    tries: int = 0  # attempts begun
    not_before: float = 0.0  # monotonic s; no attempt begins earlier
    contended: bool = False  # another owner of its lease was seen, and a warning said so
    attempt: _Attempt | None = None  # while running

    @property
    def stage(self) -> Stage:
        return self.step.stage

    @property
    def wanted(self) -> bool:
        """False once every plan it is part of has failed, unless it has begun."""
        return self.tries > 0 or any(member.failure is None for member in self.members)


@dataclass(frozen=True)
class _Attempt:
    """The attempt in progress at a stage."""

    task: Any  # Ray's reference to its manifest
    lease: Lease
    started: float  # monotonic s

    def overdue(self, stage: Stage) -> CliplineError | None:
        """Why the attempt must be cancelled now; None if it may go on."""
        if self.lease.lost:
            return LeaseLost(f"the lease on {stage.name} was taken by another run", fix="let the other finish")
        if stage.timeout_s is not None and time.monotonic() - self.started > stage.timeout_s:
            return DeadlineError(f"stage {stage.name} ran past {stage.timeout_s:g} s")
        return None


class Driver:
    """The loop that starts attempts, receives their events and commits their manifests.

    ``show`` gets the events of all, each once. ``stages``: most at once; None: as many as the cluster has CPUs, but 2
    to 16. ``wait``: for a lease that another run holds, instead of failing. ``grace_s``: how long stages that were
    asked to stop may take to save their state.
    """

    POLL_S = 0.25

    def __init__(
        self,
        members: Sequence[Member],
        root: Store,
        show: Listener,
        signals: SignalHandler,
        *,
        stages: int | None,
        wait: bool,
        grace_s: float,
    ) -> None:
        self._members, self._root, self._show, self._signals = members, root, show, signals
        self._meters = Meters()
        self._wait, self._grace_s = wait, grace_s
        # An attempt's task takes no CPU but a process and its memory, half a gigabyte and more: twenty trainings that
        # are due at once would fill a small machine before any had its turn.
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._most = stages or min(16, max(2, int(there.get("CPU", 0))))
        self._stages = _union(members)  # by digest
        self._mailbox = mailbox()
        self._run_attempt = ray.remote(run_attempt)  # once: Ray sends each of these to its head, and waits for it
        self._head = joined()
        self._asked_at: float | None = None  # when the stages were asked to stop, monotonic s

    def drive(self) -> None:
        """Run until everything due is done, or fails: a member then has its ``failure``.

        Stages that have begun end first, if need be after another attempt. Raises StageFailed if the cluster is lost.
        """
        for one in self._stages.values():
            if one.step.action == "cached":
                self._emit_cached(one)
        try:
            while self._in("running") or any(self._due(one) for one in self._in("waiting")):
                self._handle_signals()
                for one in [one for one in self._in("waiting") if self._ready(one)]:
                    if self._due(one) and len(self._in("running")) < self._most:
                        self._start(one)
                self._receive()
                self._reap()
        finally:
            self._cancel_all()

    def _in(self, state: str) -> list[_StageRun]:
        return [one for one in self._stages.values() if one.state == state]

    # --- starting

    def _due(self, one: _StageRun) -> bool:
        """True if a waiting stage is still to be run, once it is ready."""
        return self._asked_at is None and one.wanted

    def _ready(self, one: _StageRun) -> bool:
        """True if the stage's inputs are done and its backoff is over."""
        inputs = [self._stages[source.digest].state for source in one.stage.inputs.values()]
        return not {"waiting", "running"} & set(inputs) and time.monotonic() >= one.not_before

    def _start(self, one: _StageRun) -> None:
        """Begin an attempt, unless another run holds the stage or it turns out to be done."""
        stage, folder = one.stage, self._root.child(one.stage.folder)
        lease = self._acquire(one, folder)
        if lease is None:
            return
        forced = "forced" in one.step.why and one.tries == 0
        if not forced and self._done_meanwhile(one):
            lease.release()
            one.state = "ended"
            self._emit_cached(one)
            return
        if folder.exists(MANIFEST):  # forced, or out of date: start from an empty artifact
            folder.delete(MANIFEST)
            for part in ("ledger", "data", "figures", "checkpoints"):
                folder.delete(part)
        task = self._submit(stage, folder.fenced(lease.fence))
        one.state, one.tries = "running", one.tries + 1
        one.attempt = _Attempt(task, lease, time.monotonic())
        self._emit(
            one,
            StageStarted(
                stage=stage.name,
                attempt=one.tries,
                digest=stage.digest,
                config=stage.config.resolved(),
                forced=forced,
                why=list(one.step.why),
            ),
        )

    def _submit(self, stage: Stage, folder: Store) -> Any:  # noqa: ANN401 - Ray's reference
        """Submit the attempt's Ray task."""
        inputs = {name: Artifact.load(self._root.child(source.folder)) for name, source in stage.inputs.items()}
        origin = provenance(stage.run, stage.config, {name: artifact.manifest for name, artifact in inputs.items()})
        task = self._run_attempt.options(num_cpus=0, max_retries=0, name=f"clipline:{stage.name}")
        return task.remote(
            stage.run, stage.config, inputs, folder, stage.name, stage.digest, stage.identity, origin, self._mailbox
        )

    def _acquire(self, one: _StageRun, folder: Store) -> Lease | None:
        """Take the lease of the stage's artifact; None if another run holds it: this run fails or tries again later."""
        if not one.contended and (claim := current_claim(folder)):
            one.contended = True
            message = f"{claim.owner} holds it; waiting for a sign of life, {Lease.TTL_S:g} s at most"
            self._emit(one, Log(stage=one.stage.name, level="WARNING", message=message))
        try:
            return Lease.acquire(folder)
        except LeaseHeld as held:
            if self._wait:
                one.not_before = time.monotonic() + 1.0
            else:
                one.state = "ended"
                self._fail(one.members, held)
            return None

    def _done_meanwhile(self, one: _StageRun) -> bool:
        """True if the stage is done after all, now that its inputs are there.

        Another run did it meanwhile, or an input that was made again came out the same.
        """
        plan = one.members[0].plan
        selection = replace(plan.selection, force=())
        return make_plan(plan.workflow, self._root, selection)[one.stage.name].action == "cached"

    # --- while stages run

    def _handle_signals(self) -> None:
        """After the first signal, ask the stages to stop; when their time is over, cancel them."""
        if self._signals.received is None:
            return
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._fail(self._members, Preempted(f"stopped by {self._signals.cause}"))
            self._mailbox.stop.remote()
        elif time.monotonic() - self._asked_at > self._grace_s:
            self._cancel_all()

    def _receive(self) -> None:
        """Pass on what the stages have emitted since the last call."""
        try:
            posts = self._taken()
        except RayError as error:
            raise StageFailed(
                "the connection to the Ray cluster was lost",
                found=f"no answer from its head at {self._head}" if isinstance(error, GetTimeoutError) else str(error),
                fix="clipline resume, once there is a cluster again, continues from what is committed",
            ) from error
        for digest, events in posts:
            self._emit(self._stages[digest], *events)

    def _taken(self) -> list[tuple[str, list[Event]]]:
        """Take the mailbox's posts. Raises RayError if it is gone, or neither it nor the head answers."""
        answer = self._mailbox.take.remote()
        while True:
            try:
                return ray.get(answer, timeout=patience_s())  # type: ignore[no-any-return]
            except GetTimeoutError:
                if not listens(self._head):
                    raise

    def _reap(self) -> None:
        """Wait a moment for attempts to end; commit or fail those that did, and cancel the overdue."""
        running = {one.attempt.task: one for one in self._in("running") if one.attempt}
        if not running:  # every stage left is waiting out its backoff
            time.sleep(self.POLL_S)
            return
        done, _ = ray.wait(list(running), num_returns=1, timeout=self.POLL_S)
        if done:
            self._receive()
        for task in done:
            one = running.pop(task)
            with self._ending(one) as attempt:
                try:
                    self._commit(one, attempt, Manifest.from_bytes(ray.get(task)))
                except Exception as error:  # noqa: BLE001 - a stage may raise anything; _failed records and judges it
                    self._failed(one, attempt, error)
        for task, one in running.items():
            if one.attempt and (reason := one.attempt.overdue(one.stage)):
                ray.cancel(task, force=True)
                with self._ending(one) as attempt:
                    self._failed(one, attempt, reason)

    # --- ending

    @contextmanager
    def _ending(self, one: _StageRun) -> Iterator[_Attempt]:
        """The attempt that ended; its lease is released when the block is left."""
        assert one.attempt is not None
        attempt, one.attempt, one.state = one.attempt, None, "ended"
        try:
            yield attempt
        finally:
            attempt.lease.release()

    def _commit(self, one: _StageRun, attempt: _Attempt, manifest: Manifest) -> None:
        """Write the manifest. Raises LeaseLost if another run has taken over."""
        stage = one.stage
        attempt.lease.check()
        if not self._root.child(stage.folder).create(MANIFEST, manifest.to_bytes()):
            raise LeaseLost(f"{stage.name} was committed by another run meanwhile")
        self._emit(
            one,
            StageFinished(
                stage=stage.name,
                seconds=time.monotonic() - attempt.started,
                attempt=one.tries,
                folder=stage.folder,
                inputs=_input_folders(stage),
                funnel=manifest.funnel.to_json() if manifest.funnel else None,
                metrics=manifest.metrics,
            ),
        )

    def _failed(self, one: _StageRun, attempt: _Attempt, error: Exception) -> None:
        """Record a failed attempt; schedule the next, or make its error that of the plans with this stage."""
        stage, cause = one.stage, original(error)
        if isinstance(cause, LeaseLost):  # no failure of the stage: another run, maybe this one's other driver, has it
            self._emit(one, Log(stage=stage.name, level="WARNING", message=str(cause)))
            self._fail(one.members, cause)
            return
        again = is_transient(error) and one.tries <= stage.retries and self._due(one)
        self._emit(
            one,
            StageFailedEvent(
                stage=stage.name,
                attempt=one.tries,
                error=f"{type(cause).__name__}: {cause}",
                trace=_COLOUR.sub("", trace(error)),
                preempted=isinstance(cause, Preempted),
                will_retry=again,
                seconds=time.monotonic() - attempt.started,
            ),
        )
        if again:
            one.state = "waiting"
            one.not_before = time.monotonic() + backoff(one.tries + 1)
        elif isinstance(cause, CliplineError):
            self._fail(one.members, cause)
        else:
            failure = StageFailed(
                f"stage {stage.name} failed",
                found=f"{type(cause).__name__}: {cause}",
                fix="clipline logs shows the trace; run again to continue from what is committed",
            )
            failure.__cause__ = cause
            self._fail(one.members, failure)

    def _fail(self, members: Sequence[Member], error: CliplineError) -> None:
        for member in members:
            member.failure = member.failure or error

    def _cancel_all(self) -> None:
        """Cancel what is still running, at once."""
        for one in self._in("running"):
            with self._ending(one) as attempt:
                ray.cancel(attempt.task, force=True)
                failed = StageFailedEvent(stage=one.stage.name, attempt=one.tries, error="abandoned", preempted=True)
                self._emit(one, failed)

    def _emit(self, one: _StageRun, *events: Event) -> None:
        for member in one.members:
            member.emit(list(events))
            self._meters.record(member.run, events)
        self._show([replace(event, stage=one.label) for event in events])

    def _emit_cached(self, one: _StageRun) -> None:
        stage = one.stage
        self._emit(one, StageCached(stage=stage.name, folder=stage.folder, inputs=_input_folders(stage)))


def _union(members: Sequence[Member]) -> dict[str, _StageRun]:
    """The stages of all plans, by digest; equal names get the beginnings of their digests."""
    steps = {step.stage.digest: step for member in members for step in member.plan}
    alike = Counter(step.stage.name for step in steps.values())
    stages = {}
    for digest, step in steps.items():
        label = step.stage.name if alike[step.stage.name] == 1 else f"{step.stage.name}/{digest[:6]}"
        stages[digest] = _StageRun(step, "waiting" if step.action == "run" else "ended", label)
    for member in members:
        for step in member.plan:
            stages[step.stage.digest].members.append(member)
    return stages


def _input_folders(stage: Stage) -> dict[str, str]:
    return {name: source.folder for name, source in stage.inputs.items()}
