"""Checkpoints: exact for any number of ranks, few, intact or passed over, and written while training goes on."""

import errno
import json
import logging
import os
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from small_run import Run, arrays, config

from infra.errors import ConfigError, StorageError, TransientError
from infra.store import LocalStore, open_store
from training.checkpoint import checkpoints as checkpoint
from training.checkpoint.checkpoints import Checkpoints
from training.checkpoint.manifests import RankManifest, complete, prune
from training.config import Checkpoint as Keep
from training.distributed.world import World

pytestmark = pytest.mark.long  # trains


def saved(store):
    return [seals[0].samples for seals in complete(store)]


def parts_of_a_run(url, kind, stop):
    """Continue from where the run was left, up to ``stop`` samples; curve, and the state's end."""
    run = Run(config(cluster__parallel=kind))
    checkpoints = run.checkpoints(open_store(url))
    run.restore(checkpoints)
    while run.samples < stop:
        before = run.samples
        run.step()
        if checkpoints.due(before, run.samples):
            run.save(checkpoints)
    run.save(checkpoints)
    checkpoints.close()
    return run.losses, arrays(run.state())


@pytest.fixture(scope="module")
def calm(ranks, tmp_path_factory):
    return ranks(1, parts_of_a_run, str(tmp_path_factory.mktemp("calm")), "ddp", 80)[0]


# --- whoever goes on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [(1, "ddp", 24), (2, "ddp", 56), (1, "ddp", 80)],
        [(2, "fsdp", 24), (1, "ddp", 56), (2, "fsdp", 80)],
        [(2, "fsdp", 40), (4, "fsdp", 64), (2, "ddp", 80)],
    ],
)
def test_any_ranks_go_on_with_what_any_others_left(ranks, calm, tmp_path, parts):
    for size, kind, stop in parts:
        losses, state = ranks(size, parts_of_a_run, str(tmp_path), kind, stop)[0]
        assert len(losses) == stop // 8  # every batch once
    assert losses == pytest.approx(calm[0], rel=1e-6)
    for name, weight in calm[1]["weights"].items():
        np.testing.assert_allclose(state["weights"][name], weight, atol=1e-3, err_msg=name)
    for name, moments in calm[1]["moments"].items():
        assert state["moments"][name]["step"] == 10
        for key, moment in moments.items():
            np.testing.assert_allclose(state["moments"][name][key], moment, atol=1e-3, err_msg=f"{name} {key}")


def test_the_same_ranks_go_on_to_the_last_bit(ranks, calm, tmp_path):
    for stop in (24, 40, 80):
        losses, state = ranks(1, parts_of_a_run, str(tmp_path), "ddp", stop)[0]
    assert losses == calm[0]
    for name, weight in calm[1]["weights"].items():
        assert np.array_equal(state["weights"][name], weight), name


def test_a_sharded_checkpoint_lies_in_a_file_per_rank(ranks, tmp_path):
    ranks(2, parts_of_a_run, str(tmp_path), "fsdp", 16)
    folder = tmp_path / "checkpoints/000000000016"
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000-of-00002.json",
        "00000.safetensors",
        "00001-of-00002.json",
        "00001.safetensors",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    one, two = ((folder / f"0000{rank}.safetensors").stat().st_size for rank in (0, 1))
    assert two == pytest.approx(one, rel=0.2)


def test_open_clip_loads_a_checkpoint(tmp_path):
    import open_clip

    run = Run(config())
    run.step()
    description = {"model_cfg": run.config.model.architecture, "preprocess_cfg": {}}
    checkpoints = Checkpoints(LocalStore(tmp_path), run.config.checkpoint, World(), description)
    run.save(checkpoints)
    checkpoints.close()
    model = open_clip.create_model(f"local-dir:{tmp_path}/checkpoints/000000000008")
    for name, weight in run.objective.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def in_a_bucket(url, kind, stop, environment):
    os.environ.update(environment)  # the ranks' was made before the server was started
    return parts_of_a_run(url, kind, stop)


@pytest.mark.alone  # the server of the bucket answers from this process, which other tests slow down
def test_it_lies_in_an_object_store_as_well(ranks, calm, s3_url):
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for size, kind, stop, kept in ((1, "ddp", 40, [32, 40]), (2, "fsdp", 56, [48, 56]), (1, "ddp", 80, [64, 80])):
        losses, _ = ranks(size, in_a_bucket, s3_url, kind, stop, environment)[0]
        assert saved(open_store(s3_url)) == kept
        assert len(losses) == stop // 8
    assert losses == pytest.approx(calm[0], rel=1e-6)
    assert open_store(s3_url).folders("checkpoints") == ["000000000064", "000000000080"]  # nothing is left of others


