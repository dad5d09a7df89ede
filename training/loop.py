"""The training loop, from the first sample to the written model.

It runs in any process group: Ray Train's workers (train.py), ``torchrun`` or one process (cli.py)::

    torchrun --nproc-per-node 8 --no-python clipline-train --config config.json --shards FOLDER --output FOLDER

State is samples seen. Whatever a step needs (batch, crop, learning rate, random numbers of the layers) follows from
the configuration and that number, so a run continues from a checkpoint exactly, with as many workers as there are.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from infra.config import flatten
from infra.errors import CliplineError, ConfigError, DataError, Preempted
from infra.events import Collapsed, Log, StageImage, TrainStart
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Funnel
from infra.schema import Drop
from infra.store import LocalStore
from training.checkpoint.checkpoints import Checkpoints
from training.checkpoint.export import write_folder, write_model, write_module
from training.config import RECORD, Config
from training.data.batched import Batched
from training.data.loader import Batch, Loader, on_device
from training.data.sampler import Sampler
from training.data.samples import Samples
from training.distributed.parallel import gathered, wrap
from training.distributed.world import World
from training.inputs import Inputs
from training.kept_teacher import KeptTeacher
from training.locked_tower import LockedTower
from training.model.blocks import compile_blocks
from training.model.build import Towers, build
from training.model.flops import forward_flops, peak
from training.model.precision import Precision
from training.objectives.base import Objective
from training.observe.collapse import LINES, Collapse
from training.observe.meter import Meter, RankStats
from training.observe.profile import Profiler
from training.optim.ema import Ema
from training.optim.schedule import adamw, learning_rate
from training.step import backward
from training.validate import Encoded, Validation

if TYPE_CHECKING:
    from infra.store import Store

__all__ = ["IDENTITY", "identity", "train"]

log = logging.getLogger(__name__)

IDENTITY = "data/training.json"
"""Every deciding field of a finished run by its dotted name, its shards' digest and its samples in all."""


