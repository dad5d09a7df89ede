"""The training loop, from the first sample to the written model.

It runs in any process group: Ray Train's workers (training/train.py), ``torchrun``, or one process::

    torchrun --nproc-per-node 8 -m training.loop --config config.json --shards SHARDS --output FOLDER

State is samples seen. Whatever a step needs (batch, crop, learning rate, random numbers of the layers) follows from
the configuration and that number, so a run continues from a checkpoint exactly, with as many workers as there are.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from infra.context import Context, ShardOutput
from infra.errors import CliplineError, ConfigError, DataError, Preempted
from infra.manifest import Funnel
from infra.schema import Drop
from infra.storage import open_store
from training.checkpoint import Checkpoints, write_model
from training.data import Samples, Shards
from training.loader import Batch, Loader
from training.meter import Meter
from training.model import Towers, build
from training.objectives import OBJECTIVES
from training.parallel import gathered, wrap
from training.profile import Profiler
from training.schedule import adamw, learning_rate
from training.step import backward
from training.train import RECORD, Config
from training.validate import Validation
from training.world import World

if TYPE_CHECKING:
    from infra.storage import Store

__all__ = ["main", "train"]

log = logging.getLogger(__name__)


@dataclass
class State:
    """What a run has come to, beside weights and optimizer. Equal on all ranks, whatever their number."""

    samples: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)  # of each batch since the last line of the history
    history: list[dict[str, float]] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)


def train(config: Config, shards: Shards, context: Context, world: World, tests: Store | None = None) -> None:
    """Train to the end, or to where the run is asked to stop; write the model and enter it in the ledger.

    Every rank calls it with the same arguments; ``tests`` holds the test sets that ``config.validation`` names.
    Raises on all ranks: Preempted after saving a checkpoint, ConfigError and DataError.
    """
    if not world.active:
        log.info("rank %d stands by: %d ranks share the batch", world.rank, world.size)
        return
    if world.device.type == "cpu":
        torch.set_num_threads(config.cpus_per_worker)
    trainer = Trainer(config, shards, context, world, tests)
    trainer.restore()
    trainer.run()
    trainer.finish()


class Trainer:
    """A run's parts and what it does with them, on one rank. Raises what :func:`train` does."""

    def __init__(self, config: Config, shards: Shards, context: Context, world: World, tests: Store | None) -> None:
        self.config, self.context, self.world = config, context, world
        self.towers, self.samples, self.validation = _prepare(config, shards, world, tests)
        self.objective = OBJECTIVES[config.objective](self.towers.model, config)
        self.model = wrap(self.objective, config, world)
        self.optimizer = adamw(self.objective, config)
        self.loader = Loader(self.samples, config, world, self.towers.image_size)
        self.checkpoints = Checkpoints(context.store, config, world, self.towers.description)
        self.total = config.steps(len(self.samples)) * config.batch_size
        self.meter = Meter(context, world, self.total)
        self.profiler = Profiler(context, world, config.profile_at)
        self.state = State()
        self._pending: dict[str, list[torch.Tensor]] = {}  # this rank's losses that the others have not heard of

    def restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        if saved := self.checkpoints.restore(self.objective, self.optimizer):
            self.state = State(**saved)
            self.loader.corrupt.update(self.state.corrupt)
        if self.world.rank == 0:
            self.context.emit("train_start", samples=self.state.samples, workers=self.world.size)

    def run(self) -> None:
        """Steps until all samples of the run have been seen."""
        config, state = self.config, self.state
        batches = self.loader.batches(state.samples, self.total)
        while state.samples < self.total:
            batch = self._next(batches)
            norm, rate = self._step(batch)
            before, state.samples = state.samples, state.samples + config.batch_size
            last = state.samples == self.total
            self.meter.count(state.samples)
            self.profiler.step(state.samples)
            if last or _crosses(config.log_every, before, state.samples):
                self._log(rate, norm)
            if self.validation and (last or _crosses(config.validation_every, before, state.samples)):
                self._validate(self.validation)
            if self.checkpoints.due(before, state.samples) or last:
                self._save()
        self.profiler.close()

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; if the run is to end instead, save and raise."""
        batch, error = None, None
        with self.meter.waiting():
            try:
                batch = next(batches)
            except DataError as failure:
                error = failure
        if self.world.settle(error, stop=self.context.stopping) or batch is None:
            self._save()
            self.checkpoints.close()
            raise Preempted("training was asked to stop", fix="run or resume again: it continues from its checkpoint")
        return batch

    def _step(self, batch: Batch) -> tuple[torch.Tensor, float]:
        """One step of the optimizer: the gradient's norm and the learning rate."""
        config, samples = self.config, self.state.samples
        rate = learning_rate(config, samples + config.batch_size / 2, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        torch.manual_seed(_step_seed(config.seed, samples, self.world.rank))
        self.optimizer.zero_grad(set_to_none=True)
        losses = backward(self.objective, self._encoder(batch), config.accumulate, self.model.no_sync)
        norm = self.model.clip(config.grad_clip)
        self.optimizer.step()
        self.objective.after_step(samples + config.batch_size)
        for name, loss in losses.items():
            self._pending.setdefault(name, []).append(loss)
        return norm, rate

    def _encoder(self, batch: Batch) -> Callable[[int], dict[str, torch.Tensor]]:
        """The objective's forward pass of each part of this rank's share of a batch."""
        share = self.config.batch_size // self.world.size
        size = share // self.config.accumulate
        images = batch.images.to(self.world.device, non_blocking=True)
        texts = batch.texts  # on the CPU, where their lengths are known without waiting for a GPU

        def encode(part: int) -> dict[str, torch.Tensor]:
            rows = slice(part * size, (part + 1) * size)
            self.objective.position = self.state.samples + self.world.rank * share + part * size
            with self._autocast():
                return self.model(self.towers.normalise(images[rows]), texts[rows])

        return encode

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.precision == "amp_bf16")

    def _log(self, rate: float, norm: torch.Tensor) -> None:
        self._collect()
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
        self.meter.log(line)
        self.profiler.look()

    def _collect(self) -> None:
        """Every rank's losses since the last time become the batches'.

        Gathered and added in rank order, so that when it happens changes nothing, not the last bit. A loss that is no
        number ends the run here, before it is saved.
        """
        state, size = self.state, self.config.batch_size
        local = {name: torch.stack(losses).tolist() for name, losses in self._pending.items()}
        every = self.world.gather(local)
        for name in local:
            losses = [sum(parts) / self.world.size for parts in zip(*(rank[name] for rank in every), strict=True)]
            for number, loss in enumerate(losses):
                if not math.isfinite(loss):
                    first = state.samples - (len(losses) - number) * size
                    raise DataError(
                        "the loss is not a finite number",
                        found=f"{name} is {loss} for the batch of samples {first} to {first + size - 1}",
                        fix="lower lr, lengthen warmup or set grad_clip",
                    )
            state.losses.setdefault(name, []).extend(losses)
        state.corrupt = sorted(set().union(*self.world.gather(self.loader.corrupt)))
        self._pending.clear()

    def _validate(self, validation: Validation) -> None:
        with self.meter.pausing():
            found = self.model.call(validation, self.objective.model, self._autocast())
        if self.world.rank == 0:
            self.context.metrics({f"validation/{name}": value for name, value in found.items()}, self.state.samples)

    def _save(self) -> None:
        self._collect()
        self.checkpoints.save(self.state.samples, self.objective, self.optimizer, asdict(self.state))

    def finish(self) -> None:
        """Write the model and enter it in the ledger."""
        self.checkpoints.close()
        model = gathered(self.towers.model.state_dict(), self.world)
        optimizer = gathered(self.optimizer.state_dict(), self.world)
        if self.world.rank == 0:
            _finish(self.context, self.towers, self.samples, self.state, model, optimizer)
        self.world.settle()  # nobody leaves before the model is written


