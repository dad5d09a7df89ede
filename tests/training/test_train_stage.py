"""The stage under Ray Train, with workers that really die."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from nesting import nested

from infra.errors import ConfigError, DataError
from infra.run.context import Context
from infra.run.manifest import Artifact, File, Manifest
from training import loop, train, worker
from training.distributed.world import World
from training.inputs import Inputs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # raised inside Ray


def artifact(folder: Path) -> Artifact:
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tar"))
    files = [File(path=path, bytes=(folder / path).stat().st_size, sha256="") for path in paths]
    return Artifact(str(folder), Manifest(stage="shard", digest="0" * 64, identity={}, files=files))


def config(**changes) -> train.Config:
    from small_data import MODEL

    values = {
        "model__architecture": MODEL,
        "batch_size": 8,
        "samples": 160,
        "optimizer__lr": 1e-3,
        "log_every": 40,
        "checkpoint__every": 40,
    }
    return train.Config(**nested({**values, **changes}))


def without_ray(settings: train.Config, shards: Path, folder: Path) -> None:
    world = World.join(torch.device("cpu"), shares=settings.batch_size)
    loop.train(settings, Inputs.of({"shards": artifact(shards)}, folder), Context(folder, stage="train"), world)


def test_a_killed_worker_changes_nothing(ray_cluster, ranks, shards, tmp_path):
    died = tmp_path / "died"

    def dies_once(event):  # local, so that it travels to the workers by value
        if event.kind == "metrics" and event.step >= 80 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    # No failure is forgiven but one after which there is a new checkpoint.
    settings = config(cluster__workers=2, cluster__max_failures=0)
    ranks(2, without_ray, settings, shards, tmp_path / "calm")
    manifests = []
    for name, emit in [("calm", None), ("killed", dies_once)]:
        context = Context(tmp_path / name, stage="train", emit=emit)
        manifests.append(train.run(settings, {"shards": artifact(shards)}, context).to_bytes())
    assert died.exists()
    assert manifests[0] == manifests[1]
    manifest = Manifest.from_bytes(manifests[0])
    assert {file.path for file in manifest.files} == {
        "data/checkpoint.pt",
        "data/history.jsonl",
        "data/open_clip_config.json",
        "data/open_clip_model.safetensors",
        "data/training.json",
        "figures/training.png",
    }
    assert (manifest.facts["samples"], manifest.facts["epochs"]) == (160, {"shards": 4.0})
    assert (
        manifest.metrics["loss"]
        == json.loads((tmp_path / "calm/data/history.jsonl").read_text().splitlines()[-1])["loss"]
    )
    assert not (tmp_path / "killed/checkpoints").exists()


def test_an_error_that_a_restart_cannot_help_surfaces_as_itself(ray_cluster, make_shards, tmp_path):
    damaged = make_shards(tmp_path / "shards", damaged=tuple(range(30)))
    with pytest.raises(DataError, match="too many samples"):
        train.run(config(loading__max_corrupt=3), {"shards": artifact(damaged)}, Context(tmp_path / "out"))


def test_workers_that_do_not_fit_are_refused(ray_cluster, shards, tmp_path):
    with pytest.raises(ConfigError, match="do not fit"):
        train.run(config(cluster__workers=8), {"shards": artifact(shards)}, Context(tmp_path))


def wait_until(what):
    """Ray's head learns from its nodes what they have left, some time later."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_room_for_more_workers_is_notice_for_as_long_as_ray_takes_to_use_it(ray_cluster, monkeypatch):
    import ray

    monkeypatch.setattr(worker._Growing, "LATE_S", 0)

    @ray.remote(num_cpus=1)
    class Busy:
        def here(self):
            return True

    def growing(workers, **changes):
        return worker._Growing(config(cluster__workers=workers, cluster__grow_after_s=1e-9, **changes), 1)

    room = growing((1, 2))
    assert room()
    assert not growing((1, 1))()
    assert not growing((1, 2), cluster__cpus_per_worker=3)()
    assert not growing((1, 2), cluster__gpu=True)()
    assert not room()  # it was left alone
    others = [Busy.remote() for _ in range(2)]
    assert all(ray.get([other.here.remote() for other in others]))
    wait_until(lambda: not room._room())
    assert not room()
    for other in others:
        ray.kill(other)
    wait_until(room._room)
    assert room()  # it is new


def test_a_batch_must_divide_among_the_workers():
    with pytest.raises(ConfigError, match="evenly"):
        config(cluster__workers=3)
