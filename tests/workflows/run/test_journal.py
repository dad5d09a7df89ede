"""The journal loses no event but one a crash cut short, and keeps no secret."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from infra.errors import redact_values
from infra.events import Custom, Log, Metrics, Progress, RunFinished, RunStarted, Unknown
from infra.store import LocalStore, open_store
from workflows.run.journal import Journal, shared

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.dictionaries(TEXT.map(lambda key: f"x{key}"), st.integers() | TEXT | st.lists(TEXT, max_size=3), max_size=3)
EVENTS = st.lists(
    st.builds(Log, stage=st.just("crawl"), level=st.just("INFO"), message=TEXT)
    | st.builds(Progress, stage=st.just("crawl"), done=st.integers(0), total=st.none() | st.integers(0), numbers=VALUES)
    | st.builds(Custom, stage=st.just("crawl"), name=TEXT.map(lambda name: f"x{name}"), fields=VALUES)
    | st.builds(Unknown, name=TEXT.map(lambda name: f"x{name}"), fields=VALUES),
    max_size=5,
)


def note(kind, **fields):
    return Custom(time=1.0, stage="crawl", name=kind, fields=fields)


@pytest.fixture(params=["local", "object"])
def store(request, tmp_path):
    return LocalStore(tmp_path) if request.param == "local" else open_store(f"memory://journal-{tmp_path.name}")


def test_events_come_back_in_order(store):
    journal = Journal(store)
    first = [note("a", n=1), note("b", text="two\nlines\r\n\x85\u2028")]
    journal.append(first)
    journal.append([])
    journal.append([note("c")])
    events, position = journal.read()
    assert events == [*first, note("c")]
    assert journal.read(position) == ([], position)


def test_a_reader_goes_on_where_it_was(store):
    journal, seen, position = Journal(store), [], 0
    for n in range(10):
        journal.append([note("e", n=2 * n), note("e", n=2 * n + 1)])
        events, position = Journal(store).read(position)
        seen += [event.fields["n"] for event in events]
    assert seen == list(range(20))


def test_who_follows_sees_at_once_what_this_process_appends_and_soon_what_others_do(store, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("workflows.run.journal.time", SimpleNamespace(monotonic=lambda: now[0]))
    journal, other = Journal(store), Journal(store)
    journal.append([note("a")])
    events, position = journal.follow(0)
    assert events == [note("a")]
    other.append([note("b")])
    assert journal.follow(position) == ([], position)
    assert journal.follow(0)[0] == [note("a"), note("b")]  # not where it was: what it got was not used
    journal.append([note("c")])
    assert journal.follow(position)[0] == [note("b"), note("c")]
    _, position = journal.follow(position)
    other.append([note("d")])
    now[0] += 11
    assert journal.follow(position)[0] == [note("d")]


def test_a_journal_that_does_not_exist_is_empty(store):
    assert Journal(store).read() == ([], 0)


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_a_line_cut_short_by_a_crash_costs_only_itself(tmp_path, cut):
    journal, file = Journal(LocalStore(tmp_path)), tmp_path / Journal.PATH
    journal.append([note("whole")])
    before = file.stat().st_size
    journal.append([note("torn", text="ä" * 10)])
    with file.open("r+b") as handle:
        handle.truncate(before + cut)
    assert [event.kind for event in journal.read()[0]] == ["whole"]
    _, position = journal.read()
    journal.append([note("next")])
    assert [event.kind for event in journal.read()[0]] == ["whole", "next"]
    assert [event.kind for event in journal.read(position)[0]] == ["next"]


def test_lines_that_are_no_events_are_passed_over(tmp_path):
    (tmp_path / Journal.PATH).write_bytes(b'\xff\xfe\n{"no": "event"}\n[1]\n3\nnull\n{"event": "a"}\n{"event":')
    assert Journal(LocalStore(tmp_path)).read()[0] == [Unknown(time=0.0, name="a")]


@pytest.mark.parametrize(
    "fields",
    [
        {"message": 'token=abc"'},
        {"message": "password: hunter2\n}", "n": 1},
        {"api_key": "hunter2", "next": [1, 2]},
        {"config": {"secret": {"a": "hunter2"}}, "url": "https://u:hunter2@h/"},
        {"message": json.dumps({"token": 'a"b', "n": 1})},
        {"path": Path("/x?token=hunter2")},
    ],
    ids=str,
)
def test_secrets_are_masked_and_the_line_is_still_json(tmp_path, fields):
    journal = Journal(LocalStore(tmp_path))
    journal.append([note("secret", **fields), note("after")])
    text = (tmp_path / Journal.PATH).read_text()
    assert not any(secret in text for secret in ("hunter2", "abc", 'a\\"b'))
    masked, after = journal.read()[0]
    assert masked.fields.keys() == fields.keys()
    assert after == note("after")


def test_numbers_of_numpy_stay_numbers(tmp_path):
    journal = Journal(LocalStore(tmp_path))
    values = {"loss": np.float32(0.5), "n": np.int64(3), "worst": math.inf, "array": np.array(2.0)}
    journal.append([Metrics(stage="train", values=values, step=1)])
    assert journal.read()[0][0].values == {"loss": 0.5, "n": 3, "worst": math.inf, "array": 2.0}


@settings(max_examples=50)
@given(batches=st.lists(EVENTS, max_size=4))
def test_whatever_goes_in_comes_out(batches, tmp_path_factory):
    values = [event.to_json() for batch in batches for event in batch]
    assume(redact_values(values) == values)  # what looks like a secret does not come out
    journal = Journal(LocalStore(tmp_path_factory.mktemp("journal")))
    for batch in batches:
        journal.append(batch)
    found, _ = journal.read()
    assert found == [event for batch in batches for event in batch]


@pytest.mark.parametrize(
    ("drivers", "others"),
    [("me", False), ("a A me", False), ("a me", True), ("me a", True), ("me a A", True), ("a A me b B", True)],
)
def test_a_run_with_two_drivers_is_known_by_its_journal(store, drivers, others):
    """A letter is the begin of another driver, its capital the end."""

    def event(number, word):
        ended = {"run": "r", "status": "done", "exit_code": 0, "seconds": 1.0}
        if word.isupper():
            return RunFinished(time=number, **ended)
        return RunStarted(time=number, run="r", recipe="r.py", settings="", commit="")

    events = {word: event(float(number), word) for number, word in enumerate(drivers.split())}
    journal = Journal(store)
    for one in events.values():
        journal.append([one])
    assert shared(journal.read()[0], events["me"]) == others