def identity(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Every deciding field by its dotted name, and the digest of the shards: what a checkpoint belongs to."""
    return {**flatten(config.resolved()), "shards": inputs.digest()}


@dataclass
class State:
    """Progress of a run, besides weights and optimizer. Equal on all ranks, whatever their number."""

    samples: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)  # of each batch since the last line of the history
    history: list[dict[str, float]] = field(default_factory=list)
    collapse: dict[str, int] = field(default_factory=dict)  # lines in a row that show a sign of it, by sign
    corrupt: list[int] = field(default_factory=list)


def train(config: Config, inputs: Inputs, context: Context, world: World) -> None:
    """Train to the end, or to where the run is asked to stop; write the model and enter it in the ledger.

    Every rank calls it with the same arguments.
    Raises on all ranks: Preempted after saving a checkpoint, ConfigError and DataError.
    """
    if not world.active:
        log.info("rank %d stands by: %d ranks share the batch", world.rank, world.size)
        return
    if world.device.type == "cpu":
        torch.set_num_threads(config.cluster.cpus_per_worker)
    trainer = Trainer(config, inputs, context, world)
    trainer.restore()
    trainer.run()
    trainer.finish()


class Trainer:
    """A run's parts and what it does with them, on one rank. Raises what :func:`train` does."""

    def __init__(self, config: Config, inputs: Inputs, context: Context, world: World) -> None:
        self.config, self.context, self.world = config, context, world
        self.sources = list(inputs.sources)
        self.precision = precision_of(config)
        self.precision.apply()
        parts = prepare(config, inputs, world)
        self.towers, self.samples, self.sampler = parts.towers, parts.samples, parts.sampler
        self.objective, self.validation = parts.objective, parts.validation
        self.model = wrap(self.objective, config, world)
        self.locked = LockedTower.of(config, self.towers, self.objective, len(self.samples), self.total, world)
        self.teacher = KeptTeacher.of(config, self.towers, self.objective, self.samples, self.total, world)
        flops = parts.flops if self.locked is None else None  # those of the locked tower are not computed
        most = peak(world.device, config.precision, config.tf32) if flops else None
        self.meter = Meter(context, world, self.total, flops, most.flops if most else None)
        self.optimizer = adamw(self.objective, config.optimizer)
        half_life = config.optimizer.ema_half_life
        self.ema = Ema(self._weights(), half_life) if half_life else None
        if self.ema is not None:
            self.objective.ema = self.ema  # its state goes wherever the objective's goes
        self.loader = self._loader()
        self.identity = {**identity(config, inputs), "total": self.total}
        self.checkpoints = Checkpoints(
            context.store, config.checkpoint, world, self.towers.description, self.identity, self.towers.files
        )
        self.profiler = Profiler(context, world, config.profile_at)
        self.collapse = Collapse(config, self.total, self.objective.contrastive)
        self.state = State()
        self._pending: dict[str, list[torch.Tensor]] = {}  # this rank's losses that the others have not heard of
        self._scoring = ThreadPoolExecutor(1, "scoring")
        self._scores: tuple[int, Future[dict[str, float]]] | None = None  # of the last validation, at samples seen

    @property
    def total(self) -> int:
        """Samples of the whole run."""
        return self.config.steps(self.sampler.epoch) * self.config.batch_size

    def _epochs(self) -> list[tuple[str, int, float]]:
        """Of each source of a mixture, or of all as one: name, samples of an epoch, epochs of the run."""
        names = self.sources if self.config.data.weights is not None else ["shards"]
        return [(name, *found) for name, found in zip(names, self.sampler.epochs(self.total), strict=True)]

    def _loader(self) -> Loader:
        kind = Loader
        if self.config.loading.remote_loaders:
            from training.data.remote_loader import RayLoader

            kind = RayLoader
        loader = kind(self.samples, self.config, self.world, self.towers.image_size, self.sampler)
        if self.locked is not None:
            loader.without_image = self.locked.cache.has
        return loader

    def _weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        """The model's state by open_clip's names."""
        state: dict[str, torch.Tensor] = self.towers.model.state_dict()
        return state.items()

    def restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        if saved := self.checkpoints.restore(self.objective, self.optimizer):
            self.state = State(**saved)
            self.loader.corrupt.update(self.state.corrupt)
        if self.world.rank == 0:
            stage, samples, workers = self.context.stage, self.state.samples, self.world.size
            self.context.send(TrainStart(stage=stage, samples=samples, workers=workers))
            told = (f"{name}: {epochs:,.4g} epochs of {samples:,} samples" for name, samples, epochs in self._epochs())
            message = "; ".join(told)
            if isinstance(self.sampler, Batched) and (passed := self.sampler.passed_over(self.total)):
                message += f"; {passed:,} samples are passed over when batches are composed"
            self.context.send(Log(stage=stage, level="INFO", logger=__name__, message=message))

    def run(self) -> None:
        """Steps until all samples of the run have been seen."""
        config, state = self.config, self.state
        with closing(self.loader.batches(state.samples, self.total)) as batches:
            if self.validation and not state.samples:
                self._validate(self.validation)  # what the training starts from, a pretrained model above all
            for batch in on_device(self._agreed(batches), self.world.device):
                norm, rate = self._step(batch)
                before, state.samples = state.samples, state.samples + config.batch_size
                last = state.samples == self.total
                self.meter.count(state.samples)
                self.profiler.step(state.samples)
                if self._logs(before, state.samples):
                    self._log(rate, norm)
                due = last or _crosses(config.validation.every, before, state.samples)
                if due and self.validation:
                    self._validate(self.validation)
                # The best are kept of those that were scored.
                best = due and self.validation and config.checkpoint.keep_best
                if last or best or self.checkpoints.due(before, state.samples):
                    self._save()
        self.profiler.close()

    def _logs(self, before: int, samples: int) -> bool:
        """True if the step from ``before`` to ``samples`` ends a line of the history."""
        return samples == self.total or _crosses(self.config.log_every or 10 * self.config.batch_size, before, samples)

    def _agreed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, once all ranks have them; if the run is to end instead, save and raise.

        What a rank has to say of the next batch goes around while all work on the one before.
        """
        coming = self._take(batches)
        while True:
            (batch, agreed), coming = coming, self._take(batches)
            stop = agreed()
            if batch is None:
                return
            if stop:
                self._save()
                self._close()
                raise Preempted(
                    "training was asked to stop", fix="run or resume again: it continues from its checkpoint"
                )
            yield batch

    def _take(self, batches: Iterator[Batch]) -> tuple[Batch | None, Callable[[], bool]]:
        """This rank's part of the next batch, none after the last; and what all ranks say to it, to be asked later."""
        batch, error = None, None
        with self.meter.waiting():
            try:
                batch = next(batches, None)
            except CliplineError as failure:
                error = failure
        return batch, self.world.start_agreement(error, stop=self.context.stopping)

    def _step(self, batch: Batch) -> tuple[torch.Tensor, float]:
        """One step of the optimizer: the gradient's norm and the learning rate."""
        config, samples = self.config, self.state.samples
        rate = learning_rate(config, samples + config.batch_size / 2, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        torch.manual_seed(_step_seed(config.seed, samples, self.world.rank))
        self.optimizer.zero_grad(set_to_none=True)
        look = (self.collapse.look,) if self._logs(samples, samples + config.batch_size) else ()
        parts = config.cluster.accumulate
        losses = backward(self.objective, self._encoder(batch), parts, self.model.no_sync, *look)
        norm = self.model.clip(config.optimizer.grad_clip)
        self.optimizer.step()
        self.objective.after_step(samples + config.batch_size)
        if self.ema is not None:
            self.ema.update(self._weights(), config.batch_size)
        for name, loss in losses.items():
            self._pending.setdefault(name, []).append(loss)
        return norm, rate

    def _encoder(self, batch: Batch) -> Callable[[int], dict[str, torch.Tensor]]:
        """The objective's forward pass of each part of this rank's share of a batch."""
        share = self.config.batch_size // self.world.size
        size = share // self.config.cluster.accumulate
        if self.locked is not None:
            locked = self.locked.outputs(batch)
        else:
            images = batch.images.to(self.world.device, non_blocking=True)
        taught = self.teacher.outputs(batch) if self.teacher is not None else {}
        texts = batch.texts  # on the CPU, where their lengths are known without waiting for a GPU

        def encode(part: int) -> dict[str, torch.Tensor]:
            rows = slice(part * size, (part + 1) * size)
            position = self.state.samples + self.world.rank * share + part * size
            self.objective.position = self.towers.position.samples = position
            self.objective.taught = {name: kept[rows] for name, kept in taught.items()}
            with self.precision.autocast(self.world.device):
                inputs = self._inputs(images[rows]) if self.locked is None else locked[rows]
                return self.model(inputs, texts[rows])

        return encode

    def _inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the objective reads of a batch's images: pixels normalised, or regions as they are."""
        return self.towers.normalise(images) if self.loader.regions is None else images

    def _log(self, rate: float, norm: torch.Tensor) -> None:
        meters, cosines = self._collect()
        state = self.state
        line = {
            "samples": state.samples,
            **{name: sum(losses) / len(losses) for name, losses in state.losses.items()},
            "lr": rate,
            "logit_scale": float(self.objective.model.logit_scale.detach().exp()),
            "grad_norm": float(norm),
        }
        state.history.append(line)
        state.losses.clear()
        self._look(line, cosines)
        self.meter.log({**line, **{f"{name}_cosine": value for name, value in cosines.items()}}, meters)
        self.profiler.look()

    def _look(self, line: Mapping[str, float], cosines: Mapping[str, float]) -> None:
        """Say so if the run learns nothing."""
        for sign in self.collapse.signs(self.state.samples, cosines, line, self.state.collapse):
            if self.world.rank == 0:
                stage, samples = self.context.stage, self.state.samples
                self.context.send(
                    Collapsed(stage=stage, sign=sign.kind, value=sign.value, samples=samples, message=sign.message)
                )

    def _collect(self) -> tuple[Sequence[RankStats], Mapping[str, float]]:
        """Every rank's losses since the last time become the batches'; what the ranks' meters say, and the mean cosines
        of the last batch's features, where they were looked at.

        Gathered and added in rank order, so that when it happens changes nothing, not the last bit. A loss that is no
        number ends the run here, before it is saved.
        """
        state, size = self.state, self.config.batch_size
        local = {name: torch.stack(losses).tolist() for name, losses in self._pending.items()}
        told = self.world.gather((local, self.loader.corrupt, self.meter.rank_stats(), self.collapse.take()))
        for name in local:
            every = zip(*(losses[name] for losses, *_ in told), strict=True)
            losses = [sum(parts) / self.world.size for parts in every]
            for number, loss in enumerate(losses):
                if not math.isfinite(loss):
                    first = state.samples - (len(losses) - number) * size
                    raise DataError(
                        "the loss is not a finite number",
                        found=f"{name} is {loss} for the batch of samples {first} to {first + size - 1}",
                        fix="lower optimizer.lr, lengthen schedule.warmup or set optimizer.grad_clip",
                    )
            state.losses.setdefault(name, []).extend(losses)
        state.corrupt = sorted(set().union(*(corrupt for _, corrupt, *_ in told)))
        self._pending.clear()
        return [own for _, _, own, _ in told], self.collapse.cosines([means for *_, means in told])

    def _validate(self, validation: Validation) -> None:
        """Encode the test sets on all ranks; rank 0 computes the scores in a thread during the next steps."""
        samples = self.state.samples
        with self.meter.pausing():
            autocast = self.precision.autocast(self.world.device)
            score = self.model.call(validation, self.objective.model, autocast)
        self._wait_for_scores()
        self._scores = samples, self._scoring.submit(self._score, score, samples)

    def _score(self, encoded: Encoded, samples: int) -> dict[str, float]:
        """Runs in the thread."""
        found = encoded()
        if self.world.rank == 0:
            self.context.metrics({f"validation/{name}": value for name, value in found.items()}, samples)
            self._show(encoded.pictures(), samples)
        return found

    def _show(self, pictures: Mapping[str, bytes], samples: int) -> None:
        """Write ``pictures`` to the artifact and send them to MLflow; a failure is a warning."""
        store, stage = self.context.store, self.context.stage
        for name, png in pictures.items():
            path = f"validation/{samples:012d}/{name.replace(' ', '-')}.png"
            try:
                store.write(path, png)
            except (CliplineError, OSError) as error:
                log.warning("a picture of the validation is not kept: %s", error)
                continue
            self.context.send(StageImage(stage=stage, folder=store.url, path=path, name=name, step=samples))

    def _wait_for_scores(self) -> None:
        if self._scores is not None:
            self._scores[1].result()

    def _save(self) -> None:
        self._collect()
        samples = self.state.samples
        metrics = self._scores[1].result if self._scores is not None and self._scores[0] == samples else dict
        held = self.checkpoints.save(samples, self.objective, self.optimizer, asdict(self.state), metrics)
        if self.world.rank == 0:
            self.context.metrics({"checkpoint_held_s": held}, samples)

    def _close(self) -> None:
        """Wait for the threads that write checkpoints and compute scores."""
        self._wait_for_scores()
        self._scoring.shutdown()
        self.checkpoints.close()

    def finish(self) -> None:
        """Write the model and enter it in the ledger."""
        self._close()
        model = gathered(dict(self._weights()), self.world)
        average = gathered(self.ema.weights(), self.world) if self.ema is not None else None
        optimizer = gathered(self.optimizer.state_dict(), self.world)
        companions = {
            name: (companion.config, gathered(companion.module.state_dict(), self.world))
            for name, companion in self.objective.companions().items()
        }
        if self.world.rank == 0:
            self._write(model, average, optimizer, companions)
        self.world.raise_if_any_failed()  # nobody leaves before the model is written

    def _write(
        self,
        model: dict[str, torch.Tensor],
        average: dict[str, torch.Tensor] | None,
        optimizer: dict[str, Any],
        companions: dict[str, tuple[Mapping[str, Any], dict[str, torch.Tensor]]],
    ) -> None:
        state, samples, description = self.state, self.samples, self.towers.description
        output = ShardOutput(self.context.store, RECORD)
        tokenizer = self.towers.files
        write_model(output, description, model, optimizer, state.samples // self.sampler.epoch, tokenizer)
        if average is not None:
            write_folder(output, "data/ema", description, average, tokenizer)
        for name, (config, weights) in companions.items():
            write_module(output, f"data/{name}", config, weights)
        output.write(IDENTITY, json.dumps(self.identity, indent=1, sort_keys=True).encode())
        output.write("data/history.jsonl", "".join(json.dumps(line) + "\n" for line in state.history).encode())
        dropped = {Drop.DECODE: len(state.corrupt), Drop.NO_TEXT: samples.incomplete}
        funnel = Funnel(
            unit="samples",
            entered=len(samples) + samples.incomplete,
            kept=len(samples) - len(state.corrupt),
            dropped={str(reason): count for reason, count in dropped.items() if count},
        )
        parameters = sum(weight.numel() for weight in self.towers.model.parameters())
        epochs = {name: round(epochs, 3) for name, _, epochs in self._epochs()}
        facts: dict[str, Any] = {"samples": state.samples, "parameters": parameters, "epochs": epochs}
        if collapsed := sorted(sign for sign, lines in state.collapse.items() if lines >= LINES):
            facts["collapsed"] = collapsed
        if isinstance(self.sampler, Batched):
            facts["passed_over"] = self.sampler.passed_over(state.samples)
        output.commit(funnel, facts)


@dataclass(frozen=True)
class Parts:
    """Validated parts of a run: the model, the data, which sample when, the test sets."""

    towers: Towers
    samples: Samples
    sampler: Sampler | Batched
    objective: Objective
    validation: Validation | None
    flops: int | None  # of a pair's way forward through the model; known to rank 0, on a GPU


def prepare(config: Config, inputs: Inputs, world: World) -> Parts:
    """All of them; if anything fails on one rank, all raise."""
    error: CliplineError | None = None
    try:
        parts = _prepare(config, inputs, world)
    except CliplineError as failure:
        error = failure
    world.raise_if_any_failed(error)
    return parts


def _prepare(config: Config, inputs: Inputs, world: World) -> Parts:
    towers = build(
        config.model,
        config.seed,
        world,
        settings=config.objective.model_settings,
        pretrained=inputs.models.get("pretrained"),
        grad_checkpointing=config.cluster.grad_checkpointing,
    )
    loading = config.loading
    regions = config.objective.regions({name: LocalStore(place) for name, place in inputs.models.items()})
    samples = Samples(
        list(inputs.sources.values()),
        world,
        tokenize=towers.tokenize,
        # A crop of the least area must not be blown up because the JPEG was decoded too small.
        min_side=math.ceil(max(towers.image_size) / math.sqrt(config.augment.crop_scale[0])),
        cache_bytes=loading.memory_cache_mb * 1_000_000,
        caption_key=config.data.caption_key,
        balance=config.data.balance,
        concepts=config.data.batches.column if config.data.batches else None,
        regions=regions,
        folder=Path(loading.cache_folder) if loading.cache_folder else None,
        disk_bytes=int(loading.disk_cache_gb * 1e9) if loading.disk_cache_gb else None,
    )
    if len(samples) < config.batch_size:
        of = ", ".join(regions.members) if regions else "an image"
        expected, found = f">= {config.batch_size}", f"{len(samples)} samples with a caption and {of}"
        raise DataError("the shards hold less than one batch", expected=expected, found=found)
    weights = config.data.weights
    plain = Sampler(
        samples.counts,
        config.seed,
        weights=[weights[name] for name in inputs.sources] if weights is not None else None,
        shuffle=config.data.shuffle,
        window=config.data.shuffle_window,
        batch=config.batch_size,
        chances=samples.chances,
    )
    rule = config.data.batches
    sampler = Batched(plain, rule, config.batch_size, samples.index.concepts) if rule else plain
    # Counted before the blocks are compiled, and these before an objective makes copies of them.
    flops = forward_flops(towers) if world.device.type == "cuda" and world.rank == 0 else None
    if config.cluster.compile:
        compile_blocks(towers.model)
    objective = config.objective.build(towers.model, config, inputs.models)
    objective.use_tokenizer(towers.tokenize)
    validation = _validation(config, inputs.tests, towers, world) if config.validation.sets else None
    return Parts(towers, samples, sampler, objective, validation, flops)


def precision_of(config: Config) -> Precision:
    return Precision(config.precision, config.tf32)


def _validation(config: Config, tests: Store | None, towers: Towers, world: World) -> Validation:
    if tests is None:
        raise ConfigError(
            "there are no test sets to validate on",
            expected="an input named tests, or --tests",
            found=f"validation.sets = {', '.join(config.validation.sets)}",
        )
    batch = max(1, config.batch_size // world.size // config.cluster.accumulate)
    return Validation(tests, config.validation, towers, world, batch)


def _crosses(every: int, before: int, after: int) -> bool:
    return before // every != after // every


def _step_seed(seed: int, samples: int, rank: int) -> int:
    # For dropout and its like: different on each rank, and the same again when the step is done again.
    return ((seed * 1_000_003 + samples) * 65_537 + rank) % 2**63
