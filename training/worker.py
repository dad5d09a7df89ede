"""One worker under Ray Train: the training loop, and what only Ray can tell it: nodes that go away, room for more."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train.torch

from infra.errors import CliplineError, TransientError
from infra.run.context import Context
from training.config import Config
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train

__all__ = ["draining", "work"]

log = logging.getLogger(__name__)


def work(arguments: dict[str, Any]) -> CliplineError | None:
    """One worker's life under Ray Train.

    An error that trying again cannot help is returned: Ray would restart the workers for any that is raised. All
    workers agree on such an error (:meth:`World.raise_if_any_failed`), and Ray hands back rank 0's answer.
    """
    config: Config = arguments["config"]
    try:
        world = World.join(
            ray.train.torch.get_device(),
            shares=config.batch_size // config.cluster.accumulate,
            timeout_s=config.cluster.collective_timeout_s,
        )
        nodes = set(world.gather(ray.get_runtime_context().get_node_id())) if world.active else set()
        growing = _Growing(config, ray.train.get_context().get_world_size())
        world = replace(world, notice=lambda: draining(nodes) or growing())
        context = arguments["context"]
        if world.rank > 0:  # rank 0 speaks for all, and is asked to stop for all
            context = Context(context.store, stage="train")
        with tempfile.TemporaryDirectory() as folder:
            train(config, Inputs.of(arguments["inputs"], Path(folder)), context, world)
    except TransientError:
        raise
    except CliplineError as error:
        return error
    finally:
        arguments["context"].flush()  # Ray ends this process at once
    return None


def draining(nodes: set[str]) -> bool:
    """Return True if Ray will soon remove one of ``nodes``, as it does with spot instances on notice.

    Ray Train's public call for it is a barrier for all workers; here rank 0 asks alone, every few seconds.
    """
    try:
        draining = ray._private.state.state.get_draining_nodes()
    except ray.exceptions.RayError as error:
        log.warning("Ray does not say which nodes it will take away: %s", error)  # its head may be starting anew
        return False
    return not nodes.isdisjoint(draining)


class _Growing:
    """Return True if Ray will soon restart all workers because there is room for more of them.

    It does so without a word to those that train, every ``grow_after_s`` and up to 20 s after a node has come: so long
    there are checkpoints every few seconds. Room that it leaves alone for longer than that is for somebody else.
    """

    LATE_S = 20.0

    def __init__(self, config: Config, workers: int) -> None:
        self._each = config.cluster.each
        self._may = workers < config.cluster.range[1]
        self._patience = 2 * (config.cluster.grow_after_s + self.LATE_S)
        self._until: float | None = None

    def __call__(self) -> bool:
        if not (self._may and self._room()):
            self._until = None
            return False
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._patience
        return now < self._until

    def _room(self) -> bool:
        try:
            free: dict[str, dict[str, float]] = ray._private.state.state.available_resources_per_node()  # type: ignore[no-untyped-call]
        except ray.exceptions.RayError as error:
            log.warning("Ray does not say what its nodes have left: %s", error)
            return False
        return any(all(node.get(kind, 0) >= count for kind, count in self._each.items()) for node in free.values())
