"""What a stage is given: files that are counted, shards that are committed once, events that arrive."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import DataError, Preempted, UsageError
from infra.events import Custom, Metrics, Progress
from infra.run.context import Context, Ledger, Output, ShardOutput
from infra.run.manifest import Funnel
from infra.store import LocalStore, open_store


@pytest.fixture
def events():
    return []


@pytest.fixture
def context(tmp_path, events):
    return Context(tmp_path, stage="filter", digest="d" * 64, identity={"stage": "filter"}, emit=events.append)


def funnel(kept, **dropped):
    return Funnel(unit="rows", entered=kept + sum(dropped.values()), kept=kept, dropped=dropped)


# --- output


def test_output_records_what_it_wrote(context, tmp_path):
    context.output.write("data/a.bin", b"12345", rows=5)
    with context.output.open("data/b.bin") as out:
        out.write(b"6")
        out.write(b"7")
    first, second = context.output.files
    assert (first.path, first.bytes, first.rows) == ("data/a.bin", 5, 5)
    assert first.sha256 == hashlib.sha256(b"12345").hexdigest()
    assert (second.bytes, second.rows) == (2, None)
    assert (tmp_path / "data/b.bin").read_bytes() == b"67"


def test_a_file_that_failed_is_not_recorded(context):
    with pytest.raises(OSError, match="full"), context.output.open("data/a") as out:
        out.write(b"x")
        raise OSError("disk full")
    assert context.output.files == []
    context.output.write("data/a", b"x")
    assert len(context.output.files) == 1


def test_writing_a_file_twice_is_refused_before_anything_is_lost(context):
    context.output.write("data/a", b"first")
    with pytest.raises(DataError, match="data/a was written already"):
        context.output.write("data/a", b"second")
    assert context.store.read("data/a") == b"first"


def test_tables_are_byte_reproducible_parquet(tmp_path):
    table = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})
    written = []
    for name in ("one", "two"):
        output = Output(LocalStore(tmp_path / name))
        output.write_table("data/t.parquet", table)
        written.append(output.files[0])
    assert written[0] == written[1]
    assert written[0].rows == 3
    assert pq.read_table(tmp_path / "one/data/t.parquet").equals(table)


def test_a_figure_drawn_again_replaces_the_one_before(context, tmp_path):
    for png in (b"old", b"new"):
        context.figure("loss", png)
    assert (tmp_path / "figures/loss.png").read_bytes() == b"new"
    assert [(file.path, file.sha256) for file in context.finish().files] == [
        ("figures/loss.png", hashlib.sha256(b"new").hexdigest())
    ]


# --- shards


def test_only_the_sidecars_asked_for_are_read(context):
    for name in ("a", "b"):
        ShardOutput(context.store, name).commit()
    context.store.write("ledger/of-another-phase.json", b"not read")
    assert list(context.ledger.read(["b", "c"])) == ["b"]


@pytest.mark.parametrize("kind", ["local", "object"])
def test_a_shard_is_done_when_its_sidecar_is_there_and_not_before(tmp_path, kind):
    store = LocalStore(tmp_path) if kind == "local" else open_store(f"memory://context-{tmp_path.name}")
    output = ShardOutput(store, "00000")
    output.write("data/00000.tar", b"x", rows=1)
    assert Ledger(store).read() == {}
    record = output.commit(funnel(1, small=2), {"seen": 3})
    assert Ledger(store).read() == {"00000": record}
    assert (record.files, record.facts) == (output.files, {"seen": 3})


def test_nothing_of_ours_lies_beside_the_shards(tmp_path):
    """img2dataset takes every JSON file beside its shards for one of its own."""
    output = ShardOutput(LocalStore(tmp_path), "00000")
    output.write("data/00000.tar", b"x")
    output.commit()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["00000.tar"]


def test_a_sidecar_that_cannot_be_read_is_named(tmp_path):
    store = LocalStore(tmp_path)
    store.write("ledger/00007.json", b'{"shard": ')
    with pytest.raises(DataError, match=r"ledger/00007\.json is not a shardrecord"):
        Ledger(store).read()


# --- the manifest


def test_finish_lists_files_in_the_order_of_the_shards_and_adds_up_the_funnels(context):
    records = []
    for name in ("b", "a"):
        output = ShardOutput(context.store, name)
        output.write(f"data/{name}", name.encode())
        records.append(output.commit(funnel(1, **{f"drop_{name}": 2})))
    context.output.write("data/index", b"i")
    made = context.finish(records, metrics={"m": 1.0}, facts={"f": 1})
    assert [file.path for file in made.files] == ["data/b", "data/a", "data/index"]
    assert made.funnel == Funnel(unit="rows", entered=6, kept=2, dropped={"drop_a": 2, "drop_b": 2})
    assert (made.stage, made.digest, made.identity) == ("filter", "d" * 64, {"stage": "filter"})
    assert (made.metrics, made.facts) == ({"m": 1.0}, {"f": 1})


def test_a_funnel_given_counts_more_than_those_of_the_shards(context):
    record = ShardOutput(context.store, "a").commit(funnel(1))
    assert context.finish([record], funnel=funnel(5)).funnel == funnel(5)
    assert context.finish([]).funnel is None


def test_two_shards_that_wrote_the_same_file_are_refused(context):
    records = []
    for name in ("a", "b"):
        output = ShardOutput(context.store, name)
        output.write("data/same", b"")
        records.append(output.commit())
    with pytest.raises(DataError, match="same file"):
        context.finish(records)


# --- events and stopping


def test_events_carry_stage_and_time(context, events):
    context.progress(3, 10, images_per_s=2.5)
    context.metrics({"loss": 0.5}, step=100)
    context.emit("note", text="x")
    assert all(event.stage == "filter" and event.time > 0 for event in events)
    assert [replace(event, time=1.0) for event in events] == [
        Progress(stage="filter", time=1.0, done=3, total=10, numbers={"images_per_s": 2.5}),
        Metrics(stage="filter", time=1.0, values={"loss": 0.5}, step=100),
        Custom(stage="filter", time=1.0, name="note", fields={"text": "x"}),
    ]


@pytest.mark.parametrize(("kind", "fields"), [("progress", {}), ("note", {"stage": "x"}), ("note", {"event": "x"})])
def test_a_stage_cannot_emit_what_would_be_mistaken_for_clipline_s_own(context, events, kind, fields):
    with pytest.raises(UsageError):
        context.emit(kind, **fields)
    assert events == []


def test_metrics_are_numbers_whatever_they_were(context, events):
    import torch

    context.metrics({"a": np.float32(0.5), "b": torch.tensor(2.0), "c": 1}, step=np.int64(7))
    line = json.loads(json.dumps(events[0].to_json()))
    assert (line["values"], line["step"]) == ({"a": 0.5, "b": 2.0, "c": 1.0}, 7)


def test_a_stage_asked_to_stop_is_told_at_its_next_check(tmp_path):
    asked = False
    context = Context(tmp_path, stage="train", stopping=lambda: asked)
    context.check()
    assert not context.stopping
    asked = True
    assert context.stopping
    with pytest.raises(Preempted, match="train was asked to stop"):
        context.check()


def test_alone_a_context_needs_only_a_folder(tmp_path):
    context = Context(tmp_path)
    context.progress(1, 2)
    context.check()
    assert context.local
    assert not Context("memory://alone").local
    assert context.finish().files == []


def test_what_killed_writers_left_behind_is_swept_up(tmp_path):
    context = Context(tmp_path)
    context.output.write("data/a", b"1")
    for folder in ("data", "ledger"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / ".tmp-b.01234567").write_bytes(b"half")
    context.finish()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]
