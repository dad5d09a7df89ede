"""Configuration of the training stage, in parts: what is trained on what, how it is optimized, where it runs.

Each part is declared once and handed on whole to the code that uses it. Everything is counted in samples seen, so
nothing depends on the number of workers. ``clipline plan`` imports this module, hence no torch, numpy or Ray.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from infra.config import Config as Part
from infra.config import Input, Runtime, StageConfig
from infra.encoder import check_architecture
from infra.errors import ConfigError, UsageError
from infra.formats.merges import FILE, check_merges, read_merges
from training.checkpoint.manifests import progress
from training.curve import Curve
from training.data.batching import BatchRule
from training.objectives import infonce
from training.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from infra.store import Store

__all__ = [
    "RECORD",
    "Augment",
    "Checkpoint",
    "Cluster",
    "Config",
    "Data",
    "Loading",
    "Model",
    "Optimizer",
    "Schedule",
    "Validation",
]


RECORD = "model"
"""The one entry of the stage's ledger: present when the model has been written."""


class Model(Part):
    """The model and which parts of it are trained."""

    architecture: str | dict[str, Any] = Field(
        "ViT-B-32",
        description="open_clip model name, a model configuration in open_clip's JSON form, or local-dir:FOLDER, which "
        "is replaced by the configuration there",
    )
    lock_image: int | None = Field(
        None, ge=0, description="layer groups at the image tower's end that are trained, the others frozen; null: all"
    )
    lock_text: int | None = Field(
        None, ge=0, description="layers at the text tower's end that are trained, the others frozen; null: all"
    )
    patch_dropout: float | None = Field(
        None, ge=0, lt=1, description="fraction of image patches dropped in training; null: as the model says"
    )

    merges: tuple[str, ...] | None = Field(
        None,
        description="merges for CLIP's tokenizer, learnt from captions of yours; or their file, one a line, which is "
        "replaced by what it says. The vocabulary is then of their size. null: the architecture's own tokenizer",
    )

    @model_validator(mode="before")
    @classmethod
    def _merges_beside(cls, value: object) -> object:
        """A folder that is the architecture brings its merges along."""
        match value:
            case {"architecture": str(name), **others} if name.startswith("local-dir:") and "merges" not in others:
                beside = Path(name.removeprefix("local-dir:")).expanduser() / FILE
                if beside.is_file():
                    return {"architecture": name, "merges": str(beside), **others}
        return value

    @field_validator("merges", mode="before")
    @classmethod
    def _merges_by_content(cls, value: object) -> object:
        match value:  # one name without a blank is no merge: --set writes a tuple of one so
            case [str(name)] if " " not in name:
                value = name
        if not isinstance(value, str):
            return value
        try:
            return read_merges(Path(value).expanduser().read_bytes(), value)
        except OSError as error:
            raise ConfigError(f"{value} holds no merges", expected="a file", found=str(error)) from None

    @field_validator("merges")
    @classmethod
    def _merges_make_tokens(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None:
            check_merges(value)
        return value

    @field_validator("architecture")
    @classmethod
    def _by_content(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        """A folder counts by the configuration in it. A misspelt name is reported by ``clipline plan``."""
        if isinstance(value, dict):
            return value
        scheme, colon, folder = value.partition(":")
        if scheme == "local-dir" and colon:
            return _configuration_in(Path(folder).expanduser())
        check_architecture(value)
        return value


def _configuration_in(folder: Path) -> dict[str, Any]:
    """The model configuration in a folder of open_clip's. Raises ConfigError."""
    try:
        found = json.loads((folder / "open_clip_config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no model", expected="open_clip_config.json", found=str(error)) from None
    if not isinstance(found, dict):
        raise ConfigError(f"{folder} holds no model", expected="a JSON object", found=type(found).__name__)
    return found


class Data(Part):
    """Order and mixture of the samples."""

    weights: dict[str, float] | None = Field(
        None,
        description="sampling weight of each input of shards, by its name; null: all are one set, each sample once an "
        "epoch",
    )
    shuffle: Literal["global", "window"] = Field(
        "global", description="shuffle over all samples, or only over those of some shards at a time"
    )
    shuffle_window: int = Field(
        16,
        ge=1,
        description="shards that a window shuffle mixes at a time; with several nodes a few times their number, so "
        "that each node fetches few shards but its own",
    )
    balance: float | None = Field(
        None,
        gt=0,
        description="online balancing: an epoch has each sample with the probability of MetaCLIP's rule, at so many "
        "times the limit of the stage balance, which ran with drop=false; null: each sample",
    )
    batches: BatchRule | None = Field(
        None,
        description="concept-aware batches: the rule that makes batches of the samples of some batches to come: "
        "spread, diverse, frequent, or one of your own; null: as they come",
    )
    caption_key: str = Field(
        "txt",
        description="where captions are: txt; txt:lines, one per line, of which one is drawn each time; json:FIELD",
    )


class Augment(Part):
    """Image augmentation; names and meanings are open_clip's."""

    crop_scale: tuple[float, float] = Field(
        (0.9, 1.0), description="least and greatest fraction of an image's area that a random crop keeps"
    )
    crop_ratio: tuple[float, float] = Field((0.75, 4 / 3), description="least and greatest width / height of a crop")
    flip_prob: float = Field(0.0, ge=0, le=1, description="probability of a mirrored image; captions may name sides")
    color_jitter: tuple[float, float, float, float] | None = Field(
        None, description="strength of changes in brightness, contrast, saturation and hue; null: no change"
    )
    color_jitter_prob: float = Field(0.8, ge=0, le=1, description="probability of these changes")
    gray_scale_prob: float = Field(0.0, ge=0, le=1, description="probability of a greyscale image")

    @property
    def deterministic(self) -> bool:
        """True if an image is prepared to the same pixels in every epoch."""
        jitters = self.color_jitter is not None and self.color_jitter_prob > 0
        draws = {self.flip_prob, self.gray_scale_prob} - {0.0, 1.0}
        return self.crop_scale == (1.0, 1.0) and not jitters and not draws


class Optimizer(Part):
    """AdamW."""

    lr: float = Field(5e-4, gt=0, description="peak learning rate")
    text_lr: float | None = Field(
        None,
        gt=0,
        description="peak learning rate of the text tower; null: lr. A small one helps where captions have words for "
        "things the image tower cannot see yet: a fast text tower unlearns them",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate from each layer to the one before it, for fine-tuning"
    )
    betas: tuple[float, float] = Field((0.9, 0.98), description="decay rates of the two moments")
    eps: float = Field(1e-6, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(0.2, ge=0, description="on matrices only: not on gains, biases, logit scale")
    grad_clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null: not clipped")
    ema_half_life: int | None = Field(
        None,
        ge=1,
        description="samples after which the moving average of the weights has forgotten half; written as a second "
        "model, data/ema. null: no average",
    )


class Schedule(Part):
    """Learning rate over a run: linear warm-up, then half a cosine, a constant or another curve, perhaps a cooldown.

    The cooldown (WSD; Hägele et al. 2024, https://arxiv.org/abs/2405.18392) takes the rate to ``floor`` over the last
    samples. A run with it can be prolonged from a checkpoint before its cooldown, which one with a cosine cannot.
    """

    warmup: int = Field(0, ge=0, description="samples over which the learning rate rises linearly to its peak")
    shape: Literal["cosine", "constant"] = Field("cosine", description="the learning rate after the warm-up")
    curve: Curve | None = Field(None, description="in place of `shape`: a curve, of your own or inverse_sqrt")
    floor: float = Field(
        0.0, ge=0, le=1, description="least learning rate after the warm-up, as a fraction of the peak"
    )
    cooldown: int = Field(0, ge=0, description="last samples, over which a rate that is no cosine falls to the floor")
    cooldown_shape: Literal["linear", "1-sqrt"] = Field("1-sqrt", description="how it falls")

    def rate(self, peak: float, samples: float, total: int) -> float:
        """Learning rate at ``samples`` seen of ``total``.

        The loop asks for the middle of each batch, so neither the first nor the last step is spent on a rate of zero.
        """
        if samples < self.warmup:
            return peak * samples / self.warmup
        seen, ahead = samples - self.warmup, max(1, total - self.warmup)
        if self.curve is None and self.shape == "cosine":
            part = 0.5 * (1 + math.cos(math.pi * min(1.0, seen / ahead)))
        else:
            way = max(0.0, 1 - (total - samples) / self.cooldown) if self.cooldown else 0.0
            part = 1 - (math.sqrt(way) if self.cooldown_shape == "1-sqrt" else way)
            if self.curve is not None:
                part *= self.curve.factor(seen, ahead)
        return peak * (self.floor + (1 - self.floor) * part)


class Checkpoint(Part):
    """Schedule and retention of checkpoints."""

    every: int | None = Field(None, ge=1, description="samples between two checkpoints; null: minutes alone decide")
    minutes: float | None = Field(
        5.0, gt=0, description="minutes after which there is a checkpoint anyway; null: samples alone decide"
    )
    keep: int = Field(2, ge=1, description="how many of the newest checkpoints are kept")
    keep_every: int | None = Field(
        None, ge=1, description="checkpoints that passed a multiple of so many samples are kept, too"
    )
    keep_best: int = Field(0, ge=0, description="how many of the best checkpoints by validation are kept, too")
    best_metric: str = Field(
        "",
        description="validation metric that ranks the best checkpoints, such as digits/acc1; greater is better, unless "
        "its name has loss in it",
    )


class Validation(Part):
    """Scoring on test sets while training."""

    sets: tuple[str, ...] = Field((), description="test sets of the input `tests` to score, by name")
    every: int = Field(1_000_000, ge=1, description="samples between two validations; the first is before training")
    split: str = Field("test", description="split of the test sets")
    images: int = Field(5000, ge=1, description="images of each test set, at most")


class Loading(Part):
    """Reading, decoding and caching of samples in a worker."""

    threads: int = Field(2, ge=1, description="threads of a worker that read and decode images")
    remote_loaders: int = Field(
        0, ge=0, description="Ray actors per worker, of one core each, that make its batches instead, on any node"
    )
    cache_folder: str | None = Field(
        None, description="a node's folder for copies of remote shards and indexes; null: below the temporary folder"
    )
    disk_cache_gb: float | None = Field(
        None, gt=0, description="most that copies of remote shards take on a node, GB; null: what the disk holds"
    )
    memory_cache_mb: int = Field(2048, ge=0, description="decoded images a worker keeps in memory, MB")
    feature_cache_mb: int = Field(
        4096,
        ge=0,
        description="features of a locked image tower that a node keeps in cache_folder's file system, MB; they take "
        "the place of images where augmentation is not random (augment.crop_scale = 1, 1). 0: none",
    )
    max_corrupt: int = Field(100, ge=0, description="samples that may fail to decode before the run fails")


class Cluster(Part):
    """Workers of the training, and the division of work among them."""

    workers: int | tuple[int, int] = Field(
        1,
        description="processes that share each batch, one per GPU; (least, most): as many as the cluster has room for "
        "whenever it starts or continues",
    )
    gpu: bool = Field(False, description="whether each worker has a GPU")
    cpus_per_worker: int = Field(1, ge=1, description="cores of a worker, and its threads for tensors on the CPU")
    memory_gb: float = Field(0.0, ge=0, description="memory that Ray sets aside for a worker, GB")
    resources: Mapping[str, float] = Field({}, description="resources of your own that a worker takes")
    labels: Mapping[str, str] = Field(
        {}, description="labels that a worker's node must have: its zone, its kind of GPU"
    )
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        "PACK",
        description="workers on few nodes, near each other, or on many, with more memory and network each; STRICT: one "
        "node, or a node each, or not at all",
    )
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="whole model on each worker, or sharded (FSDP2)")
    accumulate: int = Field(
        1, ge=1, description="micro-batches that a worker's share of a batch is split into, to save memory"
    )
    grad_checkpointing: bool = Field(False, description="recompute activations in the backward pass, to save memory")
    compile: bool = Field(False, description="compile the towers with torch.compile")
    max_failures: int = Field(
        3, ge=0, description="worker failures without a new checkpoint between them that are recovered from"
    )
    grow_after_s: float = Field(60.0, gt=0, description="seconds between two checks for room for more workers")
    collective_timeout_s: float = Field(
        600.0, gt=0, description="seconds a worker waits for the others before it gives up; the first steps compile"
    )

    @property
    def range(self) -> tuple[int, int]:
        """The least and the most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @property
    def each(self) -> dict[str, float]:
        """Ray's resources of one worker."""
        wanted = {"GPU": float(self.gpu), "memory": self.memory_gb * 1e9, **self.resources}
        return {"CPU": self.cpus_per_worker, **{kind: amount for kind, amount in wanted.items() if amount}}

    @property
    def shares(self) -> int:
        """Parts that every batch must divide into. Of a range, only as many workers train as divide the batch."""
        least, most = self.range
        return self.accumulate * (most if least == most else 1)


class Config(StageConfig):
    """The training stage's configuration."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "shards": Input("shards", repeated=True, description="WebDataset tars to train on"),
        "tests": Input("testsets", required=False, description="test sets that `validation` scores"),
        "pretrained": Input("model", required=False, description="weights to start from instead of the seed"),
        "teacher": Input("model", required=False, description="model that the objective distill learns from"),
    }
    produces: ClassVar[tuple[str, ...]] = ("model",)
    code_version: ClassVar[int] = 6

    model: Model = Field(Model(), description="the model; also a name or an open_clip configuration alone")
    objective: ObjectiveConfig = Field(infonce.Config(), description="what is minimised; see training/objectives")
    data: Data = Field(Data(), description="order and mixture of the samples")
    augment: Augment = Field(Augment(), description="image augmentation")
    optimizer: Optimizer = Field(Optimizer(), description="AdamW and the average of the weights")
    schedule: Schedule = Field(Schedule(), description="learning rate over the run")
    batch_size: int = Field(1024, ge=2, description="samples per step over all workers")
    samples: int | None = Field(None, ge=1, description="samples to see in all, rounded up to whole batches")
    epochs: float = Field(32.0, gt=0, description="passes over the shards, where samples is not given")
    precision: Literal["fp32", "amp_bf16"] = Field(
        "fp32", description="fp32, or bf16 by autocast. Weights, logits and loss are always fp32"
    )
    tf32: bool = Field(False, description="whether GPUs multiply fp32 matrices with 10 bits of mantissa")
    seed: int = Field(0, ge=0, description="seed of the initial weights, the sample order and the augmentation")
    log_every: int | None = Field(None, ge=1, description="samples between two lines of the history; null: ten batches")
    checkpoint: Runtime[Checkpoint] = Field(Checkpoint(), description="when checkpoints are written, which are kept")
    validation: Runtime[Validation] = Field(Validation(), description="scoring on test sets while training")
    loading: Runtime[Loading] = Field(Loading(), description="reading, decoding and caching of samples")
    cluster: Runtime[Cluster] = Field(Cluster(), description="workers and how they share the work")
    profile_at: Runtime[int | None] = Field(
        None, ge=0, description="samples seen when a few steps are profiled; a file named profile asks for it, too"
    )

    @field_validator("model", mode="before")
    @classmethod
    def _architecture_alone(cls, value: object) -> object:
        """A name, or open_clip's configuration of a model, stands for a Model of that architecture."""
        is_open_clip = isinstance(value, dict) and not {"vision_cfg", "model_cfg"}.isdisjoint(value)
        return {"architecture": value} if isinstance(value, str) or is_open_clip else value

    @model_validator(mode="after")
    def _batch_divides(self) -> Config:
        least, most = self.cluster.range
        if not 1 <= least <= most:
            raise ConfigError("training.config.Cluster.workers is no range", expected="1 <= least <= most")
        if self.batch_size % self.cluster.shares:
            raise ConfigError(
                "training.config.Config.batch_size does not divide evenly among the workers and their micro-batches",
                expected=f"a multiple of {self.cluster.shares}",
                found=str(self.batch_size),
            )
        self.objective.check(self.batch_size // self.cluster.shares)
        return self

    def extras(self) -> tuple[str, ...]:
        return ("train",)

    def check_inputs(self, given: Collection[str]) -> None:
        sources = [name for name in given if self.inputs["shards"] is self.input_named(name)]
        if self.data.weights is not None and set(self.data.weights) != set(sources):
            raise ConfigError(
                "training.config.Data.weights must name the inputs of shards, each of them",
                expected=", ".join(sorted(sources)),
                found=", ".join(sorted(self.data.weights)),
            )
        if self.validation.sets and "tests" not in given:
            raise UsageError(
                "there are no test sets to validate on",
                expected="an input named tests",
                found=f"validation.sets = {', '.join(self.validation.sets)}",
            )
        for name in self.objective.needs:
            if name not in given:
                raise UsageError(f"the objective {self.objective.kind} needs an input named {name}")

    def progress(self, folder: Store) -> str:
        """Describe the newest checkpoint in the artifact's folder, for ``plan``."""
        found = progress(folder)
        if found is None:
            return ""
        seen, total = found
        return f"checkpoint at {seen:,} of {total:,} samples" if total else f"checkpoint at {seen:,} samples"

    def steps(self, samples: int) -> int:
        """Steps of the whole run over shards that hold ``samples`` samples."""
        wanted = self.samples if self.samples is not None else max(1, round(self.epochs * samples))
        return -(-wanted // self.batch_size)
