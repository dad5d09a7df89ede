"""What a person sees of a run: a line per thing that matters, the same from any event order, on stderr only."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from infra.events import (
    Custom,
    Log,
    Progress,
    RunFinished,
    RunStarted,
    ShardRetry,
    StageCached,
    StageFailed,
    StageFinished,
    StageStarted,
    Unknown,
)
from infra.tracking import Address
from workflows.cli.console import Watcher, detail, print_json, seconds
from workflows.cli.result import show_address


def finished(stage, took, **result):
    return StageFinished(stage=stage, attempt=1, seconds=took, folder=f"artifacts/{stage}/0", **result)


EVENTS = [
    RunStarted(run="toy-1", recipe="toy.py"),
    StageCached(stage="crawl", folder="artifacts/crawl/0"),
    StageStarted(stage="filter", attempt=1, digest="d", config={}, why=["size: 3 -> 4", "continues: 2 shards"]),
    Progress(stage="filter", done=1, total=3, numbers={"rows_per_s": 1234.5}),
    Progress(stage="filter", done=2),
    ShardRetry(stage="filter", shard="00001", attempt=1, error="TransientError('busy')"),
    Log(stage="filter", level="INFO", message="not shown"),
    Log(stage="filter", level="WARNING", message="[red]as it is[/red]"),
    StageFailed(stage="filter", attempt=1, error="TransientError: busy", will_retry=True),
    StageStarted(stage="filter", attempt=2, digest="d", config={}, why=["size: 3 -> 4"]),
    finished("filter", 3.21, funnel={"kept": 1200, "entered": 3400, "unit": "images"}),
    finished("download", 1.0, funnel={"kept": 0, "entered": 34, "unit": "pairs"}),
    StageStarted(stage="eval", attempt=1, digest="d", config={}, why=["not done yet"]),
    Progress(stage="eval", done=3, total=9, numbers={"eta_s": 185.4}),
    finished("eval", 65.0, metrics={"acc1": 0.8125, "acc1_low": 0.7, "acc1_high": 0.9, "recall_at_5": 0.5}),
    StageFailed(stage="test", attempt=1, error="DataError: no shards\n  found: /data\n  fix: look there"),
    StageFailed(stage="train", attempt=1, error="stop", preempted=True),
    Unknown(name="something_new", stage="eval"),
    Custom(name="note", stage="eval", fields={"text": "not shown"}),
]


def watch(events, **settings):
    out = io.StringIO()
    console = Console(file=out, width=200, **settings)
    with Watcher(console, ["crawl", "filter"]).live() as watcher:
        for event in events:
            watcher([event])
    return out.getvalue()


def test_without_a_terminal_there_is_a_plain_line_per_thing_that_matters():
    assert [line.rstrip() for line in watch(EVENTS).splitlines()] == [
        "  crawl       cached",
        "  filter      started: size: 3 -> 4; continues: 2 shards",
        "  filter      1/3  rows_per_s 1,234",
        "  filter      shard 00001 is tried again: TransientError('busy')",
        "  filter      [red]as it is[/red]",
        "  filter      failed: TransientError: busy; trying again",
        "  filter      started (attempt 2): size: 3 -> 4",
        "  filter      done in 3.2 s: 1,200 of 3,400 images kept",
        "  download    done in 1.0 s: 0 of 34 pairs kept",
        "  download    nothing was kept: clipline show download says why; once fixed, --force download runs it again",
        "  eval        started: not done yet",
        "  eval        3/9  eta 3 min 05 s",
        "  eval        done in 1 min 05 s: acc1 0.812, recall_at_5 0.5",
        "  test        failed: DataError: no shards",
        "  train       stopped; what is committed is kept",
    ]


def test_on_a_terminal_progress_is_live_and_what_happened_stays():
    shown = watch(EVENTS, force_terminal=True)
    for words in ("done in 3.2 s", "trying again", "acc1 0.812", "stopped;"):
        assert words in shown
    assert "started: not done yet" not in shown  # the bar says so


def test_long_names_stay_apart_from_what_is_said_of_them():
    out = io.StringIO()
    watcher = Watcher(Console(file=out, width=200), ["train", "retrieval_captions"])
    for stage in ("train", "retrieval_captions"):
        watcher([StageCached(stage=stage, folder="")])
    assert out.getvalue().splitlines() == ["  train               cached", "  retrieval_captions  cached"]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (EVENTS[2], "size: 3 -> 4; continues: 2 shards"),
        (finished("filter", 65.0), "1 min 05 s"),
        (
            StageFailed(stage="a", attempt=1, error="ValueError: x", trace="Traceback\nValueError: x"),
            "Traceback\nValueError: x",
        ),
        (StageFailed(stage="a", attempt=1, error="abandoned"), "abandoned"),
        (Log(stage="a", level="INFO", message="hello"), "hello"),
        (RunFinished(run="r", status="done", exit_code=0, seconds=1.0), "done"),
        (Custom(stage="a", name="note", fields={"pages": 3, "host": "x.example"}), "pages 3  host x.example"),
        (EVENTS[1], ""),
    ],
    ids=lambda value: value.kind if not isinstance(value, str) else "",
)
def test_a_line_of_the_log_says_what_the_event_is_about(event, text):
    assert detail(event) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (185.4, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_are_for_people(value, text):
    assert seconds(value) == text


def test_json_for_programs_is_json(capsys):
    print_json({"a": [1.5, math.nan, {"b": -math.inf}], "c": (1,)})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None, {"b": None}], "c": [1]}


def test_a_root_with_brackets_is_printed_as_it_is():
    out = Console(file=io.StringIO(), width=40)
    show_address(Address("sqlite:////data/[x] [bold]/mlflow.db"), "http://127.0.0.1:5000/[y]", out)
    command = "mlflow server --backend-store-uri 'sqlite:////data/[x] [bold]/mlflow.db' --workers 1 --port 5000"
    assert out.file.getvalue().splitlines() == [f"See it in MLflow:  {command}", "http://127.0.0.1:5000/[y]"]
