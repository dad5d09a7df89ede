"""What a person sees of a run: a line per thing that matters, the same from any event order, on stderr only."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from workflows.cli.console import Watcher, print_json, seconds

EVENTS = [
    {"event": "run_started", "run": "toy-1"},
    {"event": "stage_cached", "stage": "crawl"},
    {"event": "stage_started", "stage": "filter", "attempt": 1, "why": ["size: 3 -> 4", "continues: 2 shards"]},
    {"event": "progress", "stage": "filter", "done": 1, "total": 3, "rows_per_s": 1234.5},
    {"event": "progress", "stage": "filter", "done": 2, "total": None},
    {"event": "shard_retry", "stage": "filter", "shard": "00001", "error": "TransientError('busy')"},
    {"event": "log", "stage": "filter", "level": "INFO", "message": "not shown"},
    {"event": "log", "stage": "filter", "level": "WARNING", "message": "[red]as it is[/red]"},
    {"event": "stage_failed", "stage": "filter", "error": "TransientError: busy", "will_retry": True},
    {"event": "stage_started", "stage": "filter", "attempt": 2, "why": ["size: 3 -> 4"]},
    {
        "event": "stage_finished",
        "stage": "filter",
        "seconds": 3.21,
        "funnel": {"kept": 1200, "entered": 3400, "unit": "images"},
    },
    {
        "event": "stage_finished",
        "stage": "download",
        "seconds": 1.0,
        "funnel": {"kept": 0, "entered": 34, "unit": "pairs"},
    },
    {"event": "stage_started", "stage": "eval", "attempt": 1, "why": ["not done yet"]},
    {"event": "progress", "stage": "eval", "done": 3, "total": 9, "eta_s": 185.4},
    {
        "event": "stage_finished",
        "stage": "eval",
        "seconds": 65,
        "metrics": {"acc1": 0.8125, "acc1_low": 0.7, "acc1_high": 0.9, "recall_at_5": 0.5},
    },
    {"event": "stage_failed", "stage": "test", "error": "DataError: no shards\n  found: /data\n  fix: look there"},
    {"event": "stage_failed", "stage": "train", "error": "stop", "preempted": True},
    {"event": "something_new", "stage": "eval"},
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
        "  download    nothing was kept: clipline show download tells why; once mended, --force download does it again",
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
        watcher([{"event": "stage_cached", "stage": stage}])
    assert out.getvalue().splitlines() == ["  train               cached", "  retrieval_captions  cached"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (185.4, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_are_for_people(value, text):
    assert seconds(value) == text


def test_json_for_programs_is_json(capsys):
    print_json({"a": [1.5, math.nan, {"b": -math.inf}], "c": (1,)})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None, {"b": None}], "c": [1]}
