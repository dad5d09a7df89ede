"""Processes killed in the middle, and continued by another number: the run cannot be told from one left alone."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nesting import nested

from infra.errors import Preempted
from infra.run.context import Context
from infra.store import LocalStore, open_store
from training import cli, loop, train
from training.checkpoint.manifests import newest
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs

pytestmark = pytest.mark.long  # trains

TOTAL, BATCH = 160, 8


def config(**changes):
    from small_data import MODEL

    values = {
        "model__architecture": MODEL,
        "batch_size": BATCH,
        "samples": TOTAL,
        "optimizer__lr": 1e-3,
        "schedule__warmup": 24,
        "optimizer__grad_clip": 1.0,
    }
    values |= {"log_every": 24, "checkpoint__every": 16, "augment__crop_scale": (0.5, 1.0)}
    return train.Config(**nested({**values, **changes}))


class Witness(loop.Trainer):
    """Writes down what each step has learnt from, and ends the process on request."""

    seen, victim, last_words = "", (-1, -1), signal.SIGKILL

    def _step(self, batch):
        rows = zip(batch.images.numpy(), batch.texts.numpy(), strict=True)
        samples = [hashlib.sha1(image.tobytes() + text.tobytes()).hexdigest()[:12] for image, text in rows]
        with open(f"{self.seen}-{os.getpid()}", "a") as file:
            file.write(json.dumps([self.state.samples, self.world.rank, samples]) + "\n")
        result = super()._step(batch)
        if (self.state.samples, self.world.rank) == self.victim:
            os.kill(os.getpid(), self.last_words)
        return result


def part(folder, shards, victim, changes=None):
    """Continue the run in ``folder``; the rank and at how many samples seen it dies are the ``victim``."""
    loop.Trainer = Witness
    Witness.seen, Witness.victim = f"{folder}-seen", victim
    store = LocalStore(shards)
    tars = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    settings = config(**(changes or {}))
    world = World.join(torch.device("cpu"), shares=BATCH)
    try:
        loop.train(settings, Inputs({"shards": tars}), Context(folder), world)
    except Preempted:
        return True
    return False


def learnt(folder):
    """The samples of each step, in order of samples seen. A step that was done again must have had the same."""
    shares = {}
    for path in sorted(folder.parent.glob(f"{folder.name}-seen-*")):
        for line in path.read_text().splitlines():
            start, rank, samples = json.loads(line)
            assert shares.setdefault((start, len(samples), rank), samples) == samples
    steps = {}
    for (start, share, _), samples in sorted(shares.items()):
        steps.setdefault(start, {}).setdefault(share, []).extend(samples)
    found = []
    for start, attempts in sorted(steps.items()):
        whole = [samples for samples in attempts.values() if len(samples) == BATCH]  # without those that died over it
        assert whole[1:] == whole[:-1], start
        found.append(whole[0])
    return found


def history(folder):
    return [json.loads(line) for line in (folder / "data/history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def calm(ranks, shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm") / "run"
    assert ranks(1, part, folder, shards, (-1, -1)) == [False]
    return folder


def test_killed_at_one_at_two_and_at_one(ranks, calm, shards, tmp_path):
    folder = tmp_path / "run"
    assert ranks(1, part, folder, shards, (56, 0), dies=True) == [-signal.SIGKILL]
    assert newest(LocalStore(folder)) in (32, 48)
    assert -signal.SIGKILL in ranks(2, part, folder, shards, (104, 1), dies=True)
    assert newest(LocalStore(folder)) in (80, 96)
    assert ranks(1, part, folder, shards, (-1, -1)) == [False]

    assert len(learnt(folder)) == TOTAL // BATCH
    assert learnt(folder) == learnt(calm)
    for ours, theirs in zip(history(folder), history(calm), strict=True):
        assert ours["samples"] == theirs["samples"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)


def test_killed_at_one_and_continued_at_one_ends_with_the_same_bytes(ranks, calm, shards, tmp_path):
    folder = tmp_path / "run"
    for place in (24, 72, 136):
        ranks(1, part, folder, shards, (place, 0), dies=True)
    assert ranks(1, part, folder, shards, (-1, -1)) == [False]
    for path in (calm / "data").iterdir():
        assert (folder / "data" / path.name).read_bytes() == path.read_bytes(), path.name


def test_three_workers_of_which_two_share_the_batch_evenly(ranks, calm, shards, tmp_path):
    folder = tmp_path / "run"
    assert ranks(3, part, folder, shards, (-1, -1)) == [False] * 3
    assert learnt(folder) == learnt(calm)
    assert [line["loss"] for line in history(folder)] == pytest.approx(
        [line["loss"] for line in history(calm)], rel=1e-6
    )


def last_weights(folder, name="data"):
    from safetensors.numpy import load_file

    return load_file(folder / name / "open_clip_model.safetensors")


def test_shards_of_the_model_on_two_ranks_end_as_the_whole_on_one(ranks, shards, tmp_path):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    ranks(1, part, whole, shards, (-1, -1), *averaged("ddp"))
    assert -signal.SIGKILL in ranks(2, part, folder, shards, (72, 1), *averaged("fsdp"), dies=True)
    assert ranks(2, part, folder, shards, (-1, -1), *averaged("fsdp")) == [False] * 2
    assert [line["loss"] for line in history(folder)] == pytest.approx(
        [line["loss"] for line in history(whole)], rel=1e-6
    )
    for name in ("data", "data/ema"):
        ours = last_weights(folder, name)
        for key, weight in last_weights(whole, name).items():
            np.testing.assert_allclose(ours[key], weight, atol=1e-4, err_msg=key)


def averaged(parallel):
    return ({"cluster__parallel": parallel, "optimizer__ema_half_life": 40, "cluster__accumulate": 2},)


def command_line(arguments, victim):
    """``clipline-train``, on one rank of which the machine's owner asks for the machine."""
    loop.Trainer = Witness
    Witness.seen, Witness.victim, Witness.last_words = f"{arguments[-1]}-seen", victim, signal.SIGTERM
    sys.argv = ["clipline-train", *arguments]
    return cli.main()


