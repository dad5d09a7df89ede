"""Clusters against scipy's connected components of all pairs, which brute force finds."""

import numpy as np
import pyarrow as pa
import pytest
from deduplicated import decided, tables
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from infra.run.context import Context
from pipelines.curate.dedup import Config
from pipelines.curate.dedup.clusters import EDGES, all_rounds, large_star, small_star

pytestmark = pytest.mark.long  # compares all with all

ROWS = 150


def first_of_component(one, other, order):
    """For each row the first, in that order, of the rows that these pairs join with it."""
    pairs = coo_array((np.ones(len(one)), (one, other)), (len(order), len(order)))
    _, labels = connected_components(pairs, directed=False)
    best = {}
    for row in order:
        best.setdefault(labels[row], row)
    return [best[label] for label in labels]


def edges_between(one, other, preference):
    """The edges of pairs, as dedup makes them."""
    rows = [sorted(pair, key=lambda row: (-preference[row], row)) for pair in zip(one, other, strict=True)]
    first, second = np.array(rows, np.int64).reshape(-1, 2).T
    preference = np.array(preference, np.int64)
    return pa.table([first, second, preference[first], preference[second]], schema=EDGES)


@st.composite
def graphs(draw):
    """Pairs of 40 rows, chains, stars and anything else, and the rows' preference."""
    pairs = st.tuples(st.integers(0, 39), st.integers(0, 39)).filter(lambda pair: pair[0] != pair[1])
    chain = [(n, n + 1) for n in range(draw(st.integers(0, 39)))]
    star = [(draw(st.integers(30, 39)), n) for n in range(draw(st.integers(0, 29)))]
    chosen = [*chain, *star, *draw(st.lists(pairs, max_size=20))]
    return chosen, draw(st.lists(st.integers(0, 3), min_size=40, max_size=40))


def joined(edges):
    return sorted(zip(edges["second"].to_pylist(), edges["first"].to_pylist(), strict=True))


@given(graphs())
def test_edges_become_stars(graph):
    pairs, preference = graph
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    order = sorted(range(40), key=lambda row: (-preference[row], row))
    firsts = first_of_component(one, other, order)
    stars = all_rounds(edges_between(one.tolist(), other.tolist(), preference))
    assert joined(stars) == [(row, first) for row, first in enumerate(firsts) if row != first]


@given(graphs())
def test_a_star_neither_joins_nor_cuts_nor_adds(graph):
    pairs, preference = graph
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    order = sorted(range(40), key=lambda row: (-preference[row], row))
    edges = edges_between(one.tolist(), other.tolist(), preference)
    for star in (small_star, large_star):
        after, _ = star(edges, np.ones(edges.num_rows, bool))
        assert after.num_rows <= edges.num_rows
        ends = (after[name].to_numpy() for name in ("first", "second"))
        assert first_of_component(*ends, order) == first_of_component(one, other, order)


def chained(seed):
    """Rows of files whose keys are a few bits from each other's, some at one URL, with ties of size."""
    rng = np.random.default_rng(seed)
    steps = np.array([15 << (4 * step) for step in range(10)], np.uint64)  # chains of ten files, 4 bits a step
    keys = np.concatenate(
        [np.bitwise_xor.accumulate(steps) ^ rng.integers(0, 2**64, dtype=np.uint64) for _ in range(15)]
    )
    shown = rng.choice([10, 90], ROWS, p=[0.8, 0.2])
    file = rng.integers(0, ROWS, ROWS)
    rows = {
        "sha256": [f"{n}" for n in file],
        "url": [f"http://a.example/{n}" for n in rng.integers(0, 1_000, ROWS)],
        "original_width": rng.integers(1, 9, ROWS).tolist(),
    }
    return rows, keys[file], shown[file]


def clusters_of(folder):
    context = Context(folder / "dedup")
    rows = [row for kind in ("kept", "dropped") for row in tables(context, kind)]
    found = {int(row["uid"], 16): int(row["cluster"], 16) for row in rows}
    return [found[row] for row in range(len(found))]


def pairs_of(left, alike):
    return [(n, m) for n in left for m in left if m < n and alike(n, m)]


@pytest.mark.parametrize("config", [Config(), Config(drop=False), Config(near=False), Config(urls=True)])
@pytest.mark.parametrize("seed", range(2))
def test_clusters_are_components_of_all_pairs(small_dedup, tmp_path, seed, config):
    rows, hashes, shown = chained(seed)
    reasons, _, facts = decided(tmp_path, rows, hashes, shown, config)
    pairs = pairs_of(range(ROWS), lambda n, m: rows["url"][n] == rows["url"][m]) if config.urls else []
    # What goes for its URL is compared with nothing else.
    left = [row for row in range(ROWS) if reasons[row] != "duplicate_url"]
    pairs += pairs_of(left, lambda n, m: rows["sha256"][n] == rows["sha256"][m])
    if config.near:
        bits = [int(one) for one in hashes]
        pairs += pairs_of(left, lambda n, m: shown[n] == shown[m] and (bits[n] ^ bits[m]).bit_count() <= 6)
    order = sorted(range(ROWS), key=lambda row: (-rows["original_width"][row], row))
    expected = first_of_component(*np.array(pairs).T, order)
    assert clusters_of(tmp_path) == expected
    assert facts["largest_cluster"] == np.bincount(expected).max() > 2


def test_a_chain_is_one_cluster_although_both_its_ends_stay(tmp_path):
    """A holdout by clusters would otherwise have the middle one's copy on the other side."""
    rows = {"sha256": ["a", "b", "c"], "original_width": [3, 1, 2]}
    hashes = np.array([0, 0b1111, 0b11111111], np.uint64)
    reasons, originals, _ = decided(tmp_path, rows, hashes, np.zeros(3, int), Config())
    assert (reasons, originals) == ([None, "near_duplicate", None], [0, 0, 2])
    assert clusters_of(tmp_path) == [0, 0, 0]


def test_what_is_only_marked_names_the_row_that_would_stay(tmp_path):
    rows = {"sha256": ["a", "b", "c"], "original_width": [3, 1, 2]}
    hashes = np.array([0, 0b1111, 0b11111111], np.uint64)
    decided(tmp_path, rows, hashes, np.zeros(3, int), Config(drop=False))
    kept = tables(Context(tmp_path / "dedup"), "kept")
    assert [row["duplicate_of"] for row in kept] == [None, f"{0:032x}", None]


def test_one_file_under_two_captions_is_one_cluster(tmp_path):
    rows = {"sha256": ["a", "a", "a"], "caption": ["one", "two", "one"]}
    config = Config(same_caption=True)
    reasons, _, _ = decided(tmp_path, rows, np.zeros(3, np.uint64), np.zeros(3, int), config)
    assert reasons == [None, None, "duplicate_bytes"]
    assert clusters_of(tmp_path) == [0, 0, 0]
