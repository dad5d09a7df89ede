"""A locked image tower that runs once for each sample: losses and weights are those of running it at every step."""

import os

import numpy as np
import pytest
import torch
from nesting import nested
from small_data import MODEL

from infra.errors import Preempted
from infra.run.context import Context
from infra.store import LocalStore
from training import train
from training.config import Augment
from training.config import Model as ModelPart
from training.data.decode import CROP_DRAWS, draw_crop
from training.data.feature_cache import FeatureCache
from training.data.samples import Samples, Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.locked_tower import LockedPart
from training.loop import Trainer
from training.model.build import build

TIMM = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_pool": "", "timm_proj": "linear", "image_size": 32},
    "text_cfg": MODEL["text_cfg"],
}
"""Its trunk has batch norms; its projection learns though the trunk is locked."""

SAMPLES, GOOD = 40, 38


@pytest.fixture(scope="module")
def damaged(make_shards, tmp_path_factory):
    """40 samples, of which two cannot be decoded."""
    return make_shards(tmp_path_factory.mktemp("damaged"), samples=SAMPLES, damaged=(3, 17))


def go(folder, shards, changes, stop_at=None):
    """Three epochs, on the first rank: losses by samples seen, weights, images decoded, images the tower ran on."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    os.environ["LOCAL_RANK"] = str(rank)  # as torchrun says where all ranks are on one machine
    settings = {
        "batch_size": 8,
        "epochs": 3,
        "log_every": 8,
        "model__architecture": MODEL,
        "model__lock_image": 0,
        "optimizer__lr": 3e-3,
        "optimizer__eps": 1e-4,  # gradients that are nothing but rounding (biases of keys) move nothing
        "checkpoint__every": 16,
        "augment__crop_scale": (1.0, 1.0),
        "loading__threads": 1,
        "loading__memory_cache_mb": 0,
        "loading__cache_folder": str(folder / "cache"),
    }
    store = LocalStore(shards)
    inputs = Inputs({"shards": Shards(store, [path for path in store.paths() if path.endswith(".tar")])})
    decoded, ran, image = [], [], Samples.image

    def counted(self, number):
        found = image(self, number)
        decoded.append(number)
        return found

    stopping = (lambda: trainer.state.samples >= stop_at) if stop_at is not None else None
    Samples.image = counted
    try:
        context = Context(folder, stopping=stopping)
        trainer = Trainer(train.Config(**nested({**settings, **changes})), inputs, context, World.join())
        trainer.restore()
        visual = trainer.towers.model.visual
        first = visual.trunk if hasattr(visual, "trunk") else visual.conv1
        first.register_forward_hook(lambda module, given, output: ran.append(len(output)))
        try:
            trainer.run()
        except Preempted:
            return None
        trainer.finish()
    finally:
        Samples.image = image
    assert not list((folder / "cache").glob("features-*")), "nothing is left behind"
    weights = {name: value.numpy() for name, value in trainer.towers.model.state_dict().items()}
    losses = {line["samples"]: line["loss"] for line in trainer.state.history}
    return {"losses": losses, "weights": weights, "decoded": len(decoded), "ran": sum(ran)}


def same(run, other, rel=1e-5):
    assert run["losses"] == pytest.approx(other["losses"], rel=rel)
    for name, value in other["weights"].items():
        np.testing.assert_allclose(run["weights"][name], value, atol=3e-5, err_msg=name)


OFF = {"loading__feature_cache_mb": 0}
ARCHITECTURES = {"a ViT": MODEL, "a trunk with a projection that learns": TIMM}


@pytest.mark.long
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_and_without_the_cache_a_run_comes_to_the_same(name, ranks, damaged, tmp_path):
    changes = {"model__architecture": ARCHITECTURES[name]}
    (off,) = ranks(1, go, tmp_path / "off", damaged, {**changes, **OFF})
    (on,) = ranks(1, go, tmp_path / "on", damaged, changes)
    same(on, off)
    assert len(set(off["losses"].values())) == len(off["losses"]) == 15
    assert off["ran"] == off["decoded"] == 120
    # Batches that were loaded ahead of the first epoch's end may hold an image once more; the tower needs none of them.
    assert on["ran"] <= SAMPLES
    assert GOOD <= on["decoded"] <= GOOD + 3 * 8 + 2
    head = "visual.head.proj.weight"
    if name != "a ViT":
        start = build(ModelPart(architecture=TIMM), 0, World()).model.state_dict()
        assert not np.allclose(on["weights"][head], start[head]), "the projection learns"


@pytest.mark.long
def test_two_ranks_in_parts_share_one_cache(ranks, damaged, tmp_path):
    (off,) = ranks(1, go, tmp_path / "off", damaged, {"model__architecture": TIMM, **OFF})
    changes = {"model__architecture": TIMM, "cluster__workers": 2, "cluster__accumulate": 2}
    two = ranks(2, go, tmp_path / "two", damaged, changes)
    same(two[0], off, rel=3e-4)
    assert two[0]["ran"] + two[1]["ran"] <= SAMPLES


@pytest.mark.long
def test_a_run_goes_on_from_the_middle(ranks, damaged, tmp_path):
    (whole,) = ranks(1, go, tmp_path / "whole", damaged, {})
    assert ranks(1, go, tmp_path / "stopped", damaged, {}, 56) == [None]
    (rest,) = ranks(1, go, tmp_path / "stopped", damaged, {})
    same(rest, whole)
    assert 0 < rest["ran"] <= SAMPLES


@pytest.mark.long
def test_room_for_some_of_the_samples(ranks, damaged, tmp_path):
    """What does not fit is computed at each epoch."""
    (off,) = ranks(1, go, tmp_path / "off", damaged, OFF)
    (on,) = ranks(1, cramped, tmp_path / "on", damaged)
    same(on, off)
    assert SAMPLES < on["ran"] < 120


def cramped(folder, shards):
    opened = FeatureCache.open
    FeatureCache.open = lambda below, most, *rest: opened(below, 20 * (16 * 4 + 1), *rest)
    return go(folder, shards, {})


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"augment__crop_scale": (0.9, 1.0)},
        {"augment__flip_prob": 0.5},
        {"model__lock_image": None},
        {"model__patch_dropout": 0.5},
        {"epochs": 1},
    ],
    ids=str,
)
def test_where_an_image_differs_from_step_to_step_the_tower_runs(changes, ranks, damaged, tmp_path):
    (run,) = ranks(1, go, tmp_path, damaged, changes)
    assert run["ran"] == run["decoded"] == 8 * len(run["losses"])


@pytest.mark.parametrize("norm", ["BatchNorm1d", "BatchNorm2d"])
def test_a_layer_that_gathers_statistics_is_not_fixed(norm):
    model = build(ModelPart(architecture=TIMM, lock_image=0), 0, World()).model
    assert LockedPart.of(model) is not None
    model.visual.trunk.more = getattr(torch.nn, norm)(4, affine=False)
    assert LockedPart.of(model) is None


def test_augmentation_that_draws_nothing():
    assert not Augment().deterministic
    assert Augment(crop_scale=(1, 1), flip_prob=1, color_jitter=(1, 1, 1, 1), color_jitter_prob=0).deterministic
    assert not Augment(crop_scale=(1, 1), gray_scale_prob=0.1).deterministic


@pytest.mark.parametrize("shape", [(100, 101, 3), (101, 100, 3), (7, 8, 3), (60, 80, 3), (50, 200, 3), (33, 33, 3)])
@pytest.mark.parametrize("ratio", [(1.0, 1.0), (0.75, 4 / 3)])
def test_all_of_an_image_is_the_same_crop_each_time(shape, ratio):
    crops = {draw_crop(draws, shape, (1.0, 1.0), ratio) for draws in np.random.default_rng(0).random((99, CROP_DRAWS))}
    ((y, x, height, width),) = crops
    assert height == shape[0] or width == shape[1]
    assert abs(2 * y + height - shape[0]) <= 1
    assert abs(2 * x + width - shape[1]) <= 1


def test_a_disk_without_room_is_said(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert FeatureCache.open(tmp_path, 1000, 5, torch.zeros(4), World()) is None
    assert "No space left" in caplog.text
    assert not list(tmp_path.iterdir())


def test_rows_are_what_was_added(tmp_path):
    cache = FeatureCache.open(tmp_path, 10 * 9, 20, torch.zeros(4, dtype=torch.bfloat16), World())
    assert cache.rows == 10
    rows = torch.randn(3, 4).bfloat16()
    numbers = torch.tensor([2, 15, 9])
    cache.add(numbers, rows)
    assert cache.known(torch.tensor([9, 15, 3, 2])).tolist() == [True, False, False, True]
    assert torch.equal(cache[torch.tensor([9, 2])], rows[[2, 0]])
    assert [cache.has(number) for number in (9, 15)] == [True, False]
