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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from infra.context import Context, ShardOutput
from infra.errors import CliplineError, DataError, Preempted
from infra.manifest import Funnel
from infra.schema import Drop
from infra.storage import open_store
from training.checkpoint import Checkpoints, write_model
from training.data import Loader, Samples, Shards
from training.meter import Meter
from training.model import Towers, build
from training.objectives import OBJECTIVES
from training.schedule import adamw, learning_rate
from training.train import RECORD, Config
from training.world import World

__all__ = ["main", "train"]

log = logging.getLogger(__name__)


@dataclass
class State:
    """What a run has come to, beside weights and optimizer. Equal on all ranks, whatever their number."""

    samples: int = 0
    losses: list[float] = field(default_factory=list)  # of each batch since the last line of the history
    history: list[dict[str, float]] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)


def train(config: Config, shards: Shards, context: Context, world: World) -> None:
    """Train to the end, or to where the run is asked to stop; write the model and enter it in the ledger.

    Every rank calls it with the same arguments. Raises on all ranks: Preempted after saving a checkpoint, ConfigError
    and DataError.
    """
    if world.device.type == "cpu":
        torch.set_num_threads(config.cpus_per_worker)
    towers, samples = _prepare(config, shards, world)
    objective = OBJECTIVES[config.objective](towers.model, config).to(world.device)
    optimizer = adamw(objective, config)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    loader = Loader(samples, config, world, towers.image_size)
    total = config.steps(len(samples)) * config.batch_size

    checkpoints = Checkpoints(context.store, config.keep_checkpoints)
    state = State()
    if saved := checkpoints.newest():
        objective.load_state_dict(saved["objective"])
        optimizer.load_state_dict(saved["optimizer"])
        state = State(**saved["state"])
        loader.corrupt.update(state.corrupt)

    model: nn.Module = DistributedDataParallel(objective) if world.size > 1 else objective
    amp = torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "amp_bf16")
    meter = Meter(context, world, total)
    pending: list[torch.Tensor] = []  # this rank's losses that the others have not heard of

    def collect() -> None:
        # Gathered and added in rank order, so that when it happens changes nothing, not the last bit.
        local = torch.stack(pending).tolist() if pending else []
        state.losses += [sum(losses) / world.size for losses in zip(*world.gather(local), strict=True)]
        state.corrupt = sorted(set().union(*world.gather(loader.corrupt)))
        pending.clear()

    def save() -> None:
        collect()
        if world.rank == 0:
            contents = {
                "objective": objective.state_dict(),
                "optimizer": optimizer.state_dict(),
                "state": asdict(state),
            }
            checkpoints.save(state.samples, contents)

    batches = loader.batches(state.samples, total)
    while state.samples < total:
        batch, error = None, None
        with meter.waiting():
            try:
                batch = next(batches)
            except DataError as failure:
                error = failure
        if world.settle(error, stop=world.rank == 0 and context.stopping) or batch is None:
            save()
            raise Preempted("training was asked to stop", fix="run or resume again: it continues from its checkpoint")

        rate = learning_rate(config, state.samples + config.batch_size / 2, total)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        torch.manual_seed(_step_seed(config.seed, state.samples, world.rank))
        images, texts = (part.to(world.device, non_blocking=True) for part in batch)
        with amp:
            loss = objective.loss(model(towers.normalise(images), texts))["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if config.grad_clip is not None:
            clip_grads_with_norm_(weights, config.grad_clip, norm)
        optimizer.step()
        objective.after_step(state.samples + config.batch_size)

        pending.append(loss.detach())
        before, state.samples = state.samples, state.samples + config.batch_size
        meter.count(state.samples)
        if _crosses(config.log_every, before, state.samples) or state.samples == total:
            collect()
            line = {
                "samples": state.samples,
                "loss": sum(state.losses) / len(state.losses),
                "lr": rate,
                "logit_scale": float(objective.model.logit_scale.detach().exp()),
                "grad_norm": float(norm),
            }
            state.history.append(line)
            state.losses.clear()
            meter.log(line)
            if not math.isfinite(line["loss"]):
                raise DataError(
                    "the loss is not a finite number",
                    found=f"{line['loss']} between {before} and {state.samples} samples seen",
                    fix="lower lr, lengthen warmup or set grad_clip",
                )
        if _crosses(config.checkpoint_every, before, state.samples) or state.samples == total:
            save()

    if world.rank == 0:
        _finish(context, towers, samples, state, optimizer.state_dict())
    world.settle()  # nobody leaves before the model is written


def _prepare(config: Config, shards: Shards, world: World) -> tuple[Towers, Samples]:
    """The model and the data; if either fails on one rank, all raise."""
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
    except CliplineError as failure:
        error = failure
    world.settle(error)
    return towers, samples


def _finish(context: Context, towers: Towers, samples: Samples, state: State, optimizer: dict[str, Any]) -> None:
    output = ShardOutput(context.store, RECORD)
    write_model(output, towers.description, towers.model.state_dict(), optimizer, state.samples // len(samples))
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
    parser.add_argument("--config", type=Path, required=True, help="JSON file of training.train.Config's fields")
    parser.add_argument("--shards", required=True, help="folder or fsspec URL; all *.tar below it are used")
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
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    world = World.join()
    try:
        if RECORD not in context.ledger.read([RECORD]):
            train(Config(**json.loads(arguments.config.read_text())), shards, context, world)
    except CliplineError as error:
        log.error("%s", error)
        return error.exit_code
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
