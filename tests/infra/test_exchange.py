"""The exchange against a plain group-by: any number of parts and workers, killed tasks, and what a stage may not do."""

import os
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.cluster import Limits
from infra.errors import DataError
from infra.exchange import UP, Exchange, parts_of
from infra.run.context import Context


@pytest.fixture(autouse=True, scope="module")
def workers_can_import_this():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


TEXTS = ["a rose is a rose", "", "is a rose", "the end"]


def words(parts, task):
    found = pa.table({"word": pa.array(task.spec.split(), pa.string())})
    to = np.array([len(word) % parts for word in task.spec.split()], np.int64)
    task.send("words", found, to)


def count(task):
    rows = task.receive("words", [("word", UP)])
    task.output.write("data/" + task.output.shard, repr(rows["word"].to_pylist()).encode())
    task.facts["counts"] = dict(Counter(rows["word"].to_pylist()))


def killed_once(mark: Path, task):
    """``count``, whose worker is killed in the middle of its first task."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    count(task)


def counted(folder, parts, work=count, **options):
    context = Context(folder)
    exchange = Exchange(context, Limits(), **options)
    exchange.step("read", TEXTS, partial(words, parts), sends={"words": parts})
    assert len(context.store.paths("exchange")) == len(TEXTS)
    records = exchange.step("count", range(parts), work, receives=["words"])
    assert not context.store.paths("exchange")
    return sum((Counter(record.facts["counts"]) for record in records), Counter()), context


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_it_groups_as_a_counter_does(tmp_path, parts):
    assert counted(tmp_path, parts, here=True)[0] == Counter(" ".join(TEXTS).split())


def test_on_the_cluster_bytes_are_the_same(ray_cluster, tmp_path):
    def content(name, work=count, **options):
        found, context = counted(tmp_path / name, 3, work, **options)
        return found, {path: context.store.read(path) for path in context.store.paths("")}

    here = content("here", here=True)
    assert content("cluster") == here
    assert content("killed", partial(killed_once, tmp_path / "mark")) == here


def test_a_killed_stage_goes_on_after_the_last_committed_task(tmp_path):
    done = []

    def fragile(task):
        if task.number == 1 and "killed" not in done:
            done.append("killed")
            raise KeyboardInterrupt
        done.append(task.number)
        count(task)

    def run():
        exchange = Exchange(Context(tmp_path), Limits(), here=True)
        exchange.step("read", TEXTS, partial(words, 3), sends={"words": 3})
        return exchange.step("count", range(3), fragile, receives=["words"])

    with pytest.raises(KeyboardInterrupt):
        run()
    first = list(done)
    records = run()
    assert first == [0, "killed"]
    assert done[2:] == [1, 2]
    assert sum((Counter(record.facts["counts"]) for record in records), Counter()) == Counter(" ".join(TEXTS).split())


def test_what_is_wrong_is_named(tmp_path):
    exchange = Exchange(Context(tmp_path), Limits(), here=True)
    with pytest.raises(DataError, match="sent nothing to words"):
        exchange.step("silent", [0], lambda task: None, sends={"words": 2})

    def twice(task):
        for _ in range(2):
            task.send("words", pa.table({"a": [1]}), np.zeros(1, np.int64))

    with pytest.raises(DataError, match="twice"):
        exchange.step("twice", [0], twice, sends={"words": 2})

    def beyond(task):
        task.send("words", pa.table({"a": [1]}), np.full(1, 2))

    with pytest.raises(DataError, match="2 receivers"):
        exchange.step("beyond", [0], beyond, sends={"words": 2})
    exchange.step("read", TEXTS, partial(words, 3), sends={"words": 3})
    with pytest.raises(DataError, match="count has 2 tasks, words 3 receivers"):
        exchange.step("count", range(2), count, receives=["words"])


def test_parts_depend_on_rows_alone():
    assert [parts_of(rows, 10) for rows in (0, 1, 10, 11, 100)] == [1, 1, 1, 2, 10]
