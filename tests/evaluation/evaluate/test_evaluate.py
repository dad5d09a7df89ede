"""The evaluate stage: which models it takes, where it runs, and what it asks of a task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import embed, evaluate
from evaluation.evaluate import work
from evaluation.tasks import Scores, Task, ZeroShot
from infra.errors import ConfigError, DataError, UsageError
from infra.run.context import Context, ShardOutput
from workflows.stage import Stage

HERE = Path(__file__).parent


@pytest.mark.ray
def test_gpus_are_asked_of_ray_and_used_only_where_granted(model, seen, embedded, tmp_path):
    for artifact in (model, seen):
        artifact.store.write("manifest.json", artifact.manifest.to_bytes())
    places = [model.store.url, seen.store.url, embedded["seen"].store.url, str(tmp_path / "out")]
    command = [sys.executable, str(HERE / "gpu_cluster.py"), *places]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["said"], "it says that it waits"
    for facts in report["with"]:
        assert facts["node"] == report["gpu_node"]
        assert facts["gpus"] == ["0"]
        assert facts["device"] == ("cuda" if facts["cuda"] else "cpu")
    for facts in report["without"]:
        assert facts["gpus"] == []
        assert facts["device"] == "cpu"


class Miscounted(Task):
    def evaluate(self, data):
        return Scores.means({"one": [0, 1, 1], "two": [0, 1]})


def test_metrics_of_other_images_are_an_error(embedded, seen, tmp_path):
    output = ShardOutput(Context(tmp_path / "out").store, "x")
    inputs = {"embeddings": embedded["seen"], "dataset": seen}
    with pytest.raises(DataError, match="not of the same images"):
        work.evaluate(evaluate.Config(task=Miscounted(dataset="seen")), inputs, output)


def given(*names: str) -> dict[str, Stage]:
    class Source(evaluate.Config):
        inputs = {}
        produces = ("model", "testsets", "embedded_testsets")

        def check_inputs(self, given):
            pass

    source = Stage("source", evaluate.run, Source(task=ZeroShot(dataset="x")))
    return dict.fromkeys(names, source)


def test_the_model_is_named_once():
    task = ZeroShot(dataset="x")
    both = ("embeddings", "dataset")
    Stage("a", evaluate.run, evaluate.Config(task=task), given(*both, "model"))
    Stage("b", evaluate.run, evaluate.Config(task=task, model="RN50", pretrained="openai"), given(*both))
    Stage("c", evaluate.run, evaluate.Config(task=task), given(*both))
    with pytest.raises(UsageError, match="no model"):
        Stage("c", embed.run, embed.Config(sets=("x",)), given("dataset"))
    with pytest.raises(UsageError, match="named twice"):
        twice = evaluate.Config(task=task, model="RN50", pretrained="openai")
        Stage("d", evaluate.run, twice, given(*both, "model"))


@pytest.mark.parametrize("place", ["/models/x.pt", "hf-hub:laion/CLIP", "local-dir:x"])
def test_places_of_weights_stay_out_of_the_identity(place):
    with pytest.raises(ConfigError, match="adopt"):
        evaluate.Config(task=ZeroShot(dataset="x"), model="ViT-B-32", pretrained=place)


def test_where_it_runs_is_not_part_of_the_identity():
    task = ZeroShot(dataset="x")
    here = evaluate.Config(task=task, gpus=1, cpus=4, device="cuda", batch_size=512)
    assert here.identity() == {"task": {"kind": "zeroshot_classification", "dataset": "x"}}


def test_a_task_without_work_is_told_so_at_once():
    class Idle(Task):
        kind = ""  # none that other tests would see

    with pytest.raises(ConfigError, match="neither a method evaluate nor an implementation"):
        Idle(dataset="seen")
