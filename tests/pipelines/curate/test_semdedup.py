"""SemDeDup against brute force, its clusters against scikit-learn, and the same bytes whatever happens on the way."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from infra.cluster import Limits
from infra.errors import ConfigError, DataError
from infra.formats.vectors import write_vectors
from infra.run.context import Context, Output
from infra.run.manifest import Artifact
from infra.store import LocalStore
from pipelines.curate import semdedup
from pipelines.curate.semdedup.clusters import nearest
from pipelines.curate.semdedup.work import most_similar_before
from pipelines.curate.vectors import packed, unpacked
from pipelines.tables import read_table

pytestmark = pytest.mark.long  # runs the stage again and again

ROWS, WIDTH = 2000, 32


def directions(seed: int, rows: int = ROWS) -> np.ndarray:
    """Unit rows about a few centres; a third of them are near copies of others, more or less."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(12, WIDTH))[random.integers(12, size=rows)] + 0.7 * random.normal(size=(rows, WIDTH))
    copies = random.choice(rows, rows // 3, replace=False)
    noise = random.normal(size=(len(copies), WIDTH)) * random.uniform(0, 0.5, size=(len(copies), 1))
    found[copies] = found[random.integers(rows, size=len(copies))] + noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def uid(row: int) -> str:
    return f"{row:032x}"


def texts(values) -> pa.Array:
    return pa.array(list(values), pa.string())


@pytest.fixture
def pool(tmp_path, images_artifact, monkeypatch):
    """``pool(vectors)``: inputs of as many rows, seven shards of them; galleries are not what these tests are about."""
    monkeypatch.setattr("pipelines.curate.gallery.draw", lambda *args: None)

    def make(vectors, without=()):
        selection, embeddings = Context(tmp_path / "selection"), Context(tmp_path / "embeddings")
        for shard, rows in enumerate(np.array_split(np.arange(len(vectors)), 7)):
            size = pa.array([64] * len(rows), pa.int32())
            columns = {"uid": texts(map(uid, rows)), "key": texts(f"{row:09d}" for row in rows)}
            table = pa.table({**columns, "shard": pa.array([shard] * len(rows), pa.int32())})
            for name in ("original_width", "original_height"):
                table = table.append_column(name, size)
            table = table.append_column("caption", table["key"])
            selection.output.write_table(f"data/kept-{shard:05d}.parquet", table)
            there = np.array([row for row in rows if row not in without], np.int64)
            known = pa.table({"uid": texts(map(uid, there)), "captions": pa.array([0] * len(there), pa.int32())})
            write_vectors(embeddings.output, f"{shard:05d}", known, vectors[there], vectors[:0], "clip")
        made = {"selection": selection, "embeddings": embeddings}
        return {name: Artifact(context.store, context.finish()) for name, context in made.items()} | {
            "images": images_artifact([])
        }

    return make


def table(artifact, kind) -> pa.Table:
    files = artifact.files(f"data/{kind}-", ".parquet")
    return pa.concat_tables([read_table(artifact.store, file.path) for file in files])


def rows_of(artifact, kind) -> list[int]:
    return [int(name, 16) for name in table(artifact, kind)["uid"].to_pylist()]


def brute_force(vectors, epsilon, farthest=True) -> dict[int, int]:
    """What goes, by the paper's rule with one cluster, and what stays instead."""
    centroid = vectors.astype("f8").mean(0)
    centrality = vectors @ (centroid / np.linalg.norm(centroid))
    order = np.argsort(centrality if farthest else -centrality, kind="stable").tolist()
    cosines, stays = vectors.astype("f8") @ vectors.T.astype("f8"), {}
    for place, row in enumerate(order):
        before = order[:place]
        if before and (best := max(before, key=lambda other: cosines[row, other])) is not None:
            stays[row] = stays.get(best, best) if cosines[row, best] > 1 - epsilon else row
        else:
            stays[row] = row
    return {row: other for row, other in stays.items() if row != other}


@pytest.mark.parametrize("keep", ["farthest", "nearest"])
def test_one_cluster_is_brute_force(pool, finished, keep):
    vectors = directions(1)
    made = finished(semdedup.run, semdedup.Config(clusters=1, epsilon=0.1, keep=keep), pool(vectors))
    expected = brute_force(vectors, 0.1, keep == "farthest")
    assert 200 < len(expected) < 700
    dropped = table(made, "dropped")
    found = dict(
        zip(rows_of(made, "dropped"), (int(one, 16) for one in dropped["duplicate_of"].to_pylist()), strict=True)
    )
    # Two cosines may be equal to float16's last bit, and the order of two rows with it: at most a few.
    assert len(found.items() ^ expected.items()) <= 0.02 * len(expected)
    kept = set(rows_of(made, "kept"))
    assert set(found.values()) <= kept and not kept & found.keys()
    assert set(dropped["reason"].to_pylist()) == {"semantic_duplicate"}
    assert made.manifest.funnel.dropped == {"semantic_duplicate": len(found)}


def test_what_is_kept_has_no_like_in_its_cluster(pool, finished):
    vectors = directions(2)
    made = finished(semdedup.run, semdedup.Config(clusters=10, epsilon=0.15), pool(vectors))
    kept, clusters = np.array(rows_of(made, "kept")), table(made, "kept")["semantic_cluster"].to_numpy()
    assert len(set(clusters.tolist())) == 10
    for cluster in range(10):
        rows = vectors[kept[clusters == cluster]]
        cosines = rows @ rows.T - 2 * np.eye(len(rows))
        assert cosines.max() <= 0.85 + 1e-3


def test_an_oversized_cluster_is_divided(pool, finished):
    """So that a task never holds much more than it compares; equal vectors are not told apart by any clusters."""
    vectors = directions(10)
    vectors[:300] = vectors[0]
    made = finished(semdedup.run, semdedup.Config(clusters=2, max_compared=150, epsilon=0.01), pool(vectors))
    clusters = np.concatenate([table(made, kind)["semantic_cluster"].to_numpy() for kind in ("kept", "dropped")])
    sizes = np.bincount(clusters)
    equal = set(clusters[np.isin(rows_of(made, "kept") + rows_of(made, "dropped"), range(300))].tolist())
    assert len(equal) == 1 and sizes[list(equal)] >= 300
    assert np.delete(sizes, list(equal)).max() <= 150
    assert made.manifest.facts["clusters"] >= (sizes > 0).sum() > 12
    assert made.manifest.facts["oversized_clusters"] == 1
    assert made.manifest.facts["largest_cluster"] == sizes.max()
    assert sum(row < 300 for row in rows_of(made, "kept")) == 1


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 1.0])
def test_a_share_is_kept_whatever_epsilon_it_takes(pool, finished, share):
    made = finished(semdedup.run, semdedup.Config(share=share), pool(directions(3)))
    assert made.manifest.funnel.kept / ROWS == pytest.approx(share, abs=0.002)
    assert made.manifest.funnel.kept >= share * ROWS
    again = finished(semdedup.run, semdedup.Config(epsilon=made.manifest.facts["epsilon"]), pool(directions(3)))
    assert rows_of(again, "kept") == rows_of(made, "kept")


