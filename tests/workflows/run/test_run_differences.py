"""Two runs side by side: every planted difference is named, shared stages and equal values are not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from committed import carry_out
from test_recipe import RECIPE

from infra.run.manifest import MANIFEST
from infra.store import LocalStore
from workflows.recipe import load
from workflows.run.look.differences import Score, differences
from workflows.run.records import RunRecord


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPLINE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "toy.py").write_text(RECIPE)
    return LocalStore(tmp_path / "root")


def finished(root, *settings, metrics=None, **facts):
    workflow = load("toy.py").build(settings)
    carry_out(workflow, root, metrics=metrics, **facts)
    return RunRecord.of("toy.py", list(settings), workflow).save(root), workflow


@pytest.fixture
def clipline(root, clipline):
    return clipline


def edit(root, stage, change):
    """Change the manifest of a stage, as another version of the code would have written it."""
    values = json.loads(root.read(f"{stage.folder}/{MANIFEST}"))
    change(values)
    root.write(f"{stage.folder}/{MANIFEST}", json.dumps(values).encode())


def test_a_run_does_not_differ_from_itself(root, clipline):
    record, _ = finished(root, funnel=True, metrics={"acc": float("nan")})
    assert not differences(root, record, record)
    shown = clipline("diff", record.run, record.run)
    assert (shown.stdout, shown.stderr) == ("", "no difference\n")


def test_configuration_and_results_differ_where_a_setting_reaches(root):
    one, _ = finished(root, metrics={"acc": 0.5, "acc_low": 0.4, "acc_high": 0.6, "loss": 2.0}, funnel=True)
    other, _ = finished(
        root, "fast=true", metrics={"acc": 0.75, "acc_low": 0.7, "acc_high": 0.8, "loss": 2.0}, funnel=False
    )
    found = differences(root, one, other)
    assert found.parameters == {"fast": (None, True)}
    assert found.config == {"second.name": ("False", "True")}
    assert found.metrics.keys() == {"second.acc", "third.acc"}  # the first stage is shared, the loss is the same
    assert found.metrics["second.acc"] == Score((0.5, 0.75), (0.4, 0.7), (0.6, 0.8))
    assert found.funnel == {
        f"{stage}.{name}": (count, None)
        for stage in ("second", "third")
        for name, count in (("entered", 5), ("kept", 2), ("dropped.small", 3))
    }
    assert (found.code, found.modules, found.inputs, found.stages, found.unfinished) == ({}, {}, {}, {}, {})
    back = differences(root, other, one)
    assert back.config == {"second.name": ("True", "False")}
    assert back.funnel == {key: (new, old) for key, (old, new) in found.funnel.items()}


def test_code_differs_by_commit_source_code_version_and_packages(root):
    one, _ = finished(root, "size=5")
    other, workflow = finished(root, "size=6")

    def newer(values):
        values["provenance"]["source"] = {**values["provenance"]["source"], "infra.errors": "0" * 16}
        values["provenance"]["versions"]["numpy"] = "0.0.1"

    numpy = json.loads(root.read(f"{workflow['first'].folder}/{MANIFEST}"))["provenance"]["versions"]["numpy"]
    edit(root, workflow["first"], newer)
    third = other.stages[2].model_copy(update={"described": {**other.stages[2].described, "code_version": 7}})
    other = other.model_copy(update={"commit": "0123456789ab", "stages": [*other.stages[:2], third]})
    found = differences(root, one, other)
    assert found.modules == {"first": ["infra.errors"]}
    assert found.code == {
        "commit": (one.commit or None, "0123456789ab"),
        "numpy": (numpy, "0.0.1"),
        "third.code_version": (1, 7),
    }


def test_stages_and_their_wiring_differ(root):
    one, workflow = finished(root)
    first, second, third = workflow
    short = replace(workflow, stages=(first, second))
    found = differences(root, one, RunRecord.of("toy.py", [], short))
    assert (found.stages, found.config, found.inputs) == ({"third": (True, False)}, {}, {})
    crossed = replace(workflow, stages=(first, second, replace(third, inputs={"one": second, "two": first})))
    found = differences(root, one, RunRecord.of("toy.py", [], crossed))
    assert found.inputs == {"third.one": ("first", "second"), "third.two": ("second", "first")}


def test_replaced_data_is_an_input(root, tmp_path):
    recipe = (
        "from pipelines import adopt\nfrom workflows.stage import Stage, Workflow\n"
        "def workflow(words: str):\n"
        "    mine = Stage('mine', adopt.run, adopt.Config(path=words, contents='metadata'))\n"
        "    return Workflow('adopting', (mine,))\n"
    )
    (tmp_path / "adopting.py").write_text(recipe)
    records = []
    for text in ("a\n", "b\n"):
        (tmp_path / "words.txt").write_text(text)
        records.append(RunRecord.of("adopting.py", [], load("adopting.py").build([f"words={tmp_path}/words.txt"])))
    found = differences(root, *records)
    assert found.inputs.keys() == {"mine.content"}
    assert (found.config, found.parameters) == ({}, {})
    assert found.unfinished == {record.run: ["mine"] for record in records}


def test_the_table_has_intervals_and_says_how_to_tell_what_is_real(root, clipline):
    one, _ = finished(root, metrics={"acc": 0.5, "acc_low": 0.4, "acc_high": 0.6}, funnel=True)
    other, _ = finished(root, "size=9", metrics={"acc": 0.75, "acc_low": 0.7, "acc_high": 0.8})
    shown = clipline("diff", one.run, other.run)
    rows = {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines() if line.strip()}
    assert rows["size"] == ["-", "9"]
    assert rows["first.size"] == ["3", "9"]
    assert rows["first.kept"] == ["2", "-"]
    assert rows["first.acc"] == ["0.5", "0.400", "-", "0.600", "0.75", "0.700", "-", "0.800", "+0.25"]
    assert f"clipline compare {one.run} {other.run}" in shown.stderr
    found = json.loads(clipline("diff", one.run, other.run, "--json").stdout)
    assert found["metrics"]["first.acc"] == {"values": [0.5, 0.75], "low": [0.4, 0.7], "high": [0.6, 0.8]}
    assert found["runs"] == [one.run, other.run]


def test_without_intervals_there_is_nothing_to_compare_and_what_is_not_done_is_told(root, clipline):
    one, _ = finished(root, metrics={"loss": 2.0})
    other = RunRecord.of("toy.py", [], load("toy.py").build(["size=9"])).save(root)
    shown = clipline("diff", one.run, other.run)
    assert "compare" not in shown.stderr
    assert f"{other.run} has no result of first, second, third yet" in shown.stderr


def test_a_run_is_not_compared_with_an_artifact(root, clipline):
    one, _ = finished(root)
    assert "two runs, or two artifacts" in clipline("diff", one.run, "first", code=2).stderr
