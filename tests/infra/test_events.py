"""An event reads back as itself, and the journal of another version can be read too."""

from __future__ import annotations

import json
import pickle

import pytest

from infra import events
from infra.events import (
    Collapsed,
    Custom,
    Event,
    Gate,
    Log,
    Metrics,
    Progress,
    RunArtifact,
    RunFinished,
    RunStarted,
    ShardRetry,
    StageCached,
    StageFailed,
    StageFile,
    StageFinished,
    StageImage,
    StageStarted,
    StopRequested,
    TrainRetry,
    TrainStart,
    Unknown,
    from_json,
)

EVERY = [
    RunStarted(run="toy-1", recipe="toy.py", settings="size=3", commit="abc+"),
    RunArtifact(path="report.html"),
    StopRequested(),
    Gate(model="train", digest="d", name="clip", alias="best", checks=[{"metric": "acc", "passed": True}], passed=True),
    RunFinished(run="toy-1", status="done", exit_code=0, seconds=3.5, note="| a |"),
    StageStarted(stage="crawl", attempt=2, digest="d", config={"stage": "crawl"}, forced=True, why=["forced"]),
    StageCached(stage="crawl", folder="artifacts/crawl/0", inputs={"pages": "artifacts/a/0"}),
    StageFinished(stage="crawl", seconds=1.5, attempt=1, folder="f", funnel={"unit": "pages"}, metrics={"a": 0.5}),
    StageFailed(stage="crawl", attempt=1, error="ValueError: x", trace="...", will_retry=True, seconds=0.5),
    Progress(stage="crawl", done=3, total=None, numbers={"images_per_s": 2.5, "at": "img.example 4"}),
    Metrics(stage="train", values={"loss": 0.5}, step=100),
    Log(stage="train", level="INFO", message="hello", logger="training"),
    ShardRetry(stage="crawl", shard="00001", attempt=1, error="TransientError('busy')", wait_s=0.7),
    StageFile(stage="train", folder="s3://bucket/train", path="profile/trace.json.gz"),
    StageImage(stage="train", folder="s3://bucket/train", path="validation/8/a.png", name="seen errors", step=8),
    TrainStart(stage="train", samples=0, workers=2),
    TrainRetry(stage="train", error="lost a worker", samples=-1),
    Collapsed(stage="train", sign="image", value=0.9999, samples=640, message="all alike"),
    Custom(stage="mine", name="note", fields={"text": "x", "name": "also a field"}),
    Unknown(name="from_the_future", fields={"n": 1, "name": "also a field"}),
    Unknown(name="from_the_future", stage="crawl"),
]


def kinds(base: type[Event]) -> set[str]:
    return {base.KIND}.union(*(kinds(child) for child in base.__subclasses__()))


def test_every_kind_is_in_this_test():
    assert {event.KIND for event in EVERY} == kinds(Event)


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_an_event_reads_back_as_itself(event):
    assert from_json(json.loads(json.dumps(event.to_json()))) == event
    assert pickle.loads(pickle.dumps(event)) == event


def test_the_line_of_an_event_is_flat():
    assert Progress(time=1.0, stage="crawl", done=3, total=10, numbers={"images_per_s": 2.5}).to_json() == {
        "event": "progress",
        "time": 1.0,
        "stage": "crawl",
        "done": 3,
        "total": 10,
        "images_per_s": 2.5,
    }
    assert "stage" not in RunArtifact(path="report.html").to_json()


def test_a_stage_s_own_kind_never_passes_for_one_of_clipline_s():
    mine = Custom(stage="mine", name="metrics", fields={"values": "none of yours", "step": 1})
    assert from_json(mine.to_json()) == mine


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ({"event": "progress", "stage": "crawl"}, Unknown(time=0.0, name="progress", stage="crawl")),
        ({"event": "progress", "done": 1}, Unknown(time=0.0, name="progress", fields={"done": 1})),
        ({"event": "note", "custom": True}, Unknown(time=0.0, name="note")),
        ({"event": "run_artifact", "time": 2.0, "path": "x", "new": 1}, RunArtifact(time=2.0, path="x")),
        ({"event": 3}, Unknown(time=0.0, name="3")),
    ],
    ids=str,
)
def test_what_another_version_wrote_can_be_read(line, event):
    assert from_json(line) == event


def test_only_clipline_s_kinds_are_built_in():
    assert events.is_built_in("train_retry")
    assert not events.is_built_in("note")
    assert not events.is_built_in("")
