"""What somebody accepts is quiet, for that very change, and never without a name and a reason."""

from __future__ import annotations

import json
import time

import pytest
from committed import carry_out
from test_recipe import RECIPE

from infra.run.manifest import MANIFEST
from infra.store import LocalStore, open_store
from workflows.recipe import load
from workflows.run.accepted import PATH, accept, acceptances
from workflows.run.plan import Selection, make_plan


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPLINE_ROOT", str(tmp_path / "root"))
    (tmp_path / "toy.py").write_text(RECIPE)
    store = LocalStore(tmp_path / "root")
    carry_out(load("toy.py").build(), store)
    return store


@pytest.fixture
def clipline(root, clipline):
    return clipline


def edit(tmp_path, remark):
    """Edit the recipe's code without meaning."""
    (tmp_path / "toy.py").write_text(f"{RECIPE}# {remark}\n")


def plan(root, **selection):
    return make_plan(load("toy.py").build(), root, Selection(**selection))


def drifted(root):
    return {step.stage.name: sorted(step.drifted) for step in plan(root) if step.drifted}


def test_nothing_is_accepted_without_a_reason(root, clipline, tmp_path):
    assert "nothing has changed" in clipline("accept-drift", "toy.py", "--why", "no need").stderr
    edit(tmp_path, "a")
    before = root.sizes()
    shown = clipline("accept-drift", "toy.py")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        [name, "workflows.user.toy"] for name in ("first", "second", "third")
    ]
    assert "nothing is accepted yet" in shown.stderr
    assert "--why is empty" in clipline("accept-drift", "toy.py", "--why", " ", code=2).stderr
    assert "no stage 'frist'" in clipline("accept-drift", "toy.py", "--stage", "frist", "--why", "x", code=2).stderr
    assert root.sizes() == before
    assert len(drifted(root)) == 3


def test_what_is_accepted_is_quiet_until_the_next_edit_and_shown_with_its_author(root, clipline, tmp_path, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    manifests = {path: root.read(path) for path in root.paths() if path.endswith(MANIFEST)}
    edit(tmp_path, "a")
    done = json.loads(clipline("accept-drift", "toy.py", "--stage", "first", "--why", "a remark", "--json").stdout)
    assert (done["accepted"], [row["stage"] for row in done["changes"]]) == (True, ["first"])
    assert list(drifted(root)) == ["second", "third"]
    assert [step.stage.name for step in plan(root, rerun_drift=True).to_run] == ["first", "second", "third"][1:]
    line = clipline("plan", "toy.py").stdout.splitlines()[0]
    assert line.split(maxsplit=2) == ["first", "cached", "accepted changes: workflows.user.toy"]
    assert (
        "by ann on " in clipline("show", "first").stdout and ": a remark (workflows" in clipline("show", "first").stdout
    )
    (one,) = acceptances(root.child(plan(root)["first"].stage.folder))
    assert (one.why, time.time() - one.at < 60) == ("a remark", True)
    edit(tmp_path, "b")
    assert list(drifted(root)) == ["first", "second", "third"]
    (tmp_path / "toy.py").write_text(RECIPE)
    assert drifted(root) == {}
    assert manifests == {path: root.read(path) for path in root.paths() if path.endswith(MANIFEST)}


def test_an_artifact_that_is_made_again_has_nothing_accepted(root, clipline, tmp_path):
    edit(tmp_path, "a")
    clipline("accept-drift", "toy.py", "--why", "a remark")
    edit(tmp_path, "b")
    carry_out(load("toy.py").build(), root)
    edit(tmp_path, "a")  # what was accepted for the artifact of before
    assert list(drifted(root)) == ["first", "second", "third"]


def test_an_input_that_was_rebuilt_is_accepted_only_if_asked_for(root, clipline):
    carry_out(load("toy.py").build(), root, "first", content=" of today")
    assert [step.stage.name for step in plan(root).to_run] == ["second", "third"]
    assert "nothing has changed" in clipline("accept-drift", "toy.py", "--why", "x").stderr
    shown = clipline("accept-drift", "toy.py", "--inputs", "--why", "the same but for dates")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["second", "input", "data"],
        ["third", "input", "one"],
    ]
    assert plan(root).to_run == []
    assert "accepted changes: one" in clipline("plan", "toy.py").stdout
    carry_out(load("toy.py").build(), root, "first", content=" of tomorrow")
    assert [step.stage.name for step in plan(root).to_run] == ["second", "third"]


def test_an_acceptance_cut_short_counts_for_nothing_and_swallows_no_later_one(tmp_path):
    folder = LocalStore(tmp_path)
    folder.append(PATH, b'{"by": "ann", "why": "of')
    accept(folder, "ben", "password=hunter2 is in no record", {"m": ("1", None)}, {})
    (one,) = acceptances(folder)
    assert (one.by, one.source) == ("ben", {"m": ("1", None)})
    assert "hunter2" not in one.why


def test_an_object_store_keeps_them_too(tmp_path):
    folder = open_store(f"memory://accepted-{tmp_path.name}")
    accept(folder, "ann", "first", {"m": (None, "2")}, {})
    accept(folder, "ben", "second", {}, {"data": ("1", "2")})
    assert [(one.by, one.source, one.inputs) for one in acceptances(folder)] == [
        ("ann", {"m": (None, "2")}, {}),
        ("ben", {}, {"data": ("1", "2")}),
    ]
