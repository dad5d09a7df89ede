"""What nothing needs goes, all else stays: whoever needs it, whoever writes it, whatever begins meanwhile."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest
from committed import carry_out
from test_recipe import RECIPE

from infra.errors import LeaseHeld, StorageError, UsageError
from infra.events import Log
from infra.run.lease import Claim, Lease, Owner
from infra.run.manifest import Artifact
from infra.store import LocalStore, open_store
from workflows.cli.console import size
from workflows.recipe import load
from workflows.run.journal import Journal
from workflows.run.plan import make_plan
from workflows.run.reclaim import Rules, reclaim, settled, survey
from workflows.run.records import RunRecord

DAY = 86400.0


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(RECIPE)
    return open_store(tmp_path / "root" if request.param == "local" else request.getfixturevalue("s3_url"))


def workflow(*settings):
    return load("toy.py").build(settings)


def record(root, of, started=None):
    one = RunRecord.of("toy.py", [], of)
    one.save(root)
    if started is not None:
        root.write(f"runs/{one.run}/run.json", one.model_copy(update={"started": started}).model_dump_json().encode())
    return one.run


def names(items):
    return sorted((item.state, item.name.partition("/")[0]) for item in items)


def removed(root):
    rules = Rules()
    return {item.folder: stayed for item, stayed in reclaim(root, rules, survey(root, rules).due)}


def test_a_preview_says_what_would_go_and_changes_nothing(root):
    kept, gone = workflow(), workflow("size=9")
    carry_out(kept, root)
    record(root, kept)
    carry_out(gone, root, "first", "second")
    unfinished = root.child(gone["third"].folder)
    unfinished.write("data/00000.tar", b"x" * 9000)
    before = root.sizes()
    found = survey(root, Rules())
    assert names(found.due) == [("abandoned", "third"), ("orphan", "first"), ("orphan", "second")]
    assert found.due[0].bytes == 9000  # the largest first
    assert names(found.of("kept")) == [("kept", "first"), ("kept", "second"), ("kept", "third")]
    assert sum(item.bytes for item in found.items) == sum(
        length for path, length in before.items() if path.startswith("artifacts/")
    )
    assert root.sizes() == before

    assert set(removed(root).values()) == {""}
    needed = tuple(stage.folder for stage in kept)
    left = {path: length for path, length in root.sizes().items() if path.startswith("artifacts/")}
    assert left == {path: length for path, length in before.items() if path.startswith(needed)}
    assert survey(root, Rules()).due == []


def test_what_a_kept_artifact_was_made_from_stays_although_no_run_names_it(root):
    whole = workflow()
    carry_out(whole, root)
    last = replace(whole, stages=(whole["first"], whole["second"]))
    one = record(root, last)
    values = json.loads(root.read(f"runs/{one}/run.json"))
    values["stages"] = values["stages"][1:]  # a recipe that has become shorter: of its stages only "second"
    root.write(f"runs/{one}/run.json", json.dumps(values).encode())
    assert names(survey(root, Rules()).due) == [("orphan", "third")]


def test_leftovers_of_killed_attempts_go_and_every_file_of_the_manifest_stays(root):
    whole = workflow()
    carry_out(whole, root)
    record(root, whole)
    folder = root.child(whole["second"].folder)
    for path in ("exchange/words/read-00000.arrow", "data/00007.tar", "scratch/x"):
        folder.write(path, b"left")
    if isinstance(root, LocalStore):
        (root.root / whole["second"].folder / "data/.tmp-00001.tar.1f").write_bytes(b"half")
    folder.write("ledger/00000.json", b"{}")
    folder.write("checkpoints/1/manifest.json", b"{}")
    (item,) = survey(root, Rules()).due
    assert (item.state, item.files) == ("leftovers", 3 + isinstance(root, LocalStore))
    assert removed(root) == {whole["second"].folder: ""}
    assert list(Artifact.load(folder).verify()) == []
    assert {"ledger/00000.json", "checkpoints/1/manifest.json", "data/out"} <= folder.sizes().keys()
    assert survey(root, Rules()).due == []


def test_what_a_run_has_begun_keeps_its_committed_shards(root):
    whole = workflow()
    record(root, whole)
    folder = root.child(whole["first"].folder)
    folder.write("ledger/00000.json", b"{}")
    folder.write("exchange/words/read-00000.arrow", b"needed to go on")
    assert survey(root, Rules()).due == []


def test_nothing_that_a_living_lease_holds_goes_and_what_a_dead_one_held_does(root):
    one, other = workflow(), workflow("size=9")
    carry_out(one, root, "first")
    carry_out(other, root, "first")
    dead = replace(Owner.current(), started="0")
    root.child(other["first"].folder).write("lease/00000001.json", Claim(dead).to_bytes())
    lease = Lease.acquire(root.child(one["first"].folder))
    found = survey(root, Rules())
    assert (names(found.due), names(found.of("held"))) == ([("orphan", "first")], [("held", "first")])
    assert removed(root) == {other["first"].folder: ""}
    lease.check()
    lease.release()
    assert removed(root) == {one["first"].folder: ""}
    assert not root.folders("artifacts/first")


def test_runs_in_which_nothing_happened_for_long_keep_nothing_unless_named_or_alive(root):
    workflows = [workflow(f"size={number}") for number in range(4)]
    for each in workflows:
        carry_out(each, root, "first")
    old = [record(root, each, started=time.time() - 20 * DAY) for each in workflows]
    Journal(root.child(f"runs/{old[1]}")).append(
        [Log(time=time.time() - DAY, stage="first", level="INFO", message="here")]
    )
    lease = Lease.acquire(root.child(workflows[2]["second"].folder))
    rules = Rules((old[3],), 14 * DAY)
    found = survey(root, rules)
    assert found.let_go == (old[0],)
    assert [item.folder for item in found.due] == [workflows[0]["first"].folder]
    assert survey(root, Rules(older_than_s=30 * DAY)).due == survey(root, Rules()).due == []
    lease.release()
    with pytest.raises(UsageError, match="names 0 runs"):
        survey(root, Rules(("nobody",), 14 * DAY))


# --- what begins meanwhile


def test_a_run_that_is_on_record_by_then_stops_the_removal(root):
    whole = workflow()
    carry_out(whole, root)
    due = survey(root, Rules()).due
    assert len(due) == 3
    record(root, whole)
    assert {stayed for _, stayed in reclaim(root, Rules(), due)} == {f"run {record(root, whole)} needs it meanwhile"}
    assert make_plan(whole, root).to_run == []


def test_a_run_waits_for_a_removal_that_was_first_and_makes_again_what_is_gone(root):
    whole = workflow()
    carry_out(whole, root)
    plan = make_plan(whole, root)
    lease = Lease.acquire(root.child(whole["second"].folder), reclaims=True, beat_s=0.1)
    with pytest.raises(LeaseHeld, match=r"removed by clipline gc"):
        settled(plan, root)
    root.child(whole["second"].folder).delete("manifest.json")
    lease.end()
    assert [step.stage.name for step in settled(plan, root).to_run] == ["second", "third"]


@pytest.mark.long
@pytest.mark.parametrize("number", range(6))
def test_run_and_removal_at_the_same_moment_agree(root, number):
    """One sees the other, whichever is first: what the run takes for done is there, whole."""
    whole = workflow(f"size={number + 20}")
    carry_out(whole, root)
    plan, due = make_plan(whole, root), survey(root, Rules()).due
    assert plan.to_run == [] and len(due) == 3
    start, result = threading.Barrier(2), []

    def run():
        start.wait()
        time.sleep(0.004 * number)
        record(root, whole)
        while True:
            try:
                result.append(settled(plan, root))
                return
            except LeaseHeld:
                continue

    thread = threading.Thread(target=run)
    thread.start()
    start.wait()
    outcome = {item.folder: stayed for item, stayed in reclaim(root, Rules(), due)}
    thread.join()
    for step in result[0]:
        there = Artifact.find(root.child(step.stage.folder))
        assert (there is not None) == bool(outcome[step.stage.folder])
        assert there is not None or step.action == "run"
        assert there is None or list(there.verify()) == []


def test_who_slept_through_a_removal_has_lost_its_lease(root):
    folder = root.child("artifacts/first/0123456789abcdef")
    sleeper = Lease.acquire(folder, beat_s=3600)
    folder.delete("lease")
    with Another(folder), pytest.raises(LeaseHeld, match="was lost"):
        sleeper.check()
    with pytest.raises(LeaseHeld):
        sleeper.check()


class Another:
    """A lease that begins at number 1 again, as after a removal."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        self.lease = Lease.acquire(self.folder)
        return self.lease

    def __exit__(self, *error):
        self.lease.release()


