"""The training stage: shards in, an open_clip model out, through any number of workers and any number of deaths.

Ray Train starts the workers, restarts them when one dies, and knows nothing else: the loop in :mod:`training.loop` is
plain torch.distributed, keeps its own checkpoints and continues from the newest by itself, so it is the same loop
under Ray, under ``torchrun`` and in one process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from infra.config import Config as BaseConfig
from infra.config import Runtime
from infra.context import Context
from infra.errors import CliplineError, ConfigError, StageFailed, TransientError
from infra.manifest import Artifact, Manifest

if TYPE_CHECKING:
    from training.data import Shards

__all__ = ["RECORD", "Config", "run"]

RECORD = "model"
"""The one entry of the stage's ledger: present when the model has been written."""


class Config(BaseConfig):
    """What is trained and how. Everything is counted in samples seen, so nothing depends on the number of workers."""

    model: str | dict[str, Any] = Field(
        "ViT-B-32", description="an open_clip model name, or a model configuration in open_clip's JSON form"
    )
    objective: Literal["infonce"] = Field("infonce", description="what is minimised; see training/objectives")
    seed: int = Field(0, ge=0, description="of the initial weights, the sample order and the augmentation")

    batch_size: int = Field(1024, ge=2, description="samples per step over all workers")
    samples: int | None = Field(None, ge=1, description="samples to see in all, rounded up to whole batches")
    epochs: float = Field(32.0, gt=0, description="passes over the shards, where samples is not given")
    lr: float = Field(5e-4, gt=0, description="peak learning rate")
    text_lr: float | None = Field(
        None,
        gt=0,
        description="peak learning rate of the text tower; none: lr. A small one helps where captions hold "
        "words for things the image tower cannot see yet: a quick text tower unlearns them",
    )
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's decay rates of the two moments")
    eps: float = Field(1e-6, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(0.2, ge=0, description="AdamW's, on matrices only: not on gains, biases, logit scale")
    warmup: int = Field(0, ge=0, description="samples over which the learning rate rises linearly to its peak")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="the learning rate after the warm-up")
    grad_clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none: not clipped")
    precision: Literal["fp32", "amp_bf16"] = Field("fp32", description="of the towers; logits and loss are always fp32")
    crop_scale: tuple[float, float] = Field(
        (0.9, 1.0), description="least and greatest part of an image's area that a random crop keeps"
    )
    crop_ratio: tuple[float, float] = Field((0.75, 4 / 3), description="least and greatest width / height of a crop")
    log_every: int = Field(10_000, ge=1, description="samples between two lines of the history")

    workers: Runtime[int] = Field(1, ge=1, description="processes that share each batch, one per GPU")
    gpu: Runtime[bool] = Field(False, description="whether each worker has a GPU")
    cpus_per_worker: Runtime[int] = Field(
        1, ge=1, description="cores a worker takes; its threads for tensors on the CPU"
    )
    loader_threads: Runtime[int] = Field(2, ge=1, description="threads of a worker that read and decode images")
    cache_mb: Runtime[int] = Field(2048, ge=0, description="MB of decoded images a worker keeps in memory")
    max_corrupt: Runtime[int] = Field(100, ge=0, description="samples that may fail to decode before the run fails")
    checkpoint_every: Runtime[int] = Field(1_000_000, ge=1, description="samples between two checkpoints")
    keep_checkpoints: Runtime[int] = Field(2, ge=1, description="how many of the newest checkpoints are kept")
    max_failures: Runtime[int] = Field(3, ge=0, description="worker failures that Ray recovers from")

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Config:
        if self.batch_size % self.workers:
            raise ConfigError(
                "training.train.Config.batch_size does not divide evenly among the workers",
                expected=f"a multiple of {self.workers}",
                found=str(self.batch_size),
            )
        return self

    def steps(self, samples: int) -> int:
        """Steps of the whole run over shards that hold ``samples`` samples."""
        wanted = self.samples if self.samples is not None else max(1, round(self.epochs * samples))
        return -(-wanted // self.batch_size)


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Train on the artifact ``shards``; needs a running Ray.

    Raises Preempted if asked to stop (a checkpoint is saved first), DataError for unreadable or too many corrupt
    shards, StageFailed when workers died more than ``max_failures`` times.
    """
    from training.data import Shards
    from training.figures import curves

    shards = inputs["shards"]
    if RECORD not in context.ledger.read([RECORD]):
        paths = [file.path for file in shards.files("data/train/", ".tar")]
        _launch(config, Shards(shards.store, paths), context)
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


def _launch(config: Config, shards: Shards, context: Context) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    wanted = {"CPU": config.workers * config.cpus_per_worker, "GPU": config.workers if config.gpu else 0}
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, count in wanted.items():
        if there.get(kind, 0) < count:
            raise ConfigError(
                f"{config.workers} training workers do not fit the cluster",
                expected=f"{count} {kind}",
                found=f"{there.get(kind, 0):g} {kind}",
                fix="set fewer workers or cpus_per_worker, or join a larger cluster with RAY_ADDRESS",
            )
    scratch = context.store.child("scratch")  # Ray's own bookkeeping; it wants it where every node can see it
    scratch.delete("")
    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type] # the return value of rank 0 is handed back
        train_loop_config={"config": config, "shards": shards, "context": context},
        scaling_config=ScalingConfig(
            num_workers=config.workers,
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
