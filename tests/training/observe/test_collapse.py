"""A run that learns nothing says so, and one that learns does not."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from nesting import nested
from safetensors.torch import save_file
from small_data import MODEL

from infra.run.context import Context
from infra.store import LocalStore
from training import train
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train as run_loop
from training.model.build import build
from training.observe.collapse import Collapse, mean_cosine


def test_the_mean_cosine_is_that_of_all_pairs():
    vectors = np.random.default_rng(0).normal(0.5, 1, (12, 7))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.mean([a @ b for a, b in combinations(vectors, 2)])
    for parts in (1, 2, 3, 4):
        means = [part.mean(0).tolist() for part in np.split(vectors, parts)]
        assert mean_cosine(means, 12) == pytest.approx(expected, abs=1e-12)
    assert mean_cosine([[1.0, 0.0]], 5) == 1


def lines(losses, cosines, **changes):
    """The signs that a run shows, with the samples seen then."""
    config = train.Config(batch_size=10, schedule={"warmup": 500}, **changes)
    collapse, counts, found = Collapse(config, 20000, "loss"), {}, []
    for number, (loss, cosine) in enumerate(zip(losses, cosines, strict=True), 1):
        signs = collapse.signs(250 * number, {"image": cosine}, {"loss": loss}, counts)
        found += [(250 * number, sign.kind) for sign in signs]
    return found


def test_the_first_steps_and_a_passing_line_do_not_count():
    chance = math.log(10)
    assert lines([chance] * 5, [1.0] * 5) == []  # warm-up, and a hundred batches
    assert lines([chance] * 8, [1.0] * 8) == [(1500, "image"), (1500, "loss")]  # once, though it goes on
    assert lines([3, 3, 3, 3, 3, chance, 2, 1], [0.999] * 4 + [0.9, 0.995, 0.5, 0.4]) == []  # on the way down
    assert lines([1.0] * 6 + [chance] * 2, [0.3] * 6 + [0.995, 0.2]) == [(2000, "loss")]  # after it had learnt


def test_a_short_run_says_it_at_its_end():
    config = train.Config(batch_size=10, schedule={"warmup": 500})
    collapse, counts = Collapse(config, 300, None), {}
    assert list(collapse.signs(200, {"text": 1.0}, {}, counts)) == []
    assert [sign.kind for sign in collapse.signs(300, {"text": 1.0}, {}, counts)] == ["text"]


def run(folder, shards, pretrained, **changes):
    """Train on this rank: the events of it, and the facts of what it made."""
    values = {
        "model__architecture": MODEL,
        "batch_size": 8,
        "samples": 320,
        "log_every": 16,
        "optimizer__lr": 3e-3,
        "schedule__warmup": 32,
    }
    store, events = LocalStore(shards), []
    tars = Shards.at(store, store.paths("data/train"))
    inputs = Inputs({"shards": tars}, models={"pretrained": pretrained} if pretrained else {})
    world = World.join(torch.device("cpu"))
    context = Context(folder, stage="train", emit=events.append)
    run_loop(train.Config(**nested({**values, **changes})), inputs, context, world)
    told = [(event.sign, event.samples) for event in events if event.kind == "collapsed"]
    cosines = [event.values["image_cosine"] for event in events if "image_cosine" in getattr(event, "values", {})]
    return told, cosines, context.ledger.read(["model"])["model"].facts


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """Weights of a model whose image tower gives all images one vector, as one that lost its activations does."""
    folder = tmp_path_factory.mktemp("blind")
    towers = build(MODEL, 7, World())
    weights = {name: value.clone() for name, value in towers.model.state_dict().items()}
    weights["visual.ln_post.weight"] *= 0
    weights["visual.ln_post.bias"] += 1
    (folder / "open_clip_config.json").write_text(json.dumps(towers.description))
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.long  # trains
@pytest.mark.parametrize("size", [1, 2])
def test_a_frozen_tower_that_tells_nothing_apart_is_said_once(ranks, shards, blind, tmp_path, size):
    told, cosines, facts = ranks(size, locked, tmp_path, shards, blind)[0]
    assert {sign for sign, _ in told} >= {"image", "loss"}  # what is left to learn is chance
    assert len(told) == len(set(told))
    assert set(facts["collapsed"]) >= {"image", "loss"}
    assert cosines == pytest.approx([1] * 60, abs=1e-5)
    assert min(samples for _, samples in told) == 32 + 800


def locked(folder, shards, pretrained):
    return run(folder, shards, pretrained, samples=960, model__lock_image=0, cluster__accumulate=2)


@pytest.mark.long  # trains
def test_a_run_that_learns_says_nothing(ranks, shards, tmp_path):
    told, cosines, facts = ranks(1, run, tmp_path, shards, None)[0]
    assert told == []
    assert "collapsed" not in facts
    assert len(cosines) == 20
    assert cosines[-1] < cosines[0]
