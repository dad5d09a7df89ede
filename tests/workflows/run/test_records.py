"""How runs and their stages stand is read from what lies on disk, and says no more than that tells."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from committed import carry_out

from infra.config import Input, StageConfig
from infra.errors import UsageError
from infra.events import Progress, StageCached, StageFailed, StageFinished, StageStarted
from infra.run.context import ShardOutput
from infra.run.lease import Claim, Lease, Owner
from infra.store import LocalStore, open_store
from workflows.recipe import load
from workflows.run.journal import Journal
from workflows.run.plan import Selection
from workflows.run.records import RunRecord, find_run, list_runs, run_states
from workflows.stage import Stage, Workflow


class Make(StageConfig):
    inputs = {name: Input("lines", required=False) for name in ("data", "left", "right", "one", "two")}
    produces = ("lines",)

    size: int = 3


def run(config, inputs, context): ...


def workflow(size=3, name="toy"):
    a = Stage("a", run, Make(size=size))
    b = Stage("b", run, Make(), {"data": a})
    return Workflow(name, (a, b, Stage("c", run, Make(), {"data": b})))


@pytest.fixture(params=["local", "object"])
def root(request, tmp_path):
    return LocalStore(tmp_path / "root") if request.param == "local" else open_store(f"memory://runs-{tmp_path.name}")


@pytest.fixture
def record(root):
    record = RunRecord.of("toy.py", ["size=3"], workflow())
    record.save(root)
    return record


def happens(root, record, *events):
    Journal(root.child(f"runs/{record.run}")).append(list(events))


def started(stage, attempt=1):
    return StageStarted(stage=stage, attempt=attempt, digest="d", config={})


def states(root, record):
    return {state.name: state for state in run_states(root, record)}


# --- records


def test_the_same_plan_is_the_same_run():
    first, again, other = (RunRecord.of("toy.py", [], workflow(size)) for size in (3, 3, 4))
    assert first.run == again.run != other.run
    assert first.run.startswith("toy-")
    assert len(first.run) == len("toy-") + 8


def test_a_record_reads_back(root):
    selection = Selection(only=("a",), until="b", rerun_drift=True)
    record = RunRecord.of("toy.py", ["size=3", "a.size=4"], workflow(), selection)
    record.save(root)
    found = RunRecord.load(root, record.run)
    assert found.started > 0
    then = {"started", "commit"}
    assert found.model_dump(mode="json", exclude=then) == record.model_dump(mode="json", exclude=then)
    assert (list(found.selection.only), found.selection.until, found.selection.rerun_drift) == (["a"], "b", True)
    assert [stage.inputs for stage in found.stages] == [{}, {"data": "a"}, {"data": "b"}]


def test_runs_are_listed_by_their_start(root, monkeypatch):
    assert list_runs(root) == []
    for now, name in ((30, "late"), (10, "early"), (20, "middle"), (40, "early")):
        monkeypatch.setattr("workflows.run.records.time.time", lambda now=now: float(now))
        RunRecord.of("toy.py", [], workflow(name=name)).save(root)
    assert [name.split("-")[0] for name in list_runs(root)] == ["middle", "late", "early"]


def test_a_run_is_found_by_the_beginning_of_its_name(root):
    with pytest.raises(UsageError, match="no runs below"):
        find_run(root, None)
    for size in (3, 4):
        RunRecord.of("toy.py", [], workflow(size)).save(root)
    RunRecord.of("toy.py", [], workflow(name="toyota")).save(root)
    names = list_runs(root)
    assert find_run(root, None).run == names[-1]
    assert find_run(root, "toyo").run.startswith("toyota-")
    assert find_run(root, names[0]).run == names[0]
    for name, count in (("toy-", 2), ("nothing", 0)):
        with pytest.raises(UsageError, match=f"names {count} runs") as caught:
            find_run(root, name)
        assert names[0] in caught.value.expected


# --- states


def test_at_first_every_stage_waits(root, record):
    assert {state.state for state in run_states(root, record)} == {"waiting"}


def test_done_is_what_has_a_manifest_whatever_the_journal_says(root, record):
    carry_out(workflow(), root, "a")
    happens(root, record, started("a"), StageFailed(stage="a", error="lost contact", attempt=1))
    assert states(root, record)["a"].state == "done"
    root.delete(f"runs/{record.run}/journal.jsonl")
    assert states(root, record)["a"].state == "done"


def test_the_journal_tells_how_it_went(root, record):
    carry_out(workflow(), root, "a", "b")
    happens(
        root,
        record,
        started("a"),
        StageFailed(stage="a", error="busy", attempt=1),
        started("a", 2),
        StageFinished(stage="a", seconds=2.5, attempt=2, folder="artifacts/a/0"),
        StageCached(stage="b", folder="artifacts/b/0"),
        started("c"),
        Progress(stage="c", done=3, total=10),
        Progress(stage="c", done=4, total=None),
        StageFailed(stage="c", error="ValueError: wrong", attempt=1),
    )
    found = states(root, record)
    assert (found["a"].attempts, found["a"].seconds, found["a"].error, found["a"].cached) == (2, 2.5, "", False)
    assert (found["b"].state, found["b"].cached, found["b"].seconds) == ("done", True, None)
    assert (found["c"].state, found["c"].error, found["c"].progress) == ("failed", "ValueError: wrong", "3/10")


def test_a_stage_is_running_while_somebody_holds_its_lease(root, record):
    happens(root, record, started("a"), Progress(stage="a", done=1, total=4))
    folder = root.child(workflow()["a"].folder)
    lease = Lease.acquire(folder, beat_s=60)
    assert (states(root, record)["a"].state, states(root, record)["a"].progress) == ("running", "1/4")
    lease.release()
    assert states(root, record)["a"].state == "interrupted"


@pytest.mark.parametrize(("boot", "state"), [("", "running"), (Owner.current().boot, "interrupted")])
def test_only_what_is_certainly_gone_is_called_interrupted(root, record, boot, state):
    happens(root, record, started("a"))
    owner = replace(Owner.current(), boot=boot, started="1")
    root.child(workflow()["a"].folder).create("lease/00000001.json", Claim(owner).to_bytes())
    assert states(root, record)["a"].state == state


def test_committed_shards_without_a_journal_are_an_interrupted_stage(root, record):
    ShardOutput(root.child(workflow()["b"].folder), "00000").commit()
    assert states(root, record)["b"].state == "interrupted"


def test_a_stage_that_was_asked_to_stop_did_not_fail(root, record):
    happens(root, record, started("a"), StageFailed(stage="a", error="stop", attempt=1, preempted=True))
    assert (states(root, record)["a"].state, states(root, record)["a"].error) == ("interrupted", "")


# --- as meant


def write_recipe(path, size: int = 3) -> None:
    path.write_text(
        "from pathlib import Path\n"
        "from infra.config import StageConfig\n"
        "from pipelines import adopt\n"
        "from workflows.stage import Stage, Workflow\n"
        "class Make(StageConfig):\n"
        f"    size: int = 1\n"
        "def make(config, inputs, context):\n"
        "    context.output.write('data/out', b'x' * config.size)\n"
        "    return context.finish()\n"
        "def workflow(shards: str):\n"
        "    mine = Stage('mine', adopt.run, adopt.Config(path=shards, contents='metadata'))\n"
        f"    return Workflow('small', (mine, Stage('make', make, Make(size={size}))))\n"
    )


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A run on record, started in a directory of its own with a relative path among its settings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = tmp_path / "here"
    here.mkdir()
    (here / "words.txt").write_text("a\n")
    write_recipe(here / "small.py")
    monkeypatch.chdir(here)
    workflow = load("small.py").build(["shards=words.txt"])
    record = RunRecord.of("small.py", ["shards=words.txt"], workflow)
    record.save(LocalStore(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return here, RunRecord.load(LocalStore(tmp_path / "root"), record.run)


def test_a_run_is_recorded_with_absolute_places_and_the_digest_of_its_recipe(recorded):
    here, record = recorded
    assert record.recipe == str(here / "small.py")
    assert record.directory == str(here)
    assert record.recipe_digest == hashlib.sha256((here / "small.py").read_bytes()).hexdigest()


def rebuilt(here, record, monkeypatch):
    monkeypatch.chdir(here)
    return load(record.recipe).build(record.settings)


def test_the_same_recipe_is_the_same_run_from_anywhere(recorded, monkeypatch):
    here, record = recorded
    record.check_same(rebuilt(here, record, monkeypatch))
    (here / "small.py").write_text((here / "small.py").read_text() + "# a remark\n")
    record.check_same(rebuilt(here, record, monkeypatch))


def test_an_edited_recipe_is_told_down_to_the_field(recorded, monkeypatch):
    here, record = recorded
    write_recipe(here / "small.py", size=4)
    with pytest.raises(UsageError, match="was started with another recipe") as caught:
        record.check_same(rebuilt(here, record, monkeypatch))
    assert caught.value.found == "make.size: 3 -> 4"
    assert f"clipline run {here}/small.py" in caught.value.fix


def test_replaced_data_is_told_as_such(recorded, monkeypatch):
    here, record = recorded
    (here / "words.txt").write_text("b\n")
    with pytest.raises(UsageError) as caught:
        record.check_same(rebuilt(here, record, monkeypatch))
    assert caught.value.found.startswith("mine.content: '")
    assert caught.value.expected == "the same data and versions as then"


def test_a_submitted_run_has_a_copy_of_its_recipe_in_the_root(root, tmp_path):
    record = RunRecord.of("/elsewhere/mine.py", [], workflow())
    assert (record.recipe_file(root, tmp_path), record.origin) == ("/elsewhere/mine.py", {})
    submitted = record.model_copy(update={"copy_path": f"runs/{record.run}/mine.py", "job": "clipline-mine-1"})
    root.write(submitted.copy_path, b"the recipe")
    submitted.save(root)
    found = find_run(root, None)
    path = Path(found.recipe_file(root, tmp_path))
    assert (path.name, path.read_bytes()) == ("mine.py", b"the recipe")
    assert record.model_copy(update=found.origin).recipe_file(root, tmp_path) == str(path)
