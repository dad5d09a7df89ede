"""The functions and limits that a stage passes to a shard loop, and the wait before another attempt."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord

__all__ = [
    "TENSORS",
    "BatchWork",
    "Limits",
    "OnDone",
    "ShardWork",
    "backoff",
    "slots",
    "task_options",
    "warn_if_none_fits",
]

log = logging.getLogger(__name__)

ShardWork = Callable[[Any, ShardOutput], ShardRecord]
BatchWork = Callable[[Sequence[tuple[Any, ShardOutput]]], Iterable[ShardRecord]]
OnDone = Callable[[ShardRecord], Mapping[str, float | str] | None]
"""Callback after each shard; its return value joins the progress line."""


@dataclass(frozen=True)
class Limits:
    """Resources, retries and tolerance of a shard loop. None of this can change a result."""

    cpus: float = 1.0  # of one task
    gpus: float = 0.0
    memory_gb: float = 0.0  # that Ray sets aside for a task, so that a node gets only as many as it has room for
    resources: Mapping[str, float] = field(default_factory=dict)  # of your own, as nodes are started with
    labels: Mapping[str, str] = field(default_factory=dict)  # that a node must have: its zone, its kind of GPU
    in_flight: int | None = None  # tasks at once; None: as many as the cluster's CPUs take
    attempts: int = 3  # per shard
    max_unforeseen: float = 0.01  # share of rows that may end with an error nobody foresaw
    deadline_s: float | None = None  # per attempt of a shard, from when it starts to work
    environment: Mapping[str, str] = field(default_factory=dict)  # variables of the workers, which then are its own


TENSORS = MappingProxyType({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)})
"""Environment of workers that run a model on CPUs: glibc keeps the memory of large tensors for the next ones.

By default it returns it after each layer, and the kernel clears the same pages again and again.
"""


def slots(limits: Limits) -> int:
    """Number of tasks of a shard loop that run at once, on the cluster as it is now."""
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = there.get("CPU", 1.0) / max(limits.cpus, 0.01)
    most = min([most, *(there.get(kind, 0.0) / each for kind, each in _needed(limits).items())])
    return limits.in_flight or max(1, int(most))


def task_options(limits: Limits) -> dict[str, Any]:
    """Ray's options of a task under these limits."""
    options: dict[str, Any] = {"num_cpus": limits.cpus, "num_gpus": limits.gpus}
    if limits.memory_gb:
        options["memory"] = int(limits.memory_gb * 1e9)
    if limits.resources:
        options["resources"] = dict(limits.resources)
    if limits.labels:
        options["label_selector"] = dict(limits.labels)
    if limits.environment:
        options["runtime_env"] = {"env_vars": dict(limits.environment)}
    return options


def warn_if_none_fits(limits: Limits) -> None:
    """Log why tasks wait, if no node has what one needs; a node that joins later will run them."""
    needed = _needed(limits)
    if not needed and not limits.labels:
        return
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    plain = {name: value for name, value in limits.labels.items() if not value.startswith(("!", "in("))}
    if any(_has(node["Resources"], needed) and plain.items() <= node["Labels"].items() for node in nodes):
        return
    wanted = [*(f"{each:g} {kind}" for kind, each in needed.items()), *map("=".join, plain.items())]
    most = {kind: max((node["Resources"].get(kind, 0.0) for node in nodes), default=0.0) for kind in needed}
    found = f"; the most of one is {', '.join(f'{each:g} {kind}' for kind, each in most.items())}" if most else ""
    hint = " (gpus=0 runs on CPUs)" if limits.gpus else ""
    log.warning("no node has %s: tasks wait for one that has%s%s", " and ".join(wanted), found, hint)


def _needed(limits: Limits) -> dict[str, float]:
    """Return the resources of a task other than CPUs, by Ray's names."""
    needed = {"GPU": limits.gpus, "memory": limits.memory_gb * 1e9, **limits.resources}
    return {kind: each for kind, each in needed.items() if each}


def _has(there: Mapping[str, float], needed: Mapping[str, float]) -> bool:
    return all(there.get(kind, 0.0) >= each for kind, each in needed.items())


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt ``attempt`` (2, 3, ...): doubling from one second to a minute, fully jittered."""
    return random.uniform(0.5, 1.0) * min(60.0, 2.0 ** (attempt - 2))