def test_clusters_are_as_good_as_scikit_learns():
    random = np.random.default_rng(4)
    label = random.integers(8, size=1500)
    vectors = np.eye(8, WIDTH)[label] + 0.1 * random.normal(size=(1500, WIDTH))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    theirs = KMeans(8, n_init=3, random_state=0).fit(vectors)
    ours, cosines = nearest(vectors, theirs.cluster_centers_.astype(np.float32))
    assert adjusted_rand_score(ours, theirs.labels_) > 0.99
    np.testing.assert_allclose(cosines, (vectors * theirs.cluster_centers_[ours]).sum(1), atol=1e-5)


def test_planted_copies_share_their_clusters(pool, finished):
    """Of each of 500 images there are four that differ little: one of each four stays."""
    random = np.random.default_rng(5)
    vectors = np.repeat(random.normal(size=(500, WIDTH)), 4, axis=0) + 0.02 * random.normal(size=(2000, WIDTH))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    made = finished(semdedup.run, semdedup.Config(clusters=20, epsilon=0.05), pool(vectors))
    stays = np.array(rows_of(made, "kept")) // 4
    assert len(set(stays.tolist())) == 500  # none is lost
    assert len(stays) <= 1.02 * 500  # a few fours lie on the border of two clusters


@pytest.mark.parametrize("most", [1, 7, 600, 5000])
def test_only_so_many_before_are_compared(most):
    vectors = directions(6, 1300)
    place, cosine = most_similar_before(vectors, most)
    assert (place[0], cosine[0]) == (0, -1)
    for row in (1, 5, 511, 512, 513, 700, 1024, 1299):
        low = max(0, row - most)
        products = vectors[low:row] @ vectors[row]
        assert cosine[row] == pytest.approx(products.max(), abs=1e-6)
        assert products[place[row] - low] == pytest.approx(products.max(), abs=1e-6)


