"""Training under Ray Train, through any number of workers and any number of deaths.

Ray Train starts the workers, as many as there is room for, starts them again when one dies, when a node is lost or
when there is room for more, and knows nothing else: the loop in :mod:`training.loop` is plain torch.distributed, keeps
its own checkpoints and continues from the newest by itself, so it is the same loop under Ray, under ``torchrun`` and
in one process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from infra.cluster import TENSORS
from infra.errors import CliplineError, ConfigError, StageFailed
from infra.events import TrainRetry
from infra.run.context import Context
from infra.run.manifest import Artifact
from training.checkpoint.manifests import newest
from training.config import Cluster, Config
from training.model.pretrained import check_artifact

__all__ = ["train"]


def train(config: Config, inputs: Mapping[str, Artifact], context: Context) -> None:
    """Train until it is done, fails for good, or fails too often without getting any further."""
    _check_room(config)
    for name, model in {"pretrained": config.model, "teacher": None}.items():
        if name in inputs:
            check_artifact(inputs[name], model)
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


def _check_room(config: Config) -> None:
    least, _ = config.cluster.range
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, each in config.cluster.each.items():
        if there.get(kind, 0) < (count := least * each):
            raise ConfigError(
                f"{least} training workers do not fit the cluster",
                expected=f"{count} {kind}",
                found=f"{there.get(kind, 0):g} {kind}",
                fix="set fewer cluster.workers or cluster.cpus_per_worker, or join a larger cluster with RAY_ADDRESS",
            )


def _scaling(cluster: Cluster) -> ScalingConfig:
    """Number of workers, what each takes and where: a placement group, which an autoscaler sees as a whole."""
    least, most = cluster.range
    options: dict[str, Any] = {"num_workers": most}
    if least < most:
        options = {"num_workers": (least, most), "elastic_resize_monitor_interval_s": cluster.grow_after_s}
    if cluster.labels:
        options["label_selector"] = dict(cluster.labels)
    return ScalingConfig(
        use_gpu=cluster.gpu, resources_per_worker=cluster.each, placement_strategy=cluster.placement, **options
    )


def _launch(config: Config, inputs: Mapping[str, Artifact], context: Context) -> CliplineError | None:
    """One life of a Ray trainer, through up to ``max_failures`` failures; the error that the workers agreed on.

    Raises Ray's TrainingFailedError.
    """
    # How often Ray looks whether all workers live: its own 2 s are a part of every recovery.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    least, most = config.cluster.range
    if least < most:
        # Ray learns every 20 s what a lost node took with it; until then it waits, 60 s by itself, for what is gone.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")
    environment = None if config.cluster.gpu else {"env_vars": dict(TENSORS)}
    scratch = context.store.child("scratch")  # Ray's own bookkeeping; it wants it where every node can see it
    scratch.delete("")
    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type] # the return value of rank 0 is handed back
        train_loop_config={"config": config, "inputs": dict(inputs), "context": context},
        torch_config=TorchConfig(timeout_s=int(config.cluster.collective_timeout_s)),
        scaling_config=_scaling(config.cluster),
        run_config=RunConfig(  # type: ignore[call-arg] # typed as that of Ray Train's first version
            name="ray",
            storage_path=scratch.url,
            failure_config=FailureConfig(max_failures=config.cluster.max_failures),
            worker_runtime_env=environment,
        ),
    )
    try:
        error: CliplineError | None = trainer.fit().return_value  # type: ignore[attr-defined]
    finally:
        scratch.delete("")
    return error


def _work(arguments: dict[str, Any]) -> CliplineError | None:
    """One worker's life. What it takes is loaded there: this process and Ray's controller have no use for a model."""
    from training.worker import work

    return work(arguments)
