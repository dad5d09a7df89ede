"""The training stage: shards in, an open_clip model out, through any number of workers and any number of deaths.

Ray Train starts the workers, restarts them when one dies, and knows nothing else: the loop in :mod:`training.loop` is
plain torch.distributed, keeps its own checkpoints and continues from the newest by itself, so it is the same loop
under Ray, under ``torchrun`` and in one process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.context import Context
from infra.errors import CliplineError, ConfigError, StageFailed, TransientError
from infra.manifest import Artifact, Manifest
from training.config import Config

if TYPE_CHECKING:
    from infra.storage import Store
    from training.data import Shards

__all__ = ["RECORD", "Config", "run"]

RECORD = "model"
"""The one entry of the stage's ledger: present when the model has been written."""


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Train on the artifact ``shards``, validating on those of ``tests`` that the configuration names; needs Ray.

    Raises Preempted if asked to stop (a checkpoint is saved first), DataError for unreadable or too many corrupt
    shards, StageFailed when workers died more than ``max_failures`` times.
    """
    from training.data import Shards
    from training.figures import curves

    shards = inputs["shards"]
    if RECORD not in context.ledger.read([RECORD]):
        paths = [file.path for file in shards.files("data/train/", ".tar")]
        tests = inputs["tests"].store.child("data") if "tests" in inputs else None
        _launch(config, Shards(shards.store, paths), context, tests)
    record = context.ledger.read([RECORD])[RECORD]
    history = [json.loads(line) for line in context.store.read("data/history.jsonl").splitlines()]
    context.figure("training", curves(history))
    context.store.delete("checkpoints")
    return context.finish(
        [record],
        metrics={name: value for name, value in history[-1].items() if name != "samples"},
        facts={name: value for name, value in record.facts.items() if name != "funnel"},
        funnel=record.funnel,
    )


def _launch(config: Config, shards: Shards, context: Context, tests: Store | None) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    least, most = config.worker_range
    wanted = {"CPU": least * config.cpus_per_worker, "GPU": least if config.gpu else 0}
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, count in wanted.items():
        if there.get(kind, 0) < count:
            raise ConfigError(
                f"{least} training workers do not fit the cluster",
                expected=f"{count} {kind}",
                found=f"{there.get(kind, 0):g} {kind}",
                fix="set fewer workers or cpus_per_worker, or join a larger cluster with RAY_ADDRESS",
            )
    scratch = context.store.child("scratch")  # Ray's own bookkeeping; it wants it where every node can see it
    scratch.delete("")
    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type] # the return value of rank 0 is handed back
        train_loop_config={"config": config, "shards": shards, "context": context, "tests": tests},
        scaling_config=ScalingConfig(
            num_workers=most,
            use_gpu=config.gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.gpu else {})},
        ),
        run_config=RunConfig(
            name="ray", storage_path=scratch.url, failure_config=FailureConfig(max_failures=config.max_failures)
        ),
    )
    try:
        error = trainer.fit().return_value  # type: ignore[attr-defined]
    except TrainingFailedError as failure:
        raise StageFailed(
            f"training failed {config.max_failures + 1} times",
            found=str(failure),
            fix="run again to continue from the newest checkpoint",
        ) from failure
    finally:
        scratch.delete("")
    if error is not None:
        raise error


def _work(arguments: dict[str, Any]) -> CliplineError | None:
    """One worker's life under Ray Train.

    An error that trying again cannot help is returned: Ray would restart the workers for any that is raised. All
    workers agree on such an error (:meth:`training.world.World.settle`), and Ray hands back rank 0's answer.
    """
    import ray.train.torch

    from training.loop import train
    from training.world import World

    try:
        train(**arguments, world=World.join(ray.train.torch.get_device()))
    except TransientError:
        raise
    except CliplineError as error:
        return error
    return None
