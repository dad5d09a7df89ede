"""A sweep does what its runs share once, survives kills and failures, and says which setting is better."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from infra.errors import UsageError
from infra.store import LocalStore
from workflows.recipe import built_in, load
from workflows.run.records import list_runs
from workflows.run.sweep import Design, parse_grid, plan_sweep

RECIPE = Path(__file__).parents[1] / "sweep_recipe.py"
OLD_SQLALCHEMY = "ignore:The ``noload`` loader strategy:DeprecationWarning"  # MLflow's own use of it


# --- which runs


@pytest.mark.parametrize(
    ("given", "grid"),
    [
        (["lr=0.1,0.2"], {"lr": ["0.1", "0.2"]}),
        (["objective=infonce, siglip", "n=1"], {"objective": ["infonce", "siglip"], "n": ["1"]}),
        (["a.rates=[1,2],[3]"], {"a.rates": ["[1, 2]", "[3]"]}),
        (['m={"width": 3, "depth": 1},{"width": 4}'], {"m": ['{"width": 3, "depth": 1}', '{"width": 4}']}),
        (['name="a,b","c"'], {"name": ["a,b", "c"]}),
        (["flag=true,false"], {"flag": ["true", "false"]}),
        (["path=/data/a=1,/data/b=2"], {"path": ["/data/a=1", "/data/b=2"]}),
    ],
)
def test_a_grid_is_read_as_set_reads_its_values(given, grid):
    assert parse_grid(given) == grid


@pytest.mark.parametrize("given", [["lr"], ["lr="], ["=1,2"], ["lr=1,,2"], ["lr=1,1"], ["lr=1", "lr=2"]])
def test_a_grid_that_says_nothing_or_the_same_twice_is_refused(given):
    with pytest.raises(UsageError):
        parse_grid(given)


def planned(*grid, seeds=1, draw=None, settings=()):
    return plan_sweep(load(str(RECIPE)), str(RECIPE), settings, Design(grid=parse_grid(grid), seeds=seeds, draw=draw))


def test_every_combination_is_run_with_every_seed():
    sweep = planned("lr=0.1,1.0", "data.name=x,y", seeds=2)
    assert [trial.settings for trial in sweep.trials][:3] == [
        ("lr=0.1", "data.name=x", "seed=0"),
        ("lr=0.1", "data.name=x", "seed=1"),
        ("lr=0.1", "data.name=y", "seed=0"),
    ]
    assert {name: len(trials) for name, trials in sweep.variants.items()} == {
        f"lr={lr} name={name}": 2 for lr in ("0.1", "1.0") for name in ("x", "y")
    }
    digests = [stage.digest for trial in sweep.trials for stage in trial.workflow]
    assert len(set(digests)) == 2 + 8 + 8 and len(digests) == 24
    assert planned("lr=0.1,1.0", "data.name=x,y", seeds=2).name == sweep.name
    assert planned("lr=0.1,1.0", "data.name=x,z", seeds=2).name != sweep.name


def test_some_of_the_combinations_are_drawn_the_same_each_time():
    grid = "lr=" + ",".join(str(number / 10) for number in range(1, 31))
    drawn = [trial.variant for trial in planned(grid, draw=5).trials]
    assert len(set(drawn)) == 5 and drawn == sorted(drawn, key=lambda name: float(name.removeprefix("lr=")))
    assert drawn == [trial.variant for trial in planned(grid, draw=5).trials]
    assert drawn != [f"lr={number / 10}" for number in range(1, 6)]
    assert len(planned(grid, draw=99).trials) == 30


def test_values_that_make_no_difference_are_refused():
    with pytest.raises(UsageError, match="are the same") as caught:
        planned("data.pause_s=0,1")
    assert "data.pause_s=1" in caught.value.found


def test_a_recipe_without_a_seed_is_told_how_to_get_one(tmp_path):
    recipe = tmp_path / "seedless.py"
    recipe.write_text(RECIPE.read_text().replace("seed: int = 0, pause_s", "pause_s").replace("seed=seed, ", ""))
    with pytest.raises(UsageError, match="no parameter 'seed'") as caught:
        plan_sweep(load(str(recipe)), str(recipe), [], Design(seeds=3))
    assert "seed: int" in caught.value.expected


@pytest.mark.parametrize("name", built_in())
def test_every_built_in_recipe_has_a_seed(name):
    (seed,) = (parameter for parameter in load(name).parameters if parameter.name == "seed")
    assert (seed.type, seed.default) == ("int", 0) and seed.description


# --- the command, on a cluster


@pytest.fixture
def sweep(tmp_path, monkeypatch, clipline):
    """``clipline sweep`` of the recipe below a root of its own, to the end, in this process."""
    monkeypatch.setenv("CLIPLINE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("SWEEP_DIARY", str(tmp_path / "diary"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path.parent}/mlflow.db")  # making one takes seconds
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*words, code=0, command="sweep"):
        given = [str(RECIPE)] if command == "sweep" else []
        return clipline(command, *given, *words, code=code)

    return call


@pytest.fixture
def root(tmp_path):
    return LocalStore(tmp_path / "root")


def begun(tmp_path) -> Counter[str]:
    lines = (tmp_path / "diary").read_text().splitlines()
    return Counter(line.split()[1] for line in lines if line.startswith("begin"))


GRID = ("--grid", "lr=0.1,1.0", "--seeds", "2")


def test_a_plan_shows_each_distinct_stage_and_writes_nothing(sweep, root):
    lines = sweep(*GRID, "--plan").stdout.splitlines()
    assert [line.split("/")[0] for line in lines[:-1]].count("data") == 1
    assert lines[0].endswith("will run  all runs")
    assert any(line.endswith("will run  lr=1.0 seed=1") for line in lines)
    assert lines[-1].endswith("9 of 9 stages would run, for 4 runs.")
    shown = json.loads(sweep(*GRID, "--plan", "--json").stdout)
    assert Counter(row["stage"] for row in shown["stages"]) == {"data": 1, "train": 4, "zeroshot": 4}
    assert len(shown["stages"][0]["runs"]) == len(shown["runs"]) == 4
    assert not root.root.exists()


@pytest.mark.filterwarnings(OLD_SQLALCHEMY)
def test_a_sweep_runs_each_shared_stage_once_and_ends_in_a_verdict(sweep, root, tmp_path, ray_cluster):
    done = sweep(*GRID)
    assert max(begun(tmp_path).values()) == 1 and sum(begun(tmp_path).values()) == 9
    assert "all 1 differences from lr=0.1 in acc1 are separated from 0" in done.stdout
    assert "+0.200" in done.stdout  # 450 against 350 of 500 images
    (picture,) = (line for line in done.stdout.splitlines() if line.endswith("comparison.png"))
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert len(list_runs(root)) == 4
    labels = {line.split()[0] for line in done.stderr.splitlines() if " done in " in line}
    assert {label.partition("/")[0] for label in labels} == {"data", "train", "zeroshot"} and len(labels) == 9

    again = sweep(*GRID, "--json")
    assert sum(begun(tmp_path).values()) == 9
    shown = json.loads(again.stdout)
    assert [run["error"] for run in shown["runs"]] == [None] * 4
    (difference,) = shown["comparison"]["differences"]
    assert difference["separated"] and difference["difference"] == pytest.approx(0.2)
    assert shown["comparison"]["seeds"] == {"lr=0.1": 2, "lr=1.0": 2}
    told = [line.split() for line in sweep(shown["sweep"], command="logs").stdout.splitlines()]
    finished = Counter(words[2] for words in told if words[3:4] == ["stage_finished"])
    assert finished == {"data": 1, "train": 4, "zeroshot": 4}  # what runs share is told once
    _check_mlflow(tmp_path, shown)


def _check_mlflow(tmp_path, shown):
    """One run above the runs, which holds the table and the plot."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("toy-sweep").experiment_id
    (whole,) = client.search_runs([experiment], f"attributes.run_name = '{shown['sweep']}'")
    members = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{whole.info.run_id}'")
    assert {run.info.run_name for run in members} == {run["run"] for run in shown["runs"]}
    assert all(run.info.status == "FINISHED" for run in (whole, *members))
    files = {file.path for file in client.list_artifacts(whole.info.run_id)}
    assert {"comparison.png", "comparison.json"} <= files
    assert "separated" in whole.data.tags["mlflow.note.content"]


