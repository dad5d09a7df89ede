"""Copies between roots are the same artifacts, whole or not there, and continue where a killed one was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from committed import carry_out
from test_recipe import RECIPE

from infra.errors import DataError, LeaseHeld
from infra.run.lease import Lease
from infra.run.manifest import MANIFEST, Artifact
from infra.run.pieces import write_piece
from infra.run.records import File, ShardRecord
from infra.run.transfer import copy_artifact, plan_copy
from infra.store import LocalStore, open_store
from workflows.cli.console import size
from workflows.recipe import load
from workflows.run.journal import Journal
from workflows.run.look.listing import runs
from workflows.run.plan import make_plan
from workflows.run.records import RunRecord

FILES = 6
FOLDER = "artifacts/many/0123456789abcdef"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(RECIPE)
    store = LocalStore(tmp_path / "here")
    monkeypatch.setenv("CLIPLINE_ROOT", store.url)
    return store


@pytest.fixture(params=["local", "s3"])
def there(request, tmp_path):
    return open_store(str(tmp_path / "there") if request.param == "local" else request.getfixturevalue("s3_url"))


def many(root, folder=FOLDER):
    """A finished artifact of several files, half of them named by a piece."""
    store, files = root.child(folder), []
    for number in range(FILES):
        with store.publish(f"data/{number:05d}.tar") as out:
            out.write(bytes([number]) * (1000 + number))
        files.append(File(f"data/{number:05d}.tar", out.size, out.sha256))
    piece = write_piece(store, "pieces/00000.jsonl", [ShardRecord(file.path, [file]) for file in files[: FILES // 2]])
    identity = {"stage": "many", "code_version": 1, "config": {}, "inputs": {}}
    manifest = {"stage": "many", "digest": "0123456789abcdef" * 4, "identity": identity, "files": files[FILES // 2 :]}
    made = Artifact.find(store) or _manifest(manifest, piece)
    store.write(MANIFEST, made.to_bytes())
    return made


def _manifest(values, piece):
    from infra.run.manifest import Manifest

    return Manifest(**values, pieces=[piece])


def data_of(root, below="artifacts"):
    """All files but leases."""
    return {path: root.read(path) for path in root.paths(below) if "/lease/" not in path}


def test_a_run_that_went_and_came_back_is_cached_and_on_record(here, there, tmp_path, clipline):
    workflow = load("toy.py").build()
    carry_out(workflow, here, funnel=True)
    record = RunRecord.of("toy.py", [], workflow)
    record = record.model_copy(update={"copy_path": f"runs/{record.run}/toy.py"}).save(here)  # as of one submitted
    here.write(record.copy_path, RECIPE.encode())
    Journal(here.child(f"runs/{record.run}")).append([])
    clipline("export", "toy", there.url)
    assert data_of(there) == data_of(here)
    assert there.read(record.copy_path) == RECIPE.encode()
    back = LocalStore(tmp_path / "back")
    shown = json.loads(clipline("import", record.run, there.url, "--root", back.url, "--json").stdout)
    assert shown["bytes_copied"] == sum(one["bytes"] for one in shown["artifacts"]) == len("firstsecondthird")
    assert data_of(back) == data_of(here)
    assert make_plan(workflow, back).to_run == []
    assert [(row.run, row.state) for row in runs(back)] == [(record.run, "done")]
    assert all(list(Artifact.load(back.child(stage.folder)).verify()) == [] for stage in workflow)
    again = json.loads(clipline("import", record.run, there.url, "--root", back.url, "--json").stdout)
    assert (again["bytes_copied"], {one["there"] for one in again["artifacts"]}) == (0, {True})


def test_an_artifact_goes_with_what_it_was_made_from_if_asked(here, there, clipline):
    workflow = load("toy.py").build()
    carry_out(workflow, here)
    clipline("export", "second", there.url)
    assert there.folders("artifacts") == ["second"]
    clipline("export", f"second/{workflow['second'].digest[:8]}", there.url, "--inputs")
    assert there.folders("artifacts") == ["first", "second"]
    assert [step.stage.name for step in make_plan(workflow, there).to_run] == ["third"]
    here.delete(workflow["first"].folder)
    assert "without --inputs" in clipline("export", "third", there.url, "--inputs", code=1).stderr


def test_a_preview_and_a_budget_that_is_too_small_write_nothing(here, there, clipline):
    manifest = many(here)
    total = json.loads(clipline("export", "many", there.url, "--plan", "--json").stdout)["artifacts"][0]["bytes"]
    assert total == manifest.size + here.size(f"{FOLDER}/pieces/00000.jsonl")
    assert f"{size(total)} of {size(total)} to copy" in clipline("export", "many", there.url, "--plan").stdout
    assert "nothing was copied" in clipline("export", "many", there.url, "--max-bytes", str(total - 1), code=2).stderr
    assert "500MB" in clipline("export", "many", there.url, "--max-bytes", "lots", code=2).stderr
    assert there.paths() == []
    there.write(f"{FOLDER}/data/00000.tar", here.read(f"{FOLDER}/data/00000.tar"))
    clipline("export", "many", there.url, "--max-bytes", f"{(total - 1000) / 1000}kB")  # what is there costs nothing
    assert data_of(there) == data_of(here)


KILLED = """
import os, signal, sys
from infra.run import transfer
from infra.store import open_store
copy, begun = transfer._copy, []
def killed(*arguments):
    begun.append(arguments)
    if len(begun) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return copy(*arguments)