def test_sigterm_on_any_rank_gives_a_checkpoint_and_75_on_all(ranks, calm, shards, tmp_path):
    (tmp_path / "config.json").write_text(config().model_dump_json())
    folder = tmp_path / "run"
    arguments = ["--config", f"{tmp_path}/config.json", "--shards", str(shards), "--output", str(folder)]
    assert ranks(2, command_line, arguments, (40, 1)) == [75, 75]
    assert newest(LocalStore(folder)) == 56  # a step later: all agree on the next batch while they work on this one
    assert ranks(1, command_line, arguments, (-1, -1)) == [0]
    assert learnt(folder) == learnt(calm)


def in_a_bucket(url, seen, victim, environment):
    """Shards, checkpoints and the result in an object store; the rest of what a machine has is its own."""
    os.environ.update(environment)  # the ranks' was made before the server was started
    loop.Trainer = Witness
    Witness.seen, Witness.victim = seen, victim
    settings = config(loading__cache_folder=f"{Path(seen).parent}/cache-{os.getpid()}")
    world = World.join(torch.device("cpu"))
    loop.train(settings, Inputs.at([f"{url}/shards"], None, {}), Context(f"{url}/out"), world)


def test_killed_and_continued_in_an_object_store(ranks, calm, shards, tmp_path, s3_url):
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    store = open_store(s3_url)
    for path in LocalStore(shards).paths("data"):
        store.put(f"shards/{path}", shards / path)
    seen = f"{tmp_path}/run-seen"
    assert ranks(1, in_a_bucket, s3_url, seen, (56, 0), environment, dies=True) == [-signal.SIGKILL]
    ranks(1, in_a_bucket, s3_url, seen, (-1, -1), environment)
    assert learnt(tmp_path / "run") == learnt(calm)
    # All is the same, but that shards without a manifest are known by where they lie.
    theirs, ours = json.loads(store.read(f"out/{loop.IDENTITY}")), json.loads((calm / loop.IDENTITY).read_text())
    assert theirs.pop("shards") != ours.pop("shards")
    assert theirs == ours
    for path in (calm / "data").iterdir():
        if path != calm / loop.IDENTITY:
            assert store.read(f"out/data/{path.name}") == path.read_bytes(), path.name
    assert store.folders("out/checkpoints") == ["000000000144", "000000000160"]