@pytest.mark.filterwarnings(OLD_SQLALCHEMY)
def test_a_member_that_fails_ends_no_other_and_is_named(sweep, root, tmp_path, ray_cluster):
    failed = sweep("--grid", "lr=0.1,10,1.0", "--json", code=1)
    shown = json.loads(failed.stdout)
    assert [bool(run["error"]) for run in shown["runs"]] == [False, True, False]
    assert "the loss is no number" in shown["runs"][1]["error"]
    assert f"{shown['runs'][1]['run']} (lr=10) did not end" in failed.stderr
    assert "separated" in shown["comparison"]["verdict"]
    assert {"lr=0.1", "lr=1.0"} == set(shown["comparison"]["seeds"])
    states = json.loads(sweep(shown["runs"][1]["run"], "--json", command="status").stdout)["stages"]
    assert [stage["state"] for stage in states] == ["done", "failed", "waiting"]


@pytest.mark.filterwarnings(OLD_SQLALCHEMY)
def test_seeds_alone_have_nothing_to_compare_with(sweep, ray_cluster):
    done = sweep("--seeds", "2", "--json")
    assert json.loads(done.stdout)["comparison"] is None
    assert "nothing to compare" in json.loads(done.stdout)["why"]


@pytest.mark.long
@pytest.mark.filterwarnings(OLD_SQLALCHEMY)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_is_killed_continues_and_repeats_nothing(sweep, tmp_path, ray_cluster, number):
    import ray

    command = [sys.executable, "-m", "workflows.cli", "sweep", str(RECIPE), *GRID, "--set", "pause_s=0.7"]
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    manifests = tmp_path / "root/artifacts"
    deadline = time.monotonic() + 90
    while len(list(manifests.glob("train/*/manifest.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (75 if number == signal.SIGTERM else -number)
    kept = {f"{path.parent.parent.name}/{path.parent.name[:6]}" for path in manifests.glob("*/*/manifest.json")}
    before = begun(tmp_path)
    (name,) = (path.name for path in (tmp_path / "root/sweeps").iterdir())
    sweep(name, command="resume")
    assert len(list(manifests.glob("*/*/manifest.json"))) == 9
    assert all(begun(tmp_path)[name] == before[name] == 1 for name in kept)


@pytest.mark.long
@pytest.mark.filterwarnings(OLD_SQLALCHEMY)
def test_no_more_stages_run_at_once_than_are_allowed(sweep, tmp_path, ray_cluster):
    sweep(*GRID, "--set", "pause_s=0.3", "--stages", "2")
    events = sorted(
        (float(when), 1 if word == "begin" else -1)
        for word, _, when in (line.split() for line in (tmp_path / "diary").read_text().splitlines())
    )
    at_once = [sum(step for _, step in events[: end + 1]) for end in range(len(events))]
    assert max(at_once) == 2