transfer._copy, transfer._AT_ONCE = killed, 1
transfer.copy_artifact(*map(open_store, sys.argv[1:3]), sys.argv[3], print)
"""


def test_a_copy_that_was_killed_half_way_goes_on_where_it_was(here, there):
    many(here)
    command = [sys.executable, "-c", KILLED, here.url, there.url, FOLDER]
    done = subprocess.run(command, env=dict(os.environ), stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGKILL
    left = plan_copy(here, there, FOLDER)
    assert 0 < left.bytes_left < left.bytes
    assert not there.exists(f"{FOLDER}/{MANIFEST}")
    sizes = []
    copy_artifact(here, there, FOLDER, sizes.append)
    assert sum(sizes) == left.bytes_left
    assert sizes.count(0) == 3
    assert data_of(there) == data_of(here)
    assert list(Artifact.load(there.child(FOLDER)).verify()) == []


def test_a_damaged_file_never_arrives(here, there):
    many(here)
    here.write(f"{FOLDER}/data/00004.tar", b"\xff" * 1004)
    with pytest.raises(DataError, match=r"here/.*00004\.tar is not as its manifest says"):
        copy_artifact(here, there, FOLDER, lambda number: None)
    assert not there.exists(f"{FOLDER}/data/00004.tar") and not there.exists(f"{FOLDER}/{MANIFEST}")


def test_a_damaged_piece_never_arrives(here, there):
    many(here)
    piece = here.read(f"{FOLDER}/pieces/00000.jsonl")
    here.write(f"{FOLDER}/pieces/00000.jsonl", piece.replace(b'"bytes":1001', b'"bytes":1009'))
    with pytest.raises(DataError, match=r"pieces/00000\.jsonl is not as its manifest says"):
        copy_artifact(here, there, FOLDER, lambda number: None)
    assert not there.exists(f"{FOLDER}/{MANIFEST}")


def test_nothing_is_overwritten(here, there):
    made = many(here)
    there.write(f"{FOLDER}/data/00003.tar", b"mine")
    with pytest.raises(DataError, match="another file than the manifest names"):
        copy_artifact(here, there, FOLDER, lambda number: None)
    assert there.read(f"{FOLDER}/data/00003.tar") == b"mine"
    other = Artifact.load(here.child(FOLDER)).manifest.to_json() | {"metrics": {"acc": 0.5}}
    there.write(f"{FOLDER}/{MANIFEST}", json.dumps(other).encode())
    for call in (lambda: plan_copy(here, there, FOLDER), lambda: copy_artifact(here, there, FOLDER, print)):
        with pytest.raises(DataError, match="same identity with other results"):
            call()
    assert json.loads(there.read(f"{FOLDER}/{MANIFEST}"))["metrics"] == {"acc": 0.5}
    assert made.metrics == {}


def test_a_run_that_makes_the_same_artifact_is_not_disturbed(here, tmp_path):
    many(here)
    there = LocalStore(tmp_path / "there")
    lease = Lease.acquire(there.child(FOLDER), beat_s=0.1)
    with pytest.raises(LeaseHeld):
        copy_artifact(here, there, FOLDER, lambda number: None)
    lease.check()
    lease.release()


def test_adopted_files_stay_where_they_are(here, tmp_path, clipline):
    from pipelines import adopt
    from workflows.stage import Stage, Workflow

    (tmp_path / "words.txt").write_text("a\n")
    mine = Stage("mine", adopt.run, adopt.Config(path=str(tmp_path / "words.txt"), contents="metadata"))
    workflow = Workflow("adopting", (mine,))
    manifest = many(here, mine.folder)
    values = {"digest": mine.digest, "stage": "mine", "location": mine.config.location(), "pieces": []}
    path = next(iter(mine.config.files))
    values["files"] = [File(path, 2)]
    adopted = type(manifest)(**{**{key: getattr(manifest, key) for key in manifest.__struct_fields__}, **values})
    here.delete(mine.folder)
    here.write(f"{mine.folder}/{MANIFEST}", adopted.to_bytes())
    shown = clipline("export", "mine", str(tmp_path / "there"))
    assert f"its files stay at {tmp_path}/words.txt" in shown.stdout
    there = LocalStore(tmp_path / "there")
    assert list(data_of(there)) == [f"{mine.folder}/{MANIFEST}"]
    assert replace(make_plan(workflow, there)["mine"], drifted={}).action == "cached"


def test_a_root_is_not_copied_to_itself(here, clipline):
    many(here)
    assert "both roots are the same" in clipline("export", "many", here.url, code=2).stderr