def test_extras_keep_tensors_and_values(tmp_path):
    run = Run(config())
    run.step()
    extras = {
        "ema": {"weight": torch.arange(6.0).view(2, 3)},
        "history": [{"loss": 0.1}, {"loss": 1 / 3}],
        "note": None,
    }
    checkpoints = run.checkpoints(LocalStore(tmp_path))
    checkpoints.save(8, run.objective, run.optimizer, extras)
    checkpoints.close()
    again = Run(config())
    found = again.checkpoints(LocalStore(tmp_path)).restore(again.objective, again.optimizer)
    assert torch.equal(found.pop("ema")["weight"], extras.pop("ema")["weight"])
    assert found == extras
    target = {"ema": {"weight": torch.zeros(2, 3)}}
    again.checkpoints(LocalStore(tmp_path)).restore(again.objective, again.optimizer, target)
    assert torch.equal(target["ema"]["weight"], torch.arange(6.0).view(2, 3))


def test_a_state_that_is_saved_is_not_saved_again(tmp_path):
    run = Run(config())
    run.step()
    checkpoints = run.checkpoints(LocalStore(tmp_path))
    run.save(checkpoints, acc=0.5)
    run.save(checkpoints)  # as when a run is stopped at a checkpoint
    checkpoints.close()
    again = Run(config())
    more = again.checkpoints(LocalStore(tmp_path))
    again.restore(more)
    again.save(more)
    more.close()
    (seals,) = complete(LocalStore(tmp_path))
    assert seals[0].metrics == {"acc": 0.5}
    assert seals[0].attempt == checkpoints._attempt


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "unseal", "model", "mix"])
def test_a_damaged_one_is_passed_over(tmp_path, caplog, harm):
    parts_of_a_run(str(tmp_path), "ddp", 32)
    folder = tmp_path / "checkpoints/000000000032"
    path = folder / ("open_clip_model.safetensors" if harm == "model" else "00000.safetensors")
    seal = folder / "00000-of-00001.json"
    data = bytearray(path.read_bytes())
    match harm:
        case "flip" | "model":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-100])
        case "remove":
            path.unlink()
        case "unseal":
            seal.unlink()
        case "mix":  # two attempts, by two ranks, one of which died: neither is whole
            other = {**json.loads(seal.read_text()), "size": 2}
            seal.unlink()
            (folder / "00000-of-00002.json").write_text(json.dumps(other))
            (folder / "00001-of-00002.json").write_text(json.dumps({**other, "rank": 1, "attempt": "another"}))
    run = Run(config())
    with caplog.at_level(logging.WARNING):
        assert run.restore(run.checkpoints(LocalStore(tmp_path)))
    assert run.samples == 16
    assert ("damaged" in caplog.text) is (harm not in ("unseal", "mix"))
    assert not folder.exists()  # this attempt will write it anew


def test_without_any_intact_one_it_starts_anew(tmp_path):
    run = Run(config())
    checkpoints = run.checkpoints(LocalStore(tmp_path))
    assert not run.restore(checkpoints)
    run.save(checkpoints)
    checkpoints.close()
    (tmp_path / "checkpoints/000000000000/00000.safetensors").write_bytes(b"")
    assert not run.restore(run.checkpoints(LocalStore(tmp_path)))


def test_one_of_another_run_is_refused(tmp_path):
    parts_of_a_run(str(tmp_path), "ddp", 16)
    other = Run(config(optimizer__lr=0.5))
    with pytest.raises(ConfigError, match="another configuration") as refused:
        other.restore(other.checkpoints(LocalStore(tmp_path)))
    assert refused.value.found == "optimizer.lr: 0.01 -> 0.5"
    wide = Run(config())
    wide.objective.register_buffer("mean", torch.zeros(17))
    with pytest.raises(ConfigError, match="another model") as refused:
        wide.restore(wide.checkpoints(LocalStore(tmp_path)))
    assert "objective/mean" in refused.value.expected


# --- when, and which are kept -----------------------------------------------------------------------------------------


def sealed(store, *samples, **metrics):
    for number in samples:
        seal = RankManifest(samples=number, attempt="a", rank=0, size=1)
        seal.metrics = {name: values[number] for name, values in metrics.items() if number in values}
        store.write(seal.path, seal.to_bytes())


@pytest.fixture(params=["disk", "bucket"])
def store(request, tmp_path):
    return LocalStore(tmp_path) if request.param == "disk" else open_store(request.getfixturevalue("s3_url"))


@pytest.mark.parametrize(
    ("rules", "newest", "kept"),
    [
        (Keep(keep=2), None, [24, 30]),
        (Keep(keep=1, keep_every=10), None, [12, 20, 30]),
        (Keep(keep=1, keep_best=2, best_metric="acc"), None, [18, 20, 30]),
        (Keep(keep=1, keep_best=1, best_metric="val_loss"), None, [6, 30]),
        (Keep(keep=2, keep_every=20), 0, [20]),
    ],
    ids=str,
)
def test_retention(store, rules, newest, kept):
    acc = {6: 0.1, 12: 0.2, 18: 0.9, 20: 0.5}
    sealed(store, 6, 12, 18, 20, 24, 30, acc=acc, val_loss=acc)
    prune(store, rules, newest)
    assert saved(store) == kept
    prune(store, rules, newest)
    assert saved(store) == kept


