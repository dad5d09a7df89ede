"""What is trained and how: the fields of the training stage.

Everything is counted in samples seen, so nothing depends on the number of workers. Imported by recipes and by
``clipline plan``, hence no torch, numpy or Ray in here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from infra.config import Config as BaseConfig
from infra.config import Runtime
from infra.errors import ConfigError

__all__ = ["Config"]


class Config(BaseConfig):
    """The training stage's configuration."""

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

    validation: Runtime[tuple[str, ...]] = Field(
        (), description="test sets of the input `tests`, in CLIP_benchmark's layout, to score now and then"
    )
    validation_every: Runtime[int] = Field(1_000_000, ge=1, description="samples between two validations")
    validation_split: Runtime[str] = Field("test", description="split of the test sets")
    validation_images: Runtime[int] = Field(5000, ge=1, description="images of each test set, at most")
    profile_at: Runtime[int | None] = Field(
        None, ge=0, description="samples seen when a few steps are profiled; a file named profile asks for it, too"
    )

    workers: Runtime[int | tuple[int, int]] = Field(
        1,
        description="processes that share each batch, one per GPU; (least, most): as many as the cluster has room for "
        "whenever it starts or continues",
    )
    parallel: Runtime[Literal["ddp", "fsdp"]] = Field(
        "ddp", description="whether each worker holds the whole model, or a shard of it (FSDP2)"
    )
    accumulate: Runtime[int] = Field(
        1, ge=1, description="parts a worker's share of a batch is worked on in, one after the other, to save memory"
    )
    grad_checkpointing: Runtime[bool] = Field(
        False, description="whether activations are computed again in the backward pass instead of kept"
    )
    compile: Runtime[bool] = Field(False, description="whether torch.compile makes faster code of the towers")
    gpu: Runtime[bool] = Field(False, description="whether each worker has a GPU")
    cpus_per_worker: Runtime[int] = Field(
        1, ge=1, description="cores a worker takes; its threads for tensors on the CPU"
    )
    loader_threads: Runtime[int] = Field(2, ge=1, description="threads of a worker that read and decode images")
    cache_mb: Runtime[int] = Field(2048, ge=0, description="MB of decoded images a worker keeps in memory")
    max_corrupt: Runtime[int] = Field(100, ge=0, description="samples that may fail to decode before the run fails")
    checkpoint_every: Runtime[int] = Field(1_000_000, ge=1, description="samples between two checkpoints")
    checkpoint_minutes: Runtime[float | None] = Field(
        None, gt=0, description="minutes after which there is a checkpoint anyway; none: samples alone decide"
    )
    keep_checkpoints: Runtime[int] = Field(2, ge=1, description="how many of the newest checkpoints are kept")
    keep_every: Runtime[int | None] = Field(
        None, ge=1, description="checkpoints that passed a multiple of so many samples are kept, too"
    )
    keep_best: Runtime[int] = Field(0, ge=0, description="how many of the best checkpoints by validation are kept, too")
    best_metric: Runtime[str] = Field(
        "",
        description="metric of validation that the best checkpoints are chosen by, such as digits/acc1; greater is "
        "better, unless its name has loss in it",
    )
    max_failures: Runtime[int] = Field(
        3, ge=0, description="worker failures without a new checkpoint between them that are recovered from"
    )
    grow_after_s: Runtime[float] = Field(
        60.0, gt=0, description="seconds between two looks whether the cluster has room for more workers"
    )
    collective_timeout_s: Runtime[float] = Field(
        600.0, gt=0, description="seconds a worker waits for the others before it gives up; the first steps compile"
    )

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Config:
        least, most = self.worker_range
        if not 1 <= least <= most:
            raise ConfigError("training.config.Config.workers is no range", expected="1 <= least <= most")
        shares = self.accumulate * (most if least == most else 1)  # of a range, as many train as divide the batch
        if self.batch_size % shares:
            raise ConfigError(
                "training.config.Config.batch_size does not divide evenly among the workers and their parts",
                expected=f"a multiple of {shares}",
                found=str(self.batch_size),
            )
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    def steps(self, samples: int) -> int:
        """Steps of the whole run over shards that hold ``samples`` samples."""
        wanted = self.samples if self.samples is not None else max(1, round(self.epochs * samples))
        return -(-wanted // self.batch_size)
