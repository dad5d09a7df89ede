"""DataComp's metrics of worst groups and of F1: from sets as its downloads lie on disk to the averages of its suite."""

from __future__ import annotations

import io

import evaluation_samples as samples
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from evaluation import evaluate, suite
from evaluation.tasks import Task
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from workflows.recipe import load

pytestmark = pytest.mark.long  # a model

NUMBERS = np.arange(24)
METADATA = np.stack([NUMBERS % 3, 2010 + NUMBERS // 8, NUMBERS % 6], axis=1)
"""WILDS's metadata of an image as DataComp keeps them: the first number is the region, or the quarter of incomes."""

FOLDERS = {
    "wilds/fmow": ("wds_wilds-fmow_test", "acc_worst_region", np.int64),
    "fairness/dollar_street": ("wds_dollar_street_test", "acc_top5_wg", np.float32),  # whole numbers as floats
    "fairness/geode": ("wds_geode_test", "acc_wg", np.int16),
    "wilds/iwildcam": ("wds_wilds-iwildcam_test", "F1-macro_all", np.int64),
}


def members(kind) -> bytes:
    found = []
    for number, row in zip(NUMBERS.tolist(), METADATA, strict=True):
        np.save(array := io.BytesIO(), row.astype(kind))
        parts = {"cls": str(number % 6).encode(), "npy": array.getvalue(), "png": samples.picture(number)}
        found += [(f"s{number:04d}.{extension}", data) for extension, data in parts.items()]
    return samples.tar(found)


@pytest.fixture
def tests(tmp_path) -> Artifact:
    texts = {
        path.rpartition("/")[2]: data for path, data in samples.classification_files().items() if "/test/" not in path
    }
    files = {}
    for folder, _, kind in FOLDERS.values():
        files |= {f"data/{folder}/{name}": data for name, data in texts.items()}
        files |= {f"data/{folder}/test/nshards.txt": b"1", f"data/{folder}/test/0.tar": members(kind)}
    return samples.write_artifact(tmp_path / "tests", files)


def in_this_process(context, specs, work, limits):
    return [work(spec, ShardOutput(context.store, name)) for name, spec in specs]


def test_the_suites_metrics_are_given_by_their_names(tests, model, tmp_path, monkeypatch):
    made = load("evaluate").build(["suite=datacomp", f"tests={tests.store.url}/data", f"model={model.store.url}/data"])
    tasks = {
        stage.config.task.dataset: stage.config.task for stage in made if isinstance(stage.config, evaluate.Config)
    }
    assert {task.kind for task in tasks.values()} == {"zeroshot_classification"} and len(tasks) == 4
    monkeypatch.setattr(evaluate.stage, "run_shards", in_this_process)

    given, right = {}, {}
    for number, (name, (folder, metric, _)) in enumerate(FOLDERS.items()):
        config = evaluate.Config(task=tasks[folder], bootstrap=50)
        vectors = samples.embed_here(tmp_path / f"vectors{number}", model, tests, folder)
        context = Context(tmp_path / f"out{number}", stage=name, digest=f"{number}" * 64, config=config.resolved())
        manifest = evaluate.run(config, {"embeddings": vectors, "dataset": tests}, context)
        given[f"scores_{number}"] = Artifact(context.store, manifest)
        rows = pq.read_table(tmp_path / f"out{number}/data/predictions.parquet").to_pydict()
        ranks, groups = np.array(rows["rank"]), METADATA[:, 0]
        right[metric] = min((ranks[groups == group] < (5 if "top5" in metric else 1)).mean() for group in range(3))
    right["F1-macro_all"] = f1_score(rows["label"], rows["predicted"], average="macro", labels=range(6))

    config = suite.Config(suite=suite.load_suite("datacomp"))
    context = Context(tmp_path / "suite", stage="suite", digest="a" * 64, config=config.resolved())
    manifest = suite.run(config, given, context)
    found = {row["set"]: row["value"] for row in pq.read_table(tmp_path / "suite/data/sets.parquet").to_pylist()}
    assert {metric: found[name] for name, (_, metric, _) in FOLDERS.items()} == pytest.approx(right)
    assert manifest.metrics["average_of_4_of_38"] == pytest.approx(np.mean(list(right.values())))
    assert manifest.facts["missing"]["misc/winogavil"] == "no associations of it"


def test_every_task_of_the_suites_takes_its_options():
    for name in suite.suites():
        for entry in suite.load_suite(name).sets.values():
            if entry.task in Task.all_members():
                evaluate.Config(task={**entry.options, "kind": entry.task, "dataset": "x"})
