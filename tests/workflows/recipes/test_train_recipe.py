"""From shards and test sets that somebody has to a scored model, through the command line."""

import io
import json
import os
import re
import subprocess
import sys
import time

import cv2
import fsspec
import numpy as np
import pytest
from running import QUIET, clipline, environment, settings

from infra.errors import ConfigError, UsageError
from infra.formats.shards import TarWriter
from workflows.recipe import load

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
COLOURS = {"red": (0, 0, 200), "green": (0, 160, 0), "blue": (200, 0, 0)}


def tar(path, extension, values):
    path.parent.mkdir(parents=True)
    sink = io.BytesIO()
    with TarWriter(sink) as out:
        for number, (colour, value) in enumerate(values):
            image = np.full((24, 24, 3), COLOURS[colour], np.uint8)
            out.add(f"{number:04d}.png", cv2.imencode(".png", image)[1].tobytes())
            out.add(f"{number:04d}.{extension}", value.encode())
    path.write_bytes(sink.getvalue())


@pytest.fixture
def given(tmp_path):
    names = list(COLOURS)
    tar(tmp_path / "shards/00000.tar", "txt", [(names[n % 3], f"a {names[n % 3]} square") for n in range(48)])
    tar(tmp_path / "tests/colours/test/0.tar", "cls", [(names[n % 3], str(n % 3)) for n in range(9)])
    for name, text in {"test/nshards": "1", "classnames": "\n".join(names)}.items():
        (tmp_path / f"tests/colours/{name}.txt").write_text(text)
    (tmp_path / "tests/colours/zeroshot_classification_templates.txt").write_text("a {c} square")
    return tmp_path


def events(folder):
    return [
        json.loads(line)
        for journal in folder.glob("root/runs/*/journal.jsonl")
        for line in journal.read_text().splitlines()
        if line.endswith("}")  # the last may be half written
    ]


@QUIET
def test_from_shards_to_a_score_over_sigterm_a_checkpoint_75_and_resume(ray_cluster, given):
    total = 8_000  # takes several times what a signal takes to get there
    sets = {
        "shards": json.dumps([str(given / "shards")]), "model": json.dumps(MODEL), "samples": total, "batch_size": 16,
        "tests": given / "tests", "classification": '["colours"]',
        "train.log_every": 160, "train.checkpoint.every": 10**9,
    }  # fmt: skip
    run = [sys.executable, "-m", "workflows.cli", "run", "train", "--cpus", "2", *settings(**sets)]
    env = {**os.environ, **environment(given / "root")}  # without RAY_ADDRESS: its cluster ends with it
    with subprocess.Popen(run, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not any(event["event"] == "train_start" for event in events(given)):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "clipline resume" in said
    (checkpoint,) = given.glob("root/artifacts/train/*/checkpoints/*")
    assert 0 < int(checkpoint.name) < total
    clipline(given / "root", "resume")
    starts = [event["samples"] for event in events(given) if event["event"] == "train_start"]
    assert starts == [0, int(checkpoint.name)]
    (manifest,) = given.glob("root/artifacts/train/*/manifest.json")
    assert json.loads(manifest.read_text())["facts"]["samples"] == total
    validated = [event["step"] for event in events(given) if "validation/colours/acc1" in event.get("values", {})]
    assert validated[-1] == total
    (result,) = (given / "root/artifacts/zeroshot_colours").glob("*/data/colours_*.json")
    assert 0 <= json.loads(result.read_text())["metrics"]["acc1"] <= 1


def test_test_sets_without_a_folder_are_told_before_anything_runs():
    with pytest.raises(UsageError, match="the folder of the test sets flickr30k is missing") as caught:
        load("train").build(["shards=/data", "captions=flickr30k"])
    assert caught.value.fix == "--set tests=FOLDER"


def test_the_objective_says_what_shards_hold(given, tmp_path):
    """And where it learns what to read from the model that it starts from, that model does."""
    folders = {"dual": tmp_path / "dual", "vilbert": tmp_path / "artifact/data"}
    for folder in folders.values():
        (folder / "fusion").mkdir(parents=True)
        for name in ("open_clip_config.json", "open_clip_model.safetensors"):
            (folder / name).write_text("{}")
    described = {"kind": "co_attention", "layers": 1, "regions": [4, 8, 2], "vocabulary": None, "matching": True}
    (folders["vilbert"] / "fusion/config.json").write_text(json.dumps(described))
    fsspec.filesystem("memory").put(str(folders["vilbert"]), "/elsewhere/model", recursive=True)
    vqa = {"kind": "vqa", "answers": ["yes", "no"]}
    asked = {
        "vilt": ("vilt", None),
        "vilbert": ("vilbert", None),
        "vqa of a dual encoder": (vqa, folders["dual"]),
        "vqa of a vilbert's data": (vqa, folders["vilbert"]),
        "vqa of a vilbert's artifact": (vqa, tmp_path / "artifact"),
        "vqa of a vilbert elsewhere": (vqa, "memory://elsewhere/model"),
        "vqa of a file": (vqa, folders["vilbert"] / "open_clip_model.safetensors"),
    }
    kinds = {}
    for name, (objective, start) in asked.items():
        start = None if start is None else str(start)
        made = load("train").function(shards=[str(given / "shards")], objective=objective, pretrained=start)
        kinds[name] = next(iter(made)).config.contents.kind
    assert [name for name, kind in kinds.items() if kind == "region_shards"] == [
        "vilbert",
        "vqa of a vilbert's data",
        "vqa of a vilbert's artifact",
        "vqa of a vilbert elsewhere",
    ]


def test_a_misspelt_model_is_told_before_anything_runs():
    with pytest.raises(ConfigError, match="no model 'ViT-B-33'") as caught:
        load("website").build(["seeds=https://example.org/", "model=ViT-B-33"])
    assert "ViT-B-32" in caught.value.fix


def test_a_model_in_a_folder_counts_by_its_configuration(tmp_path):
    for folder, width in (("one", 16), ("same", 16), ("other", 32)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": width}}))

    def digest(folder):
        return (
            load("website")
            .build(["seeds=https://example.org/", f"model=local-dir:{tmp_path}/{folder}"])["train"]
            .digest
        )

    assert digest("one") == digest("same") != digest("other")
    with pytest.raises(ConfigError, match="nowhere holds no model"):
        digest("nowhere")
    with pytest.raises(ConfigError, match="no model 'hf-hub:some/model'"):  # it may be another tomorrow
        load("website").build(["seeds=https://example.org/", "model=hf-hub:some/model"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["tests=tests"], "none of the test sets at tests is named"),
        (["classification=colours"], "fix: --set tests=FOLDER"),
        (["tests=tests", "classification=colour"], "did you mean 'colours'?"),
        (["tests=tests/colours", "classification=colours"], "give the folder above"),
        (["tests=nowhere", "classification=colours"], "nothing there"),
        (['weights={"shard": 1}'], "expected: shards"),
    ],
)
def test_a_slip_in_what_is_given_is_told_before_anything_runs(given, monkeypatch, settings, words):
    monkeypatch.chdir(given)
    with pytest.raises((ConfigError, UsageError), match=re.escape(words)):
        [stage.config.identity() for stage in load("train").build(["shards=shards", *settings])]
