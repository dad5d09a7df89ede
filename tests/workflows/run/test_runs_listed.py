"""A list of runs tells how each ended, what sets it apart and what came of it, from one file of each."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from committed import carry_out
from test_recipe import RECIPE

from infra.events import RunFinished, RunStarted, StageStarted
from infra.run.lease import Lease
from infra.run.manifest import MANIFEST
from infra.store import open_store
from workflows.recipe import load
from workflows.run.journal import Journal
from workflows.run.look import listing
from workflows.run.records import Ended, RunRecord


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(RECIPE)
    return open_store(tmp_path / "root")


def recorded(root, *settings):
    """A run on record as one that has begun."""
    workflow = load("toy.py").build(settings)
    record = RunRecord.of("toy.py", list(settings), workflow).save(root)
    Journal(root.child(f"runs/{record.run}")).append([RunStarted(run=record.run, recipe="toy.py")])
    return record, workflow


def ended(status="done", **facts):
    return Ended(status=status, at=2.0, seconds=1.0, stages_done=3, **facts)


def test_only_what_differs_from_the_recipe_is_a_parameter(root):
    settings = ["size=3", "fast=true", "second.size=256", "third.name=x", "third.web.agent=me"]
    record, _ = recorded(root, *settings)
    assert record.changed == {"fast": True, "third.name": "x", "third.web.agent": "me"}
    assert RunRecord.load(root, record.run).changed == record.changed
    assert recorded(root)[0].changed == {}


def test_a_secret_is_no_parameter(root):
    record, _ = recorded(root, "anything=https://me:hunter2@example.org/")
    assert "hunter2" not in root.read(f"runs/{record.run}/run.json").decode()


def test_a_run_that_ended_is_told_by_its_record_alone(root):
    first, _ = recorded(root, "size=5")
    first.end(root, ended(headline={"train.loss": 2.5, "zeroshot.acc1": 0.75}))
    second, _ = recorded(root, "size=6")
    second.end(root, ended("preempted"))
    root.delete(f"runs/{first.run}/journal.jsonl")
    rows = listing.runs(root)
    assert [(row.run, row.state, row.changed) for row in rows] == [
        (first.run, "done", {"size": 5}),
        (second.run, "stopped", {"size": 6}),
    ]
    assert list(rows[0].headline.items()) == [("train.loss", 2.5), ("zeroshot.acc1", 0.75)]
    assert rows[0].seconds == 1.0


def test_a_run_without_an_end_is_told_by_its_stages(root):
    record, workflow = recorded(root)

    def state():
        (row,) = listing.runs(root)
        return row.state

    assert state() == "waiting"
    Journal(root.child(f"runs/{record.run}")).append([StageStarted(stage="first", attempt=1, digest="d", config={})])
    lease = Lease.acquire(root.child(workflow["first"].folder), beat_s=60)
    assert state() == "running"
    lease.release()
    assert state() == "interrupted"
    carry_out(workflow, root)
    assert state() == "done"
    Journal(root.child(f"runs/{record.run}")).append(
        [RunFinished(run=record.run, status="failed", exit_code=1, seconds=1.0)]
    )
    assert state() == "failed"  # as the journal of an earlier version tells, whose record has no end
    record.save(root)  # begun again
    Journal(root.child(f"runs/{record.run}")).append([RunStarted(run=record.run, recipe="toy.py")])
    assert state() == "done"


def test_a_folder_without_a_record_is_no_run(root):
    root.write("runs/else/journal.jsonl", b"{}")
    record, _ = recorded(root)
    assert [row.run for row in listing.runs(root)] == [record.run]


@pytest.fixture
def requests(monkeypatch):
    """Every request that is sent to S3, as its method and path."""
    from aiobotocore.httpsession import AIOHTTPSession

    sent, send = [], AIOHTTPSession.send

    async def counted(self, request):
        sent.append(f"{request.method} {request.url.split('?')[0]}")
        return await send(self, request)

    monkeypatch.setattr(AIOHTTPSession, "send", counted)
    return sent


def test_a_list_takes_one_request_for_each_run(root, s3_url, requests):
    bucket = open_store(s3_url)
    for size in range(20):
        recorded(bucket, f"size={size}")[0].end(bucket, ended())
    recorded(bucket, "fast=true")[0].end(bucket, ended())
    requests.clear()
    assert len(listing.runs(bucket)) == 21
    assert len(requests) <= 21 + 2
    requests.clear()
    assert len(listing.runs(bucket, lambda name: name.startswith("else"))) == 0
    assert len(requests) <= 2


def test_artifacts_are_read_at_once_and_unfinished_ones_left_out(root, s3_url, requests):
    bucket = open_store(s3_url)
    for size in range(5):
        carry_out(load("toy.py").build([f"size={size + 10}"]), bucket, "first", "second")
    bucket.delete(f"{load('toy.py').build(['size=10'])['second'].folder}/{MANIFEST}")
    requests.clear()
    found = listing.artifacts(bucket)
    assert sorted(manifest.stage for _, manifest in found) == ["first"] * 5 + ["second"] * 4
    assert len(requests) <= 10 + 3 + 1
    assert all(json.loads(bucket.read(f"{folder}/{MANIFEST}"))["digest"] == one.digest for folder, one in found)
    assert {one.stage for _, one in listing.artifacts(bucket, ["second"])} == {"second"}


def test_a_start_forgets_the_end_before(root, monkeypatch):
    record, _ = recorded(root)
    record.end(root, ended())
    again = record.save(root)
    assert (again.ended, again.started <= time.time()) == (None, True)
    assert replace(listing.runs(root)[0], started=0.0).state == "waiting"
