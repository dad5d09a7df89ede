"""A mixture with online balancing: stopped and continued on other ranks it ends as undisturbed; it tells its epochs."""

import json

import numpy as np
import pytest
import torch
from nesting import nested
from small_data import MODEL, draw, encode

from infra.errors import Preempted
from infra.formats.shards import TarWriter
from infra.run.context import Context
from infra.store import LocalStore
from training import train
from training.config import RECORD
from training.data.index import LOADS
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train as run_loop

pytestmark = pytest.mark.long  # trains

SOURCES = {"shards_a": [1.0, 4.0] * 16, "shards_b": [2.0] * 12}  # the load of each sample's entry


def write(folder):
    for name, loads in SOURCES.items():
        (folder / name).mkdir(parents=True)
        with (folder / name / "00000.tar").open("wb") as file, TarWriter(file) as tar:
            for number, load in enumerate(loads):
                image, caption = draw(number)
                tar.add(f"{number}.png", encode(image))
                tar.add(f"{number}.txt", caption.encode())
                tar.add(f"{number}.json", json.dumps({LOADS: [load]}).encode())


def go(folder, shards, stop_at=None):
    """Train, 120 samples in all; what it told of its epochs, or None if it was stopped."""
    seen, told = [0], []

    def emit(event):
        if event.kind == "progress":
            seen[0] = event.done
        if event.kind == "log" and "epochs" in event.message:
            told.append(event.message)

    values = {"model__architecture": MODEL, "batch_size": 8, "samples": 120, "log_every": 24, "checkpoint__every": 24}
    values |= {"data__weights": {"shards_a": 3.0, "shards_b": 1.0}, "data__balance": 1.0}
    sources = {name: Shards.at(LocalStore(shards / name), ["00000.tar"]) for name in SOURCES}
    context = Context(folder, emit=emit, stopping=(lambda: seen[0] >= stop_at) if stop_at else None)
    try:
        run_loop(train.Config(**nested(values)), Inputs(sources), context, World.join(torch.device("cpu")))
    except Preempted:
        return None
    return told


def test_it_ends_the_same_on_any_ranks_and_tells_its_epochs(ranks, tmp_path):
    write(tmp_path / "shards")
    (told,) = ranks(1, go, tmp_path / "calm", tmp_path / "shards")
    # Of a 16 + 16/4 samples an epoch, of b half of its 12.
    assert told == ["shards_a: 4.5 epochs of 20 samples; shards_b: 5 epochs of 6 samples"]
    facts = Context(tmp_path / "calm").ledger.read()[RECORD].facts
    assert facts["epochs"] == {"shards_a": 4.5, "shards_b": 5.0}

    assert ranks(2, go, tmp_path / "stopped", tmp_path / "shards", 40) == [None, None]
    ranks(1, go, tmp_path / "stopped", tmp_path / "shards")
    histories = [(tmp_path / name / "data/history.jsonl").read_text().splitlines() for name in ("calm", "stopped")]
    losses, others = ([json.loads(line)["loss"] for line in lines] for lines in histories)
    assert len(losses) == 5 and np.allclose(losses, others, rtol=1e-5)
