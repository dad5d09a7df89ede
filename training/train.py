"""The training stage: shards in, an open_clip model out, through any number of workers and any number of deaths.

Ray Train starts the workers, as many as there is room for, starts them again when one dies, when a node is lost or
when there is room for more, and knows nothing else: the loop in :mod:`training.loop` is plain torch.distributed, keeps
its own checkpoints and continues from the newest by itself, so it is the same loop under Ray, under ``torchrun`` and
in one process.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.errors import CliplineError, ConfigError, StageFailed, TransientError
from infra.events import TrainRetry
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from training.checkpoint.manifests import FOLDER, newest, prune
from training.config import RECORD, Config

__all__ = ["Config", "run"]

log = logging.getLogger(__name__)


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Train on the inputs ``shards``, ``shards_...``, validating on the test sets of ``tests``; needs Ray.

    Raises Preempted if asked to stop (a checkpoint is saved first), DataError for unreadable or too many corrupt
    shards, StageFailed when workers died more than ``max_failures`` times without a new checkpoint.
    """
    from training.observe.figures import curves

    if RECORD not in context.ledger.read([RECORD]):
        _train(config, inputs, context)
    record = context.ledger.read([RECORD])[RECORD]
    history = [json.loads(line) for line in context.store.read("data/history.jsonl").splitlines()]
    context.figure("training", curves(history))
    # What was to be continued from is done with; what was to be kept for good stays beside the model.
    prune(context.store, config.checkpoint, newest=0)
    if newest(context.store) < 0:
        context.store.delete(FOLDER)
    return context.finish(
        [record],
        metrics={name: value for name, value in history[-1].items() if name != "samples"},
        facts={name: value for name, value in record.facts.items() if name != "funnel"},
        funnel=record.funnel,
    )


def _train(config: Config, inputs: Mapping[str, Artifact], context: Context) -> None:
    """Train until it is done, fails for good, or fails too often without getting any further."""
    from ray.train import TrainingFailedError

    _check_room(config)
    while True:
        reached = newest(context.store)
        try:
            error = _launch(config, inputs, context)
        except TrainingFailedError as failure:
            if newest(context.store) == reached:
                raise StageFailed(
                    f"training failed {config.cluster.max_failures + 1} times without a new checkpoint",
                    found=str(failure),
                    fix="run again to continue from the newest checkpoint",
                ) from failure
            context.send(TrainRetry(stage=context.stage, error=str(failure), samples=newest(context.store)))
            continue
        if error is not None:
            raise error
        return


def _resources(config: Config) -> dict[str, float]:
    """Resources of one worker."""
    return {"CPU": config.cluster.cpus_per_worker, **({"GPU": 1} if config.cluster.gpu else {})}


def _check_room(config: Config) -> None:
    import ray

    least, _ = config.cluster.range
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, each in _resources(config).items():
        if there.get(kind, 0) < (count := least * each):
            raise ConfigError(
                f"{least} training workers do not fit the cluster",
                expected=f"{count} {kind}",
                found=f"{there.get(kind, 0):g} {kind}",
                fix="set fewer cluster.workers or cluster.cpus_per_worker, or join a larger cluster with RAY_ADDRESS",
            )


def _launch(config: Config, inputs: Mapping[str, Artifact], context: Context) -> CliplineError | None:
    """One life of a Ray trainer, through up to ``max_failures`` failures; the error that the workers agreed on.

    Raises Ray's TrainingFailedError.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # How often Ray looks whether all workers live: its own 2 s are a part of every recovery.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    least, most = config.cluster.range
    number: dict[str, Any] = {"num_workers": most}
    if least < most:
        number = {"num_workers": (least, most), "elastic_resize_monitor_interval_s": config.cluster.grow_after_s}
        # Ray learns every 20 s what a lost node took with it; until then it waits, 60 s by itself, for what is gone.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")
    scratch = context.store.child("scratch")  # Ray's own bookkeeping; it wants it where every node can see it
    scratch.delete("")
    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type] # the return value of rank 0 is handed back
        train_loop_config={"config": config, "inputs": dict(inputs), "context": context},
        torch_config=TorchConfig(timeout_s=int(config.cluster.collective_timeout_s)),
        scaling_config=ScalingConfig(
            use_gpu=config.cluster.gpu,
            resources_per_worker=_resources(config),
            **number,
        ),
        run_config=RunConfig(
            name="ray", storage_path=scratch.url, failure_config=FailureConfig(max_failures=config.cluster.max_failures)
        ),
    )
    try:
        error: CliplineError | None = trainer.fit().return_value  # type: ignore[attr-defined]
    finally:
        scratch.delete("")
    return error


def _work(arguments: dict[str, Any]) -> CliplineError | None:
    """One worker's life under Ray Train.

    An error that trying again cannot help is returned: Ray would restart the workers for any that is raised. All
    workers agree on such an error (:meth:`World.raise_if_any_failed`), and Ray hands back rank 0's answer.
    """
    import ray.train.torch

    from training.distributed.world import World
    from training.inputs import Inputs
    from training.loop import train

    config: Config = arguments["config"]
    try:
        world = World.join(
            ray.train.torch.get_device(),
            shares=config.batch_size // config.cluster.accumulate,
            timeout_s=config.cluster.collective_timeout_s,
        )
        nodes = set(world.gather(ray.get_runtime_context().get_node_id())) if world.active else set()
        growing = _Growing(config, ray.train.get_context().get_world_size())
        world = replace(world, notice=lambda: _draining(nodes) or growing())
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


def _draining(nodes: set[str]) -> bool:
    """Return True if Ray will soon remove one of ``nodes``, as it does with spot instances on notice.

    Ray Train's public call for it is a barrier for all workers; here rank 0 asks alone, every few seconds.
    """
    import ray

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
        self._each = _resources(config)
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
        import ray

        try:
            free: dict[str, dict[str, float]] = ray._private.state.state.available_resources_per_node()  # type: ignore[no-untyped-call]
        except ray.exceptions.RayError as error:
            log.warning("Ray does not say what its nodes have left: %s", error)
            return False
        return any(all(node.get(kind, 0) >= count for kind, count in self._each.items()) for node in free.values())
