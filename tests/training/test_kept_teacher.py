"""A teacher that runs once for each sample: losses and weights are those of running it at every step."""

import io
import json
import os

import numpy as np
import open_clip
import pytest
import torch
from nesting import nested
from safetensors.torch import save_file
from small_data import MODEL, draw, encode

from infra.formats.shards import TarWriter
from infra.run.context import Context
from infra.store import LocalStore
from training import train
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import Trainer

pytestmark = pytest.mark.long  # several processes

SAMPLES, SEEN = 40, 120


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model of another width, that reads larger images of another mean."""
    folder = tmp_path_factory.mktemp("teacher")
    cfg = {**MODEL, "embed_dim": 12, "vision_cfg": {**MODEL["vision_cfg"], "image_size": 24}}
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**cfg).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": [24, 24]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """40 samples with two captions each."""
    folder = tmp_path_factory.mktemp("several")
    with TarWriter(sink := io.BytesIO()) as tar:
        for number in range(SAMPLES):
            image, caption = draw(number)
            tar.add(f"{number:05d}.png", encode(image))
            tar.add(f"{number:05d}.json", json.dumps({"texts": [caption, f"{caption} again"]}).encode())
    (folder / "00000.tar").write_bytes(sink.getvalue())
    return folder


def go(folder, shards, teacher, changes):
    """Three epochs, on the first rank: losses, weights, images and texts that the teacher ran on, warnings."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    os.environ["LOCAL_RANK"] = str(rank)  # as torchrun says where all ranks are on one machine
    settings = {
        "batch_size": 8,
        "epochs": 3,
        "log_every": 8,
        "model__architecture": MODEL,
        "objective": {"kind": "distill", "weight": 2.0},
        "optimizer__lr": 3e-3,
        "optimizer__eps": 1e-4,  # gradients that are nothing but rounding (biases of keys) move nothing
        "augment__crop_scale": (1.0, 1.0),
        "loading__threads": 1,
        "loading__cache_folder": str(folder / "cache"),
    }
    store = LocalStore(shards)
    tars = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    inputs = Inputs({"shards": tars}, models={"teacher": str(teacher)})
    config = train.Config(**nested({**settings, **changes}))
    trainer = Trainer(config, inputs, Context(folder), World.join(torch.device("cpu")))
    asked, ran = trainer.objective.teacher, {"image": 0, "text": 0}

    def counted(name, run):
        def counting(given):
            ran[name] += len(given)
            return run(given)

        return counting

    asked.image, asked.text = counted("image", asked.image), counted("text", asked.text)
    trainer.restore()
    trainer.run()
    trainer.finish()
    assert not list((folder / "cache").glob("features-*")), "nothing is left behind"
    weights = {name: value.numpy() for name, value in trainer.towers.model.state_dict().items()}
    return {"losses": [line["loss"] for line in trainer.state.history], "weights": weights, "ran": ran}


def same(run, other, rel=1e-5):
    assert run["losses"] == pytest.approx(other["losses"], rel=rel)
    for name, value in other["weights"].items():
        np.testing.assert_allclose(run["weights"][name], value, atol=3e-5, err_msg=name)


OFF = {"loading__feature_cache_mb": 0}


@pytest.mark.parametrize(("workers", "parts"), [(1, 1), (1, 2), (2, 2)])
def test_with_and_without_the_cache_a_run_comes_to_the_same(ranks, shards, teacher, tmp_path, workers, parts):
    (off,) = ranks(1, go, tmp_path / "off", shards, teacher, OFF)
    changes = {"cluster__workers": workers, "cluster__accumulate": parts}
    on = ranks(workers, go, tmp_path / "on", shards, teacher, changes)
    same(on[0], off, rel=1e-5 if workers == parts == 1 else 3e-4)
    assert len(set(off["losses"])) == SEEN // 8
    assert off["ran"] == {"image": SEEN, "text": SEEN}
    for name in ("image", "text"):
        assert sum(run["ran"][name] for run in on) == SAMPLES


def test_of_captions_that_are_drawn_only_images_are_kept(ranks, several, teacher, tmp_path):
    changes = {"data__caption_key": "json:texts"}
    (off,) = ranks(1, go, tmp_path / "off", several, teacher, {**changes, **OFF})
    (on,) = ranks(1, go, tmp_path / "on", several, teacher, changes)
    same(on, off)
    assert on["ran"] == {"image": SAMPLES, "text": SEEN}


def warned(folder, shards, teacher, changes):
    """The same, with what was logged."""
    import logging

    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("training.kept_teacher").addHandler(handler)
    return go(folder, shards, teacher, changes)["ran"], told


@pytest.mark.parametrize("changes", [{"augment__crop_scale": (0.9, 1.0)}, {"augment__flip_prob": 0.5}], ids=str)
def test_of_augmented_images_the_teacher_runs_at_every_step_and_the_run_says_so(
    ranks, shards, teacher, tmp_path, changes
):
    ((ran, told),) = ranks(1, warned, tmp_path, shards, teacher, changes)
    assert ran == {"image": SEEN, "text": SEEN}
    assert [message for message in told if "the teacher runs at every step" in message]


def test_in_one_epoch_nothing_is_kept(ranks, shards, teacher, tmp_path):
    ((ran, told),) = ranks(1, warned, tmp_path, shards, teacher, {"epochs": 1})
    assert (ran, told) == ({"image": SAMPLES, "text": SAMPLES}, [])