def test_rules_hold_while_it_trains(store):
    run = Run(config())
    rules = run.config.checkpoint.replace(keep=1, keep_every=32, keep_best=1, best_metric="acc")
    checkpoints = Checkpoints(store, rules, World())
    for number in range(6):
        run.step()
        run.save(checkpoints, acc=-abs(number - 1))
    checkpoints.close()
    assert saved(store) == [16, 32, 48]


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_minutes_are_rank_0s_and_asked_for_now_and_then(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoint.time, "monotonic", clock.monotonic)
    checkpoints = Checkpoints(LocalStore(tmp_path), Keep(every=10**12, minutes=1), World())
    asked, due, start = [], [], 10**9  # as continued from a checkpoint: what came before says nothing of the rate
    ask = checkpoints._ask
    monkeypatch.setattr(checkpoints, "_ask", lambda samples: asked.append(samples) or ask(samples))
    for samples in range(10, 20_000, 10):  # ten steps a second
        clock.now += 0.1
        if checkpoints.due(start + samples - 10, start + samples):
            due.append(samples)
            checkpoints._saved_at = clock.now
    assert due == pytest.approx([6000, 12_000, 18_000], abs=60)
    assert len(asked) < 150


def noticed(folder):
    steps = []
    world = World.join(torch.device("cpu"), notice=lambda: steps[-1] in (3, 4))
    checkpoints = Checkpoints(LocalStore(folder), Keep(every=10**6), world)
    checkpoints.ASK_S = 0
    found = []
    for number in range(6):
        steps.append(number)
        found.append(checkpoints.due(number * 8, number * 8 + 8))
    return found


def test_while_rank_0_has_notice_there_are_checkpoints(ranks, tmp_path):
    assert ranks(2, noticed, tmp_path) == [[False, False, False, True, True, False]] * 2


# --- beside training --------------------------------------------------------------------------------------------------


class Gate(LocalStore):
    """A store whose writer waits to be let through, or fails."""

    def __init__(self, root, error=None):
        super().__init__(root)
        self.open_for = threading.Event()
        self.error = error
        self.calls = 0

    @contextmanager
    def publish(self, path):
        self.calls += 1
        assert self.open_for.wait(60)
        if self.error:
            raise self.error
        with super().publish(path) as out:
            yield out


def test_training_goes_on_while_it_is_written(tmp_path):
    run = Run(config())
    store = Gate(tmp_path)
    checkpoints = run.checkpoints(store)
    run.step()
    run.save(checkpoints)
    expected = arrays(run.state())
    run.step()  # the state changes under the writer's hands
    assert saved(store) == []
    store.open_for.set()
    checkpoints.close()
    again = Run(config())
    assert again.restore(again.checkpoints(LocalStore(tmp_path)))
    for name, weight in expected["weights"].items():
        assert np.array_equal(arrays(again.state())["weights"][name], weight), name


@pytest.mark.parametrize("where", ["save", "close"])
def test_a_full_disk_is_reported_by_the_next_save_or_the_end(tmp_path, where):
    run = Run(config())
    store = Gate(tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    store.open_for.set()
    checkpoints = run.checkpoints(store)
    run.save(checkpoints)
    run.step()
    with pytest.raises(StorageError, match="could not be written") as failure:
        run.save(checkpoints) if where == "save" else checkpoints.close()
    assert "No space left" in failure.value.found
    assert saved(store) == []


def one_fails(folder):
    run = Run(config(cluster__parallel="fsdp"))
    run.step()
    store = Gate(folder, OSError("broken") if run.world.rank else None)
    store.open_for.set()
    checkpoints = run.checkpoints(store)
    run.save(checkpoints)
    with pytest.raises(StorageError):
        checkpoints.close()
    return True


def test_all_ranks_hear_of_it(ranks, tmp_path):
    assert ranks(2, one_fails, tmp_path) == [True, True]
    assert saved(LocalStore(tmp_path)) == []  # half a checkpoint is none


def test_a_store_that_does_not_answer_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr("training.checkpoint.checkpoints.backoff", lambda attempt: 0.0)
    run = Run(config())
    store = Gate(tmp_path, TransientError("busy"))
    store.open_for.set()
    checkpoints = run.checkpoints(store)
    run.save(checkpoints)
    with pytest.raises(TransientError):
        checkpoints.close()
    assert store.calls == Checkpoints.ATTEMPTS


def test_the_files_are_those_of_the_safetensors_library(tmp_path):
    from safetensors.torch import load, save

    from training.checkpoint.tensors import write_tensors

    tensors = {
        "b": torch.randn(3, 2),
        "a": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "mask": torch.tensor([True, False]),
        "half": torch.randn(2).half(),
    }
    with (tmp_path / "file").open("wb") as out:
        write_tensors(out, tensors, {"format": "pt"})
    data = (tmp_path / "file").read_bytes()
    assert data == save(tensors, metadata={"format": "pt"})
    for name, tensor in load(data).items():
        assert torch.equal(tensor, tensors[name])
