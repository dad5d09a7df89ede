"""The command ``tasks``: on its own, for a recipe and for a folder of test sets."""

from __future__ import annotations

import json
from pathlib import Path

import evaluation_samples as samples
import pytest
from typer.testing import CliRunner

from workflows.cli.app import app

RECIPE = '''"""colours: a task of its own."""

from pydantic import Field

from evaluation import embed, evaluate
from evaluation.tasks import Scores, Task
from pipelines import adopt
from workflows.stage import Stage, Workflow


class NearestColour(Task):
    """Colours, one by one."""

    most: int = Field(3, description="colours of an image")

    def evaluate(self, data):
        return Scores.means({"found": data.labels == 0})


def workflow(model: str, tests: str, dataset: str, split: str = "test") -> Workflow:
    given = {
        "model": Stage("model", adopt.run, adopt.Config(path=model, contents="model")),
        "dataset": Stage("tests", adopt.run, adopt.Config(path=tests, contents="testsets")),
    }
    vectors = Stage("embed", embed.run, embed.Config(sets=(dataset,)), given)
    both = {"embeddings": vectors, "dataset": given["dataset"]}
    words = {"kind": "zeroshot_retrieval", "dataset": dataset}
    tasks = {"own": NearestColour(dataset=dataset, split=split), "words": words}
    scores = [Stage(name, evaluate.run, evaluate.Config(task=task), both) for name, task in tasks.items()]
    return Workflow("colours", (*given.values(), vectors, *scores))
'''


def call(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["tasks", *words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def given(tmp_path) -> Path:
    files = samples.classification_files() | samples.retrieval_files()
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    (tmp_path / "colours.py").write_text(RECIPE)
    return tmp_path


def test_tasks_are_listed_with_their_fields():
    text = call()
    assert "zeroshot_retrieval  Retrieval in both directions, recall and median rank" in text
    assert "measures mean_recall@1, over images and captions" in text
    listed = json.loads(call("--json"))["tasks"]
    assert {"zeroshot_classification", "linear_probe", "analogies", "matching"} <= set(listed)
    fields = {row["path"]: row for row in listed["knn"]["fields"]}
    assert fields["k"]["default"] == "20" and fields["dataset"]["required"]
    assert listed["knn"]["needs"] == {"classification": "an image has one of the set's classes"}


def test_a_recipes_own_task_is_among_them_and_its_evaluations_are_checked(given):
    recipe = str(given / "colours.py")
    listed = json.loads(call(recipe, "--json"))
    own = listed["tasks"]["nearest_colour"]
    assert (own["class"], own["summary"]) == ("colours.py:NearestColour", "Colours, one by one.")
    assert [row["path"] for row in own["fields"]][-1] == "most"
    assert listed["evaluations"] == {}  # its parameters are not given
    parameters = [f"model={given}", f"tests={given / 'data'}"]
    sets = [part for one in (*parameters, "dataset=holdout") for part in ("--set", one)]
    assert call(recipe, *sets).splitlines()[-2:] == [
        "own: nearest_colour of holdout/test  fits its test set",
        "words: zeroshot_retrieval of holdout/test  fits its test set",
    ]
    sets = [part for one in (*parameters, "dataset=seen", "split=dev") for part in ("--set", one)]
    found = json.loads(call(recipe, *sets, "--json", code=1))["evaluations"]
    assert "no set seen with split dev" in found["own"][1]
    assert "needs a set for retrieval" in found["words"][1]


def test_a_folder_of_sets_is_told_with_what_is_broken(given):
    text = call(str(given / "data"))
    assert "holdout/test  webdataset, retrieval" in text
    assert "20 images, 39 captions" in text
    assert "24 images, 6 classes, 2 prompts" in text
    assert "not few_shot, knn, linear_probe: it needs the split train" in text
    (given / "data/seen/test/1.tar").unlink()
    (shown,) = [one for one in json.loads(call(str(given / "data"), "--json", code=1)) if one["set"] == "seen"]
    assert shown["images"] == 14
    assert shown["broken"] == {"unreadable from here": 1}
    assert "1.tar is missing" in shown["first_broken"]["unreadable from here"]
