"""Training on batches composed by concepts: stopped and continued on other ranks it ends as undisturbed; what is passed
over is told."""

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
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train as run_loop

pytestmark = pytest.mark.long  # trains


def write(folder):
    folder.mkdir(parents=True)
    with (folder / "00000.tar").open("wb") as file, TarWriter(file) as tar:
        for number in range(40):
            image, caption = draw(number)
            tar.add(f"{number}.png", encode(image))
            tar.add(f"{number}.txt", caption.encode())
            tar.add(f"{number}.json", json.dumps({"topic": "abc"[number % 7 % 3]}).encode())


def go(folder, shards, rule, stop_at=None):
    """Train, 96 samples in all; what it told of its epochs, or None if it was stopped."""
    seen, told = [0], []

    def emit(event):
        if event.kind == "progress":
            seen[0] = event.done
        if event.kind == "log" and "epochs" in event.message:
            told.append(event.message)

    values = {"model__architecture": MODEL, "batch_size": 8, "samples": 96, "log_every": 24, "checkpoint__every": 24}
    values |= {"data__batches": rule}
    sources = {"shards": Shards.at(LocalStore(shards), ["00000.tar"])}
    context = Context(folder, emit=emit, stopping=(lambda: seen[0] >= stop_at) if stop_at else None)
    try:
        run_loop(train.Config(**nested(values)), Inputs(sources), context, World.join(torch.device("cpu")))
    except Preempted:
        return None
    return told


def test_it_ends_the_same_on_any_ranks_and_tells_what_it_passed_over(ranks, tmp_path):
    write(tmp_path / "shards")
    rule = {"kind": "diverse", "column": "topic", "batches": 3}
    (told,) = ranks(1, go, tmp_path / "calm", tmp_path / "shards", rule)
    assert told == ["shards: 7.2 epochs of 40 samples; 192 samples are passed over when batches are composed"]
    facts = Context(tmp_path / "calm").ledger.read()[RECORD].facts
    assert (facts["passed_over"], facts["samples"], facts["epochs"]) == (192, 96, {"shards": 7.2})

    assert ranks(2, go, tmp_path / "stopped", tmp_path / "shards", rule, 40) == [None, None]
    ranks(4, go, tmp_path / "stopped", tmp_path / "shards", rule)
    histories = [(tmp_path / name / "data/history.jsonl").read_text().splitlines() for name in ("calm", "stopped")]
    losses, others = ([json.loads(line)["loss"] for line in lines] for lines in histories)
    assert len(losses) == 4 and np.allclose(losses, others, rtol=1e-5)

    (told,) = ranks(1, go, tmp_path / "spread", tmp_path / "shards", {"kind": "spread", "column": "topic"})
    assert told == ["shards: 2.4 epochs of 40 samples"]
    assert Context(tmp_path / "spread").ledger.read()[RECORD].facts["passed_over"] == 0