def _prepare(
    config: Config, shards: Shards, world: World, tests: Store | None
) -> tuple[Towers, Samples, Validation | None]:
    """The model, the data and the test sets; if anything fails on one rank, all raise."""
    error: CliplineError | None = None
    try:
        towers = build(config.model, config.seed, world)
        # A crop of the least area must not be blown up because the JPEG was decoded too small.
        min_side = math.ceil(max(towers.image_size) / math.sqrt(config.crop_scale[0]))
        samples = Samples(
            shards, world, tokenize=towers.tokenize, min_side=min_side, cache_bytes=config.cache_mb * 1_000_000
        )
        if len(samples) < config.batch_size:
            raise DataError(
                "the shards hold less than one batch",
                expected=f">= {config.batch_size}",
                found=f"{len(samples)} samples",
            )
        validation = _validation(config, tests, towers, world) if config.validation else None
    except CliplineError as failure:
        error = failure
    world.settle(error)
    return towers, samples, validation


def _validation(config: Config, tests: Store | None, towers: Towers, world: World) -> Validation:
    if tests is None:
        raise ConfigError(
            "there are no test sets to validate on",
            expected="an input named tests, or --tests",
            found=f"validation = {config.validation}",
        )
    batch = max(1, config.batch_size // world.size // config.accumulate)
    return Validation(tests, config.validation, config.validation_split, towers, world, batch, config.validation_images)


def _finish(
    context: Context,
    towers: Towers,
    samples: Samples,
    state: State,
    model: dict[str, torch.Tensor],
    optimizer: dict[str, Any],
) -> None:
    output = ShardOutput(context.store, RECORD)
    write_model(output, towers.description, model, optimizer, state.samples // len(samples))
    output.write("data/history.jsonl", "".join(json.dumps(line) + "\n" for line in state.history).encode())
    dropped = {Drop.DECODE: len(state.corrupt), Drop.NO_TEXT: samples.incomplete}
    funnel = Funnel(
        unit="samples",
        entered=len(samples) + samples.incomplete,
        kept=len(samples) - len(state.corrupt),
        dropped={str(reason): count for reason, count in dropped.items() if count},
    )
    parameters = sum(weight.numel() for weight in towers.model.parameters())
    output.commit(funnel, {"samples": state.samples, "parameters": parameters})


def _crosses(every: int, before: int, after: int) -> bool:
    return before // every != after // every


def _step_seed(seed: int, samples: int, rank: int) -> int:
    # For dropout and its like: different on each rank, and the same again when the step is done again.
    return ((seed * 1_000_003 + samples) * 65_537 + rank) % 2**63


def main() -> int:
    """Command line; 75 if it was stopped by SIGTERM or SIGINT after saving a checkpoint."""
    parser = argparse.ArgumentParser("training.loop", description="Train a CLIP model on WebDataset shards.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file of training.config.Config's fields")
    parser.add_argument("--shards", required=True, help="folder or fsspec URL; all *.tar below it are used")
    parser.add_argument("--tests", help="folder or fsspec URL of the test sets that the configuration validates on")
    parser.add_argument("--output", required=True, help="folder or fsspec URL; a run found there is continued")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)

    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    context = Context(
        arguments.output,
        stage="train",
        emit=lambda event: log.info("%s", json.dumps(event)),
        stopping=lambda: bool(stopped),
    )
    store = open_store(arguments.shards)
    tests = open_store(arguments.tests) if arguments.tests else None
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    try:
        config = Config(**json.loads(arguments.config.read_text()))
        world = World.join(shares=config.batch_size // config.accumulate, timeout_s=config.collective_timeout_s)
        if RECORD not in context.ledger.read([RECORD]):
            train(config, shards, context, world, tests)
    except CliplineError as error:
        log.error("%s", error)
        return error.exit_code
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