def test_rows_without_vectors_are_dropped_and_say_so(pool, finished):
    vectors = directions(7, 100)
    vectors[5] = 0  # an empty vector is none
    made = finished(semdedup.run, semdedup.Config(epsilon=0), pool(vectors, without={3, 99}))
    dropped = table(made, "dropped")
    reasons = dict(zip(rows_of(made, "dropped"), dropped["reason"].to_pylist(), strict=True))
    assert {row for row, why in reasons.items() if why == "no_embedding"} == {3, 5, 99}
    assert made.manifest.funnel.entered == 100


@pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.ones((30, 4)), np.zeros((30, 4))])
def test_few_and_equal_vectors(pool, finished, vectors):
    made = finished(semdedup.run, semdedup.Config(clusters=3), pool(vectors.astype(np.float32)))
    assert made.manifest.funnel.kept == int(vectors.any())
    assert made.manifest.funnel.entered == len(vectors)


def digests(artifact) -> dict[str, str]:
    return {file.path: file.sha256 for file in artifact.manifest.files if file.path.startswith("data/")}


def test_bytes_are_the_same_for_any_workers_parts_and_kills(ray_cluster, pool, finished, tmp_path, monkeypatch):
    inputs = pool(directions(8))
    config = semdedup.Config(clusters=12, epsilon=0.1)
    expected = digests(finished(semdedup.run, config, inputs))
    for workers, rows in ((1, 500), (4, 300)):
        monkeypatch.setattr("pipelines.curate.semdedup.steps._SMALL", 0)
        monkeypatch.setattr("pipelines.curate.semdedup.steps._ROWS", rows)
        limited = config.replace(limits=Limits(in_flight=workers))
        assert digests(finished(semdedup.run, limited, inputs)) == expected

    # Ended after each of its commits, by an error that nothing handles, and begun anew.
    monkeypatch.setattr("pipelines.curate.semdedup.steps._SMALL", ROWS)
    write, ended, folder = Output.write_table, 0, tmp_path / "killed"
    committed = LocalStore.write
    seen = set()

    def stop_after(store, path, data):
        committed(store, path, data)
        if path.startswith("ledger/") and path not in seen:
            seen.add(path)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "write", stop_after)
        while True:
            try:
                made = finished(semdedup.run, config, inputs, folder)
                break
            except KeyboardInterrupt:
                ended += 1
    assert ended == len(seen) > 20 and write is Output.write_table
    assert digests(made) == expected
    assert not list(made.store.paths("exchange")) and not list(made.store.paths("semdedup"))


def test_vectors_survive_their_columns():
    vectors = directions(9, 50)
    column = pa.chunked_array([packed(vectors[:20]), packed(vectors[20:20]), packed(vectors[20:])])
    np.testing.assert_allclose(unpacked(column), vectors, atol=1e-3)
    np.testing.assert_allclose(unpacked(column.slice(5, 30).take(pa.array([3, 1]))), vectors[[8, 6]], atol=1e-3)
    assert unpacked(packed(vectors[:0])).shape == (0, 0)


def test_bad_shares_are_refused():
    for share in (0, 1.1):
        with pytest.raises((ConfigError, DataError), match="share"):
            semdedup.Config(share=share)