# --- MLflow


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "toy.py").write_text(RECIPE)
    return LocalStore(tmp_path / "root")


def test_an_mlflow_that_does_not_answer_is_not_guessed(local, monkeypatch):
    carry_out(workflow(), local)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="does not say which models are registered") as caught:
        survey(local, Rules())
    assert "nothing was removed" in caught.value.fix


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/mlflow.db"])
def test_a_database_on_another_machine_is_not_guessed(local, uri):
    run = record(local, workflow())
    local.write(f"runs/{run}/tracking.json", json.dumps({"uri": uri}).encode())
    with pytest.raises(StorageError, match="not on this machine"):
        survey(local, Rules())
    local.write(f"runs/{run}/tracking.json", json.dumps({"uri": f"sqlite:///{local.url}/mlflow.db"}).encode())
    assert survey(local, Rules()).due == []  # the root's own: nothing was ever tracked there
    assert not local.exists("mlflow.db")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_registered_model_keeps_all_it_was_made_from(local):
    from infra.tracking import Address
    from infra.tracking.client import open_client

    model, other = workflow(), workflow("size=9")
    for each in (model, other):
        carry_out(each, local)
    client = open_client(Address.find(local))
    client.create_registered_model("clip")
    client.create_model_version("clip", str(local.root), tags={"clipline.artifact": model["third"].digest})
    found = survey(local, Rules())
    assert {item.folder for item in found.of("kept")} == {stage.folder for stage in model}
    assert {item.why for item in found.of("kept")} == {"model clip 1"}
    assert {item.folder for item in found.due} == {stage.folder for stage in other}


