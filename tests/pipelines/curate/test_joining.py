"""Vectors that others made, in shards of their own, against a plain dictionary by uid; killed anywhere."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_clip import adopted

from infra.cluster import Limits
from infra.errors import DataError
from infra.formats.vectors import read_vectors, unit, vector_shards
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import adopt
from pipelines.curate import joining
from pipelines.curate.joining import joined, joined_inputs

ROWS, WIDTH = 120, 5
SHARDS = ("00000000", "00001", "b")  # as others name theirs; our own are 00000 and on


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    monkeypatch.setattr(joining, "_ROWS", 20)


@pytest.fixture
def selection(tmp_path):
    """Kept rows in three shards, the second of which has rows that no vector is for."""
    context = Context(tmp_path / "selection")
    for shard, numbers in enumerate((range(50), range(200, 220), range(50, ROWS))):
        context.output.write_table(f"data/kept-{shard:05d}.parquet", pa.table({"uid": [uid(row) for row in numbers]}))
    return Artifact(context.store, context.finish())


def uid(row):
    return f"{row:032x}"


def write_theirs(folder, seed=0, captions=True):
    """Embeddings in no order, one shard of them in float32; the vectors and those of the captions of each row.

    Some rows stand in two shards with other vectors; some are of no image that is asked for, some images have none.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir()
    rows = np.r_[rng.permutation(np.r_[10:ROWS, 300:340]), rng.integers(10, ROWS, 15)]
    truth = {}
    for shard, numbers in zip(SHARDS, np.array_split(rows, len(SHARDS)), strict=True):
        kind = np.float32 if shard == "b" else np.float16
        counts = rng.integers(0, 4, len(numbers)) if captions else np.ones(len(numbers), int)
        images, texts = (3 * rng.normal(size=(n, WIDTH)).astype(kind) for n in (len(numbers), counts.sum()))
        table = pa.table({"uid": [uid(row) for row in numbers]})
        if captions:
            table = table.append_column("captions", pa.array(counts.astype(np.int32)))
        pq.write_table(table, folder / f"{shard}.parquet")
        np.savez(folder / f"{shard}.npz", l14_img=images, l14_txt=texts, other_img=-images, other_txt=-texts)
        for row, image, own in zip(numbers, images, np.split(texts, np.cumsum(counts)[:-1]), strict=True):
            truth.setdefault(uid(row), (image, own))
    return truth


@pytest.mark.parametrize("captions", [True, False])
def test_rows_find_their_vectors(tmp_path, selection, captions):
    truth = write_theirs(tmp_path / "theirs", captions=captions)
    inputs = {"selection": selection, "vectors": adopted(tmp_path / "theirs", adopt.Embeddings(), tmp_path / "adopted")}
    context = Context(tmp_path / "stage")
    found = joined(context, Limits(), inputs, "vectors", "l14")
    assert vector_shards(found) == ["00000", "00001", "00002"]
    seen = []
    for shard, numbers in enumerate((range(50), range(200, 220), range(50, ROWS))):
        vectors = read_vectors(found.store, f"{shard:05d}", "l14")
        assert vectors.uids == [uid(row) for row in numbers if uid(row) in truth]
        own = [truth[one] for one in vectors.uids]
        if own:
            np.testing.assert_array_equal(vectors.images, unit(np.array([image for image, _ in own])))
            np.testing.assert_array_equal(vectors.texts, unit(np.concatenate([texts for _, texts in own])))
            np.testing.assert_array_equal(
                vectors.row_of, np.repeat(np.arange(len(own)), [len(texts) for _, texts in own])
            )
        seen += vectors.uids
    assert len(seen) == ROWS - 10


def test_what_was_joined_goes_when_it_was_used_and_stays_for_another_attempt(tmp_path, selection):
    write_theirs(tmp_path / "theirs")
    inputs = {"selection": selection, "vectors": adopted(tmp_path / "theirs", adopt.Embeddings(), tmp_path / "adopted")}
    context = Context(tmp_path / "stage")
    with pytest.raises(ZeroDivisionError), joined_inputs(context, Limits(), inputs, ["vectors"], "l14"):
        raise ZeroDivisionError
    assert len(list(context.store.paths("joined"))) == 6
    with joined_inputs(context, Limits(), inputs, ["vectors"], "l14") as found:
        assert found["selection"] is selection and vector_shards(found["vectors"]) == ["00000", "00001", "00002"]
    assert [path for path in context.store.paths() if not path.startswith("ledger/")] == []
    with joined_inputs(context, Limits(), inputs, [], None) as found:
        assert found == inputs


def test_vectors_of_two_lengths_are_refused(tmp_path, selection):
    write_theirs(tmp_path / "theirs")
    arrays = dict(np.load(tmp_path / "theirs/b.npz"))
    np.savez(tmp_path / "theirs/b.npz", **{name: np.tile(array, 2) for name, array in arrays.items()})
    theirs = adopted(tmp_path / "theirs", adopt.Embeddings(), tmp_path / "adopted")
    with pytest.raises(DataError, match=r"\[5, 10\] numbers"):
        joined(Context(tmp_path / "stage"), Limits(), {"selection": selection, "vectors": theirs}, "vectors", "l14")


def test_rows_of_theirs_without_an_id_are_nobodys(tmp_path, selection):
    truth = write_theirs(tmp_path / "theirs")
    table = pq.read_table(tmp_path / "theirs/b.parquet")
    ids = [None, *table["uid"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "uid", pa.array(ids)), tmp_path / "theirs/b.parquet")
    theirs = adopted(tmp_path / "theirs", adopt.Embeddings(), tmp_path / "adopted")
    inputs = {"selection": selection, "vectors": theirs}
    found = joined(Context(tmp_path / "stage"), Limits(), inputs, "vectors", "l14")
    uids = [uid for shard in vector_shards(found) for uid in read_vectors(found.store, shard, "l14").uids]
    assert len(uids) == len(truth) - 40 - 1 and None not in uids


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path, selection, killed_until_done):
    write_theirs(tmp_path / "theirs")
    theirs = adopted(tmp_path / "theirs", adopt.Embeddings(), tmp_path / "adopted")

    def written(folder):
        context = Context(folder)
        joined(context, Limits(), {"selection": selection, "vectors": theirs}, "vectors", "l14")
        return {path: context.store.read(path) for path in context.store.paths("joined")}

    undisturbed = written(tmp_path / "undisturbed")
    assert len(undisturbed) == 6
    assert killed_until_done(lambda: written(tmp_path / "killed")) == undisturbed


def test_tasks_on_a_cluster_write_the_same(tmp_path, selection, monkeypatch, ray_cluster):
    write_theirs(tmp_path / "theirs")
    inputs = {"selection": selection, "vectors": adopted(tmp_path / "theirs", adopt.Embeddings(), tmp_path / "adopted")}

    def written(folder, limits):
        context = Context(folder)
        joined(context, limits, inputs, "vectors", "l14")
        return {path: context.store.read(path) for path in context.store.paths("joined")}

    here = written(tmp_path / "here", Limits())
    monkeypatch.setattr(joining, "_SMALL", 0)
    for workers in (1, 3):
        assert written(tmp_path / f"{workers}", Limits(cpus=0.5, in_flight=workers)) == here
