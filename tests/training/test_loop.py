"""The loop: what a run ends with, however it got there."""

import json
import logging
import os
import signal
import sys

import numpy as np
import pytest
import torch
from nesting import nested

from infra.errors import ConfigError, DataError, Preempted
from infra.run.context import Context
from infra.store import LocalStore
from training import train
from training.checkpoint.manifests import complete
from training.cli import main
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train as run_loop

pytestmark = pytest.mark.long  # trains

TOTAL = 160


def config(**changes):
    from small_data import MODEL

    values = {
        "model__architecture": MODEL,
        "batch_size": 8,
        "samples": TOTAL,
        "optimizer__lr": 3e-3,
        "schedule__warmup": 24,
        "optimizer__grad_clip": 1.0,
        "log_every": 24,
        "checkpoint__every": 32,
        "augment__crop_scale": (0.5, 1.0),
    }
    return train.Config(**nested({**values, **changes}))


def go(folder, shards, *, stop_at=None, kill_at=None, **changes):
    """Train; stop politely or die as soon as that many samples have been reported. True if it was stopped."""
    seen = [0]

    def emit(event):
        if event.kind == "progress":
            seen[0] = event.done
            if kill_at is not None and event.done >= kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    store = LocalStore(shards)
    tars = Shards.at(store, [path for path in store.paths() if path.endswith(".tar")])
    stopping = (lambda: seen[0] >= stop_at) if stop_at is not None else None
    try:
        run_loop(
            config(**changes),
            Inputs({"shards": tars}),
            Context(folder, emit=emit, stopping=stopping),
            World.join(torch.device("cpu")),
        )
    except Preempted:
        return True
    return False


