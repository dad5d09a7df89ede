"""The journal loses no event but one a crash cut short, and keeps no secret."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.store.storage import LocalStore, open_store
from workflows.run.journal import Journal

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
EVENTS = st.lists(
    st.builds(
        lambda kind, fields: {"event": kind, **fields},
        st.sampled_from(["log", "progress"]),
        st.dictionaries(TEXT.map(lambda key: f"x{key}"), st.integers() | TEXT | st.lists(TEXT, max_size=3), max_size=3),
    ),
    max_size=5,
)


@pytest.fixture(params=["local", "object"])
def store(request, tmp_path):
    return LocalStore(tmp_path) if request.param == "local" else open_store(f"memory://journal-{tmp_path.name}")


def test_events_come_back_in_order(store):
    journal = Journal(store)
    journal.append([{"event": "a", "n": 1}, {"event": "b", "text": "two\nlines\r\n\x85\u2028"}])
    journal.append([])
    journal.append([{"event": "c"}])
    events, position = journal.read()
    assert [event["event"] for event in events] == ["a", "b", "c"]
    assert events[1]["text"] == "two\nlines\r\n\x85\u2028"
    assert journal.read(position) == ([], position)


def test_a_reader_goes_on_where_it_was(store):
    journal, seen, position = Journal(store), [], 0
    for n in range(10):
        journal.append([{"event": "e", "n": 2 * n}, {"event": "e", "n": 2 * n + 1}])
        events, position = Journal(store).read(position)
        seen += [event["n"] for event in events]
    assert seen == list(range(20))


def test_a_journal_that_does_not_exist_is_empty(store):
    assert Journal(store).read() == ([], 0)


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_a_line_cut_short_by_a_crash_costs_only_itself(tmp_path, cut):
    journal, file = Journal(LocalStore(tmp_path)), tmp_path / Journal.PATH
    journal.append([{"event": "whole"}])
    before = file.stat().st_size
    journal.append([{"event": "torn", "text": "ä" * 10}])
    with file.open("r+b") as handle:
        handle.truncate(before + cut)
    assert [event["event"] for event in journal.read()[0]] == ["whole"]
    _, position = journal.read()
    journal.append([{"event": "next"}])
    assert [event["event"] for event in journal.read()[0]] == ["whole", "next"]
    assert [event["event"] for event in journal.read(position)[0]] == ["next"]


def test_lines_that_are_no_events_are_passed_over(tmp_path):
    (tmp_path / Journal.PATH).write_bytes(b'\xff\xfe\n{"no": "event"}\n[1]\n3\nnull\n{"event": "a"}\n{"event":')
    assert Journal(LocalStore(tmp_path)).read()[0] == [{"event": "a"}]


@pytest.mark.parametrize(
    "event",
    [
        {"event": "log", "message": 'token=abc"'},
        {"event": "log", "message": "password: hunter2\n}", "n": 1},
        {"event": "log", "api_key": "hunter2", "next": [1, 2]},
        {"event": "log", "config": {"secret": {"a": "hunter2"}}, "url": "https://u:hunter2@h/"},
        {"event": "log", "message": json.dumps({"token": 'a"b', "n": 1})},
        {"event": "log", "path": Path("/x?token=hunter2")},
    ],
    ids=str,
)
def test_secrets_are_masked_and_the_line_is_still_json(tmp_path, event):
    journal = Journal(LocalStore(tmp_path))
    journal.append([event, {"event": "after"}])
    text = (tmp_path / Journal.PATH).read_text()
    assert not any(secret in text for secret in ("hunter2", "abc", 'a\\"b'))
    masked, after = journal.read()[0]
    assert masked.keys() == event.keys()
    assert after == {"event": "after"}


def test_numbers_of_numpy_stay_numbers(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    values = {"loss": np.float32(0.5), "n": np.int64(3), "worst": math.inf, "array": np.array(2.0)}
    journal.append([{"event": "metrics", "values": values}])
    assert journal.read()[0][0]["values"] == {"loss": 0.5, "n": 3, "worst": math.inf, "array": 2.0}


@settings(max_examples=50)
@given(batches=st.lists(EVENTS, max_size=4))
def test_whatever_goes_in_comes_out(batches, tmp_path_factory):
    journal = Journal(LocalStore(tmp_path_factory.mktemp("journal")))
    for batch in batches:
        journal.append(batch)
    found, _ = journal.read()
    assert [event["event"] for event in found] == [event["event"] for batch in batches for event in batch]
    assert [event.keys() for event in found] == [event.keys() for batch in batches for event in batch]
