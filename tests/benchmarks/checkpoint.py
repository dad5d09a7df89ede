"""A checkpoint: how long training is held up by it, against open_clip's way of saving.

    python -m tests.benchmarks.checkpoint [--model ViT-B-32] [--folder FOLDER]

The state of a model with AdamW's moments, as it is after a step. open_clip_train writes it with ``torch.save`` and
trains on afterwards; ours is copied and written by a thread. Both files go to the same disk. The first save makes the
room for the copies, those after it use it again; training is held up longer if the one before is not written yet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import open_clip
import torch
from torch import nn

from infra.store import LocalStore
from training.checkpoint.checkpoints import Checkpoints
from training.config import Config
from training.distributed.world import World
from training.optim.schedule import adamw


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to write to; none: the temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = Config(model=arguments.model, checkpoint={"keep": 1})
    objective = nn.Module()
    objective.model = open_clip.create_model(arguments.model)
    optimizer = adamw(objective, config.optimizer)
    for weight in objective.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    size = 3 * sum(weight.nbytes for weight in objective.parameters())
    print(f"{arguments.model}: {size / 1e9:.2f} GB of weights and moments")

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        theirs = []
        for number in range(arguments.saves):
            started = time.perf_counter()
            state = {"state_dict": objective.model.state_dict(), "optimizer": optimizer.state_dict()}
            with Path(folder, f"epoch_{number % 2}.pt").open("wb") as out:
                torch.save({"epoch": number, "name": "bench", **state}, out)
                os.fsync(out.fileno())  # ours is on the disk when it counts, too
            theirs.append(time.perf_counter() - started)
        held, written = [], []
        checkpoints = Checkpoints(LocalStore(folder), config.checkpoint, World())
        for number in range(arguments.saves + 1):
            started = time.perf_counter()
            held.append(checkpoints.save(number, objective, optimizer, {}))
            checkpoints._wait()
            written.append(time.perf_counter() - started)
        checkpoints.close()
    first, mine = held[0], statistics.median(held[1:])
    print(f"{'':24}{'held up, s':>12}{'written after, s':>18}")
    print(f"{'open_clip, torch.save':24}{statistics.median(theirs):12.2f}{statistics.median(theirs):18.2f}")
    print(f"{'clipline, the first':24}{first:12.2f}{written[0]:18.2f}")
    print(f"{'clipline':24}{mine:12.2f}{statistics.median(written[1:]):18.2f}")
    print(f"held up {statistics.median(theirs) / mine:.0f} times as long by torch.save")


if __name__ == "__main__":
    main()