def content(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def weights(folder):
    from safetensors.numpy import load

    return load((folder / "data/open_clip_model.safetensors").read_bytes())


def history(folder):
    return [json.loads(line) for line in (folder / "data/history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def calm(ranks, shards, tmp_path_factory):
    """An undisturbed run on one rank."""
    folder = tmp_path_factory.mktemp("calm")
    assert ranks(1, go, folder, shards) == [False]
    return folder


# --- what it learns ---------------------------------------------------------------------------------------------------


def test_equals_a_loop_written_out_with_open_clips_parts(calm, shards):
    """The same batches through open_clip's model and loss, torch's AdamW, and the schedule by hand."""
    import math

    import open_clip
    from small_data import MODEL

    from training.data.loader import Loader
    from training.data.samples import Samples
    from training.model.build import build

    towers = build(MODEL, 0, World())
    store = LocalStore(shards)
    source = Samples(Shards(store, store.paths("data/train")), World(), tokenize=towers.tokenize, min_side=23)
    batches = Loader(source, config(), World(), (16, 16)).batches(0, TOTAL)
    model, criterion = towers.model, open_clip.ClipLoss()
    two_d, one_d = ([p for p in model.parameters() if (p.ndim < 2) is flat] for flat in (False, True))
    optimizer = torch.optim.AdamW(
        [{"params": two_d, "weight_decay": 0.2}, {"params": one_d, "weight_decay": 0}], betas=(0.9, 0.98), eps=1e-6
    )
    mean, std = (torch.tensor(value) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    losses = []
    for step, batch in enumerate(batches):
        seen = step * 8 + 4
        way = (seen - 24) / (TOTAL - 24)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (seen / 24 if seen < 24 else 0.5 * (1 + math.cos(math.pi * way)))
        pixels = ((batch.images / 255 - mean) / std).permute(0, 3, 1, 2)
        loss = criterion(*model(pixels, batch.texts))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    expected = [np.mean(losses[line["samples"] // 8 - 3 : line["samples"] // 8]) for line in history(calm)[:6]]
    assert [line["samples"] for line in history(calm)] == [24, 48, 72, 96, 120, 144, 160]
    assert [line["loss"] for line in history(calm)[:6]] == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < 0.95 * expected[0]


def test_open_clip_loads_the_result(calm):
    import open_clip
    from PIL import Image
    from small_data import draw

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{calm}/data")
    other = open_clip.create_model(f"local-dir:{calm}/data", load_weights=False)
    open_clip.load_checkpoint(other, f"{calm}/data/checkpoint.pt", weights_only=True)
    tokens = open_clip.get_tokenizer(f"local-dir:{calm}/data")(["a red disc", "a blue bar"])
    pixels = torch.stack([preprocess(Image.fromarray(draw(number)[0])) for number in (0, 10)])
    assert pixels.shape[2:] == (16, 16)
    for encoder in (model, other):
        encoder.eval()
    with torch.no_grad():
        assert torch.equal(model.encode_image(pixels), other.encode_image(pixels))
        assert torch.equal(model.encode_text(tokens), other.encode_text(tokens))
    checkpoint = torch.load(calm / "data/checkpoint.pt", weights_only=True)
    assert set(checkpoint) == {"epoch", "name", "state_dict", "optimizer"}
    assert checkpoint["epoch"] == 4
    assert checkpoint["state_dict"]["logit_scale"].shape == ()
    assert set(checkpoint["state_dict"]) == set(model.state_dict())


def test_bf16_trains_close_to_fp32(ranks, calm, shards, tmp_path):
    ranks(1, in_bf16, tmp_path, shards)
    assert [line["loss"] for line in history(tmp_path)] == pytest.approx(
        [line["loss"] for line in history(calm)], rel=0.05
    )
    assert {str(value.dtype) for value in weights(tmp_path).values()} == {"float32"}


def in_bf16(folder, shards):
    return go(folder, shards, precision="amp_bf16")


# --- however it got there ---------------------------------------------------------------------------------------------


def killed(folder, shards):
    go(folder, shards, kill_at=56)


def stopped(folder, shards):
    return go(folder, shards, stop_at=56)


@pytest.mark.parametrize("size", [1, 2])
def test_killed_and_stopped_runs_end_with_the_same_bytes(ranks, shards, tmp_path, size):
    ranks(size, go, tmp_path / "calm", shards)
    expected = content(tmp_path / "calm")

    assert -signal.SIGKILL in ranks(size, killed, tmp_path / "killed", shards, dies=True)
    found = complete(LocalStore(tmp_path / "killed"))[-1][0].samples
    assert found in (32, 64)  # the thread may have died over the second
    assert not (tmp_path / "killed/data").exists()
    ranks(size, go, tmp_path / "killed", shards)
    assert content(tmp_path / "killed") == expected

    assert ranks(size, stopped, tmp_path / "stopped", shards) == [True] * size
    ranks(size, go, tmp_path / "stopped", shards)
    assert content(tmp_path / "stopped") == expected


def one_part(folder, shards, stop_at):
    return go(folder, shards, stop_at=stop_at)


def test_it_may_go_on_with_another_number_of_ranks(ranks, calm, shards, tmp_path):
    assert ranks(1, one_part, tmp_path, shards, 40) == [True]
    assert ranks(2, one_part, tmp_path, shards, 100) == [True, True]
    assert ranks(1, one_part, tmp_path, shards, None) == [False]
    for ours, theirs in zip(history(tmp_path), history(calm), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    for name, value in weights(calm).items():
        assert weights(tmp_path)[name] == pytest.approx(value, abs=1e-5), name


def command_line(arguments, terminate):
    """The exit code of ``clipline-train``; with ``terminate`` it gets a SIGTERM at its first metrics."""

    class Terminate(logging.Handler):
        def emit(self, record):
            if '"metrics"' in record.getMessage():
                os.kill(os.getpid(), signal.SIGTERM)

    sys.argv = ["clipline-train", *arguments]
    if terminate:
        logging.getLogger("training.cli").addHandler(Terminate())
    return main()


@pytest.mark.parametrize("size", [1, 2])
def test_the_command_line_stops_with_75_and_continues(ranks, calm, shards, tmp_path, size):
    (tmp_path / "config.json").write_text(config().model_dump_json())
    arguments = ["--config", f"{tmp_path}/config.json", "--shards", str(shards), "--output", f"{tmp_path}/out"]
    assert ranks(size, command_line, arguments, True) == [75] * size
    assert not (tmp_path / "out/data").exists()
    assert ranks(size, command_line, arguments, False) == [0] * size
    assert ranks(size, command_line, arguments, True) == [0] * size  # done: nothing to do
    if size == 1:
        assert content(tmp_path / "out") == content(calm)


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_errors_name_what_is_wrong(shards, tmp_path):
    with pytest.raises(DataError, match="less than one batch"):
        go(tmp_path, shards, batch_size=64)
    with pytest.raises(ConfigError, match="no model"):
        go(tmp_path, shards, model__architecture="ViT-Z-99")
    with pytest.raises(ConfigError, match="cannot build"):
        go(tmp_path, shards, model__architecture={"embed_dim": 16, "vision_cfg": {"layerz": 1}, "text_cfg": {}})


@pytest.mark.parametrize("content", [None, '{"model": ', "[3]"], ids=["missing", "cut off", "a list"])
def test_a_configuration_that_cannot_be_read_is_told(tmp_path, content, monkeypatch, caplog):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(
        sys,
        "argv",
        ["clipline-train", "--config", f"{tmp_path}/config.json", "--shards", "x", "--output", f"{tmp_path}/out"],
    )
    assert main() == 2
    assert "config.json is no configuration" in caplog.text


def test_an_output_that_is_a_file_is_told(shards, tmp_path, monkeypatch, caplog):
    (tmp_path / "config.json").write_text(config().model_dump_json())
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    arguments = ["--config", f"{tmp_path}/config.json", "--shards", str(shards), "--output", f"{tmp_path}/config.json"]
    monkeypatch.setattr(sys, "argv", ["clipline-train", *arguments])
    assert main() == 2
    assert "nothing can be written at" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(shards, tmp_path):
    with pytest.raises(DataError, match="finite"):
        go(tmp_path, shards, optimizer__lr=1e30, schedule__warmup=0, optimizer__grad_clip=None)