# --- the command


@pytest.fixture
def clipline(local, clipline, monkeypatch):
    monkeypatch.setenv("CLIPLINE_ROOT", local.url)
    return clipline


def test_the_command_previews_removes_and_tells_in_json(clipline, local):
    assert "nothing can go" in clipline("gc").stderr
    gone, held = workflow(), workflow("size=9")
    carry_out(gone, local, "first")
    carry_out(held, local, "first")
    local.child(gone["first"].folder).write("data/large", b"x" * 2_500_000)
    lease = Lease.acquire(local.child(held["first"].folder))
    shown = clipline("gc")
    assert shown.stdout.split()[:4] == ["orphan", f"first/{gone['first'].digest[:16]}", "2.5", "MB"]
    assert "2.5 MB can go, --delete removes it; 0 artifacts" in shown.stderr
    assert f"held by {Owner.current()}" in shown.stderr
    done = json.loads(clipline("gc", "--delete", "--json").stdout)
    assert [row["name"] for row in done["reclaimed"]] == [f"first/{gone['first'].digest[:16]}"]
    assert [row["why"] for row in done["stayed"]] == [f"held by {Owner.current()}"]
    assert done["deleted"] and done["bytes"] > 2_500_000
    assert local.folders("artifacts/first") == [held["first"].digest[:16]]
    lease.release()


@pytest.mark.parametrize("age", ["", "14", "3 days", "0d", "30m", "-1d", "1.5d"])
def test_an_age_that_is_none_is_refused(clipline, age):
    assert "14d" in clipline("gc", f"--older-than={age}", code=2).stderr


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_940, "99.9 kB"), (999_499, "999 kB"), (999_600, "1.0 MB"),
     (2_500_000, "2.5 MB"), (1_300_000_000_000, "1.3 TB"), (10**18, "1,000.0 PB")],
)  # fmt: skip
def test_sizes_are_for_people(number, text):
    assert size(number) == text
