"""``clipline-train``: the training loop without Ray and MLflow, alone or under ``torchrun``::

    clipline-train --config config.json --shards /data/shards --output /data/run
    torchrun --nproc-per-node 8 --no-python clipline-train --config config.json --shards /data/shards --output /data/run

Ends with code 0 when the model is written, 75 if it was stopped by SIGTERM, SIGINT or SIGHUP after saving a checkpoint,
73 if another loop writes to the same output. The same command again continues.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from infra.device import keep_freed_memory
from infra.errors import CliplineError, ConfigError
from infra.run.context import Context
from infra.run.lease import Lease
from infra.run.signals import stop_signals
from training import loop
from training.checkpoint.checkpoints import differences, may_prolong
from training.checkpoint.manifests import newest
from training.config import RECORD, Config
from training.distributed.world import World
from training.inputs import Inputs

__all__ = ["main"]

log = logging.getLogger(__name__)


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = _parser().parse_args()
    logging.basicConfig(format="%(message)s")
    for logger in (log, loop.log):
        logger.setLevel(logging.INFO)
    stopped: list[int] = []
    for number in stop_signals():
        signal.signal(number, lambda number, _: stopped.append(number))
    context = Context(
        arguments.output,
        stage="train",
        emit=lambda event: log.info("%s", json.dumps(event.to_json())),
        stopping=lambda: bool(stopped),
    )
    with ExitStack() as stack:
        try:
            config = _read_config(arguments.config)
            world = World.join(
                shares=config.batch_size // config.cluster.accumulate, timeout_s=config.cluster.collective_timeout_s
            )
            if world.device.type == "cpu":
                keep_freed_memory()
            _hold(context, world, stack)
            inputs = _read_inputs(arguments, world)
            config.check_inputs(_names(inputs))
            if not _finished(config, inputs, context, world):
                loop.train(config, inputs, context, world)
        except CliplineError as error:
            log.error("%s", error)
            return error.exit_code
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("clipline-train", description="Train a CLIP model on WebDataset shards.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file of training.config.Config's fields")
    parser.add_argument(
        "--shards",
        nargs="+",
        required=True,
        help="folders or fsspec URLs, all *.tar below, or below train/; for data.weights shards_NAME=FOLDER",
    )
    parser.add_argument("--tests", help="folder or fsspec URL of the test sets that validation.sets names")
    parser.add_argument("--pretrained", help="folder or checkpoint of the model to start from")
    parser.add_argument("--teacher", help="folder of the model that the objective distill learns from")
    parser.add_argument("--output", required=True, help="folder or fsspec URL; a run found there is continued")
    return parser


def _hold(context: Context, world: World, stack: ExitStack) -> None:
    """One writer per output: rank 0 takes the lease for all until ``stack`` ends. Raises LeaseHeld on all ranks."""
    error: CliplineError | None = None
    if world.rank == 0:
        try:
            stack.callback(Lease.acquire(context.store).release)
        except CliplineError as held:
            error = held
        except OSError as failure:
            found = f"{failure.strerror}: {failure.filename}"
            error = ConfigError(f"nothing can be written at {context.store.url}", expected="a folder", found=found)
    world.raise_if_any_failed(error)


def _read_inputs(arguments: argparse.Namespace, world: World) -> Inputs:
    """Found by rank 0 for all: shards are identified by content, which is to be read once."""
    inputs, error = Inputs({}), None
    if world.rank == 0:
        try:
            models = {"pretrained": arguments.pretrained, "teacher": arguments.teacher}
            inputs = Inputs.at(arguments.shards, arguments.tests, models)
        except CliplineError as failure:
            error = failure
    world.raise_if_any_failed(error)
    return world.broadcast(inputs)


def _names(inputs: Inputs) -> list[str]:
    return [*inputs.sources, *inputs.models, *(["tests"] if inputs.tests is not None else [])]


def _finished(config: Config, inputs: Inputs, context: Context, world: World) -> bool:
    """True if the output holds this very run; False if there is something to do. For all ranks.

    Raises ConfigError for a finished run of another configuration or on other shards.
    """
    error: CliplineError | None = None
    done = RECORD in context.ledger.read([RECORD])
    if done and world.rank == 0:
        found = json.loads(context.store.read(loop.IDENTITY))
        changed = differences(found, loop.identity(config, inputs))
        if changed and may_prolong(found, loop.identity(config, inputs), newest(context.store), found["total"]):
            log.info("%s is prolonged: %s", context.store.url, "; ".join(changed))
            context.ledger.forget(RECORD)
            done = False
        elif changed:
            error = ConfigError(
                f"{context.store.url} holds a finished run of another configuration",
                found="; ".join(changed),
                fix="train into another folder, from its model with --pretrained; or, under a constant schedule, "
                "raise samples alone",
            )
        else:
            log.info("%s holds this run, finished", context.store.url)
    world.raise_if_any_failed(error)
    return bool(world.broadcast(done))


def _read_config(path: Path) -> Config:
    try:
        return Config(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        wanted = "a JSON file of training.config.Config's fields"
        raise ConfigError(f"{path} is no configuration", expected=wanted, found=str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
