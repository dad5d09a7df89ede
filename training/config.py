"""What is trained and how: the fields of the training stage.

Everything is counted in samples seen, so nothing depends on the number of workers. Imported by recipes and by
``clipline plan``, hence no torch, numpy or Ray in here.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from infra.config import Config as BaseConfig
from infra.config import Runtime
from infra.errors import ConfigError

__all__ = ["Config"]


class Config(BaseConfig):
    """The training stage's configuration."""

    code_version: ClassVar[int] = 3

    # --- what learns what
    model: str | dict[str, Any] = Field(
        "ViT-B-32", description="an open_clip model name, or a model configuration in open_clip's JSON form"
    )
    pretrained: str | None = Field(
        None,
        description="where weights come from instead of the seed: a checkpoint, a folder in open_clip's layout or a "
        "training artifact",
    )
    lock_image: int | None = Field(
        None, ge=0, description="groups of layers at the image tower's end that learn, the others are locked; none: all"
    )
    lock_text: int | None = Field(
        None, ge=0, description="layers at the text tower's end that learn, the others are locked; none: all"
    )
    patch_dropout: float | None = Field(
        None, ge=0, lt=1, description="part of an image's patches left out in training; none: the model's own"
    )
    objective: Literal["infonce", "siglip", "vsepp", "albef", "coca", "distill"] = Field(
        "infonce", description="what is minimised; see training/objectives"
    )
    vsepp_margin: float = Field(0.2, gt=0, description="of vsepp: cosine by which a match must beat its negatives")
    vsepp_warmup: int = Field(0, ge=0, description="of vsepp: samples until only the hardest negative counts")
    coca_contrastive_weight: float = Field(1.0, ge=0, description="of coca: weight of the contrastive loss")
    coca_caption_weight: float = Field(2.0, ge=0, description="of coca: weight of the captioning loss")
    distill_teacher: str | None = Field(
        None, description="of distill: the teacher, a training artifact or a folder in open_clip's layout"
    )
    distill_weight: float = Field(1.0, gt=0, description="of distill: weight of the cross-entropy with the teacher")
    albef_queue_size: int = Field(65_536, ge=0, description="of albef: features remembered as further negatives")
    albef_momentum: float = Field(0.995, gt=0, lt=1, description="of albef: decay of the momentum encoders per step")
    albef_alpha: float = Field(0.4, ge=0, le=1, description="of albef: weight of the momentum encoders' soft targets")
    albef_alpha_warmup: int = Field(
        1_000_000, ge=0, description="of albef: samples over which that weight rises from zero"
    )
    albef_itm_weight: float = Field(1.0, ge=0, description="of albef: weight of image-text matching; 0: none")
    albef_mlm_weight: float = Field(1.0, ge=0, description="of albef: weight of masked language modelling; 0: none")
    albef_mask_rate: float = Field(0.15, gt=0, lt=1, description="of albef: part of the words that are hidden")
    albef_negatives_among: int = Field(
        32,
        ge=2,
        description="of albef: neighbouring samples that hard negatives are drawn from; a divisor of the samples "
        "that a worker works on at a time",
    )
    albef_fusion_layers: int = Field(6, ge=1, description="of albef: layers of the encoder that joins image and text")
    seed: int = Field(0, ge=0, description="of the initial weights, the sample order and the augmentation")

    # --- data
    shards: tuple[str, ...] = Field(
        (), description="folders or fsspec URLs with *.tar to train on, beside or instead of the inputs"
    )
    weights: dict[str, float] | None = Field(
        None,
        description="how often a sample comes from each input (by its name) or folder of shards (as given), in "
        "proportion; none: all are one set, each sample once an epoch",
    )
    shuffle: Literal["global", "window"] = Field(
        "global", description="whether any sample may follow any other, or only those of some shards at a time"
    )
    shuffle_window: int = Field(
        16,
        ge=1,
        description="shards at a time where samples are shuffled by window; with several nodes a few times as many as "
        "nodes, so that each fetches few but its own",
    )
    caption_key: str = Field(
        "txt",
        description="where captions are: txt; txt:lines, one per line, of which one is drawn each time; json:FIELD",
    )
    crop_scale: tuple[float, float] = Field(
        (0.9, 1.0), description="least and greatest part of an image's area that a random crop keeps"
    )
    crop_ratio: tuple[float, float] = Field((0.75, 4 / 3), description="least and greatest width / height of a crop")
    flip_prob: float = Field(0.0, ge=0, le=1, description="chance that an image is mirrored; captions may name sides")
    color_jitter: tuple[float, float, float, float] | None = Field(
        None, description="strength of changes in brightness, contrast, saturation and hue; none: no change"
    )
    color_jitter_prob: float = Field(0.8, ge=0, le=1, description="chance of these changes")
    gray_scale_prob: float = Field(0.0, ge=0, le=1, description="chance that an image loses its colours")

    # --- how it is learnt
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
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="the learning rate's factor from each layer to the one before it, for fine-tuning"
    )
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's decay rates of the two moments")
    eps: float = Field(1e-6, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(0.2, ge=0, description="AdamW's, on matrices only: not on gains, biases, logit scale")
    warmup: int = Field(0, ge=0, description="samples over which the learning rate rises linearly to its peak")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="the learning rate after the warm-up")
    lr_floor: float = Field(0.0, ge=0, le=1, description="the least learning rate after the warm-up, a part of lr")
    cooldown: int = Field(0, ge=0, description="last samples, over which a constant rate falls to its floor")
    cooldown_shape: Literal["linear", "1-sqrt"] = Field("1-sqrt", description="how it falls")
    grad_clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none: not clipped")
    ema_half_life: int | None = Field(
        None,
        ge=1,
        description="samples after which an average of the weights has forgotten half; written as a second model, "
        "data/ema. None: no average",
    )
    precision: Literal["fp32", "amp_bf16"] = Field(
        "fp32", description="fp32, or bf16 by autocast. Weights, logits and loss are always fp32"
    )
    tf32: bool = Field(False, description="whether GPUs multiply fp32 matrices with 10 bits of mantissa")
    log_every: int | None = Field(None, ge=1, description="samples between two lines of the history; none: ten batches")
    validation: Runtime[tuple[str, ...]] = Field(
        (), description="test sets of the input `tests`, in CLIP_benchmark's layout, to score now and then"
    )
    validation_every: Runtime[int] = Field(1_000_000, ge=1, description="samples between two validations")
    validation_split: Runtime[str] = Field("test", description="split of the test sets")
    validation_images: Runtime[int] = Field(5000, ge=1, description="images of each test set, at most")
    profile_at: Runtime[int | None] = Field(
        None, ge=0, description="samples seen when a few steps are profiled; a file named profile asks for it, too"
    )

    # --- where and with what
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
    remote_loaders: Runtime[int] = Field(
        0, ge=0, description="Ray actors per worker, of one core each, that make its batches instead, on any node"
    )
    cache_folder: Runtime[str | None] = Field(
        None, description="a node's folder for copies of remote shards and indexes; none: below the temporary folder"
    )
    disk_cache_gb: Runtime[float | None] = Field(
        None, gt=0, description="the most that copies of remote shards take on a node; none: what the disk holds"
    )
    cache_mb: Runtime[int] = Field(2048, ge=0, description="MB of decoded images a worker keeps in memory")
    max_corrupt: Runtime[int] = Field(100, ge=0, description="samples that may fail to decode before the run fails")
    checkpoint_every: Runtime[int | None] = Field(
        None, ge=1, description="samples between two checkpoints; none: minutes alone decide"
    )
    checkpoint_minutes: Runtime[float | None] = Field(
        5.0, gt=0, description="minutes after which there is a checkpoint anyway; none: samples alone decide"
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
    def _the_model_is_known(self) -> Config:
        """A misspelt name is told by ``clipline plan``, not after days of downloads. open_clip itself loads torch."""
        if isinstance(self.model, dict) or ":" in self.model or not (place := find_spec("open_clip")):
            return self
        known = sorted(path.stem for path in Path(place.origin or "").parent.glob("model_configs/*.json"))
        if known and self.model not in known:
            near = ", ".join(get_close_matches(self.model, known, n=3))
            raise ConfigError(
                f"open_clip has no model {self.model!r}",
                expected="one of open_clip.list_models(), or a configuration",
                fix=f"did you mean {near}?" if near else "",
            )
        return self

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
        apart = self.batch_size // shares
        if self.objective == "albef" and self.albef_itm_weight and apart % self.albef_negatives_among:
            raise ConfigError(
                "training.config.Config.albef_negatives_among does not divide what a worker works on at a time",
                expected=f"a divisor of {apart}",
                found=str(self.albef_negatives_among),
            )
        if self.objective == "distill" and self.distill_teacher is None:
            raise ConfigError("the objective distill needs a teacher", fix="set distill_teacher")
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    def steps(self, samples: int) -> int:
        """Steps of the whole run over shards that hold ``samples`` samples."""
        wanted = self.samples if self.samples is not None else max(1, round(self.epochs * samples))
        return -(-wanted // self.batch_size)
