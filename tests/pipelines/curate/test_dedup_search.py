"""Near duplicates over the exchange against brute force, in any number of parts and rounds, killed and resumed."""

import itertools

import numpy as np
import pytest
from deduplicated import decided, selection_of, signatures_of
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.cluster import Limits
from infra.run.context import Context
from pipelines.curate.dedup import Config, duplicates
from pipelines.curate.dedup.candidates import Blocks, candidates

pytestmark = pytest.mark.long  # compares all with all


def brute_force(hashes, thumbnails, order, config):
    """Leaders: in order of preference, each image that is like none before it that stays."""
    stay, result = [], list(range(len(hashes)))
    for image in order:
        others = np.array(stay, np.int64)
        near = others[np.bitwise_count(hashes[others] ^ hashes[image]) <= config.max_distance]
        same = thumbnails[near] == thumbnails[image]
        if same.any():
            result[image] = int(near[same][0])
        else:
            stay.append(image)
    return result


def similar(seed, count, centres, distance):
    """Hashes that differ in about as many bits as are allowed, thumbnails of two kinds, areas with ties."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, centres, dtype=np.uint64)[rng.integers(0, centres, count)]
    for _ in range(distance):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)) * (rng.random(count) < 0.6)
    thumbnails = rng.choice([10, 90], count)
    return hashes, thumbnails, rng.integers(1, 9, count)


def check(folder, hashes, thumbnails, areas, config, per_shard=7):
    rows = {"sha256": [None] * len(hashes), "original_width": areas.tolist()}
    _, originals, facts = decided(folder, rows, hashes, thumbnails, config, per_shard=per_shard)
    order = np.lexsort((np.arange(len(areas)), -areas)).tolist()
    assert originals == brute_force(hashes, thumbnails, order, config)
    return facts


@given(st.integers(0, 2**32), st.integers(0, 15), st.integers(1, 60))
@settings(max_examples=10)
def test_grouping_is_exact(tmp_path_factory, seed, distance, count):
    check(tmp_path_factory.mktemp("dedup"), *similar(seed, count, 4, distance), Config(max_distance=distance))


@pytest.mark.parametrize("seed", range(4))
def test_in_many_parts_it_is_the_same(small_dedup, tmp_path, seed):
    check(tmp_path, *similar(seed, 150, 3, 6), Config())


def test_a_chain_of_small_steps_is_decided_link_by_link(small_dedup, tmp_path):
    """Each is like its neighbours only; every part waits for another, so it takes many rounds."""
    steps = np.cumsum([0, *[6 if n % 2 else 4 for n in range(59)]]) // 5
    bits = [sum(1 << (bit % 64) for bit in range(step * 4, step * 4 + 32)) for step in steps.tolist()]
    hashes, thumbnails = np.array(bits, np.uint64), np.zeros(60, int)
    areas = np.random.default_rng(0).permutation(60) + 1
    check(tmp_path, hashes, thumbnails, areas, Config(max_distance=8), per_shard=3)


def test_equal_to_brute_force_at_20_000_rows(tmp_path):
    facts = check(tmp_path, *similar(7, 20_000, 8_000, 4), Config(), per_shard=1_000)
    assert facts["pairs"] > 5_000
    assert "oversized_buckets" not in facts


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_compared_with_wholes_and_parts(small_dedup, tmp_path, seed):
    """Images of two keys and three parts each: within 6 bits if both are of wholes, else within 5."""
    hashes, thumbnails, areas = similar(seed, 60 * 5, 40, 7)
    every = hashes.reshape(60, 5)
    keys, parts = np.split(every, [2], axis=1)
    config, thumbnails, areas = Config(), thumbnails[:60], areas[:60]
    order = np.lexsort((np.arange(60), -areas)).tolist()

    def bits(one, other):
        return int(np.bitwise_count(one[:, None] ^ other).min())

    stay, expected, by_parts = [], list(range(60)), 0
    for image in order:
        for other in stay:
            whole = bits(keys[image], keys[other]) <= config.max_distance
            part = bits(every[image], every[other]) <= config.max_distance_parts
            if thumbnails[image] == thumbnails[other] and (whole or part):
                expected[image], by_parts = other, by_parts + (part and not whole)
                break
        else:
            stay.append(image)
    rows = {"sha256": [None] * 60, "original_width": areas.tolist()}
    signed = [(sorted(one), sorted(other)) for one, other in zip(keys.tolist(), parts.tolist(), strict=True)]
    assert decided(tmp_path, rows, signed, thumbnails, config)[1] == expected
    assert by_parts > 3


def test_a_thousand_equal_images_are_a_thousand_pairs(tmp_path):
    hashes, thumbnails = np.full(1_000, 5, np.uint64), np.zeros(1_000, int)
    facts = check(tmp_path, hashes, thumbnails, np.ones(1_000, int), Config(max_bucket=2), per_shard=500)
    assert facts["candidates"] == 0


def test_oversized_buckets_are_capped_and_reported(tmp_path, caplog):
    """Sixty images within two bits of each other: each is compared with the three best of a bucket only."""
    hashes = np.array([1 << n for n in range(60)], np.uint64)
    thumbnails = np.zeros(60, int)
    rows = {"sha256": [None] * 60, "original_width": list(range(60, 0, -1))}
    reasons, originals, facts = decided(tmp_path, rows, hashes, thumbnails, Config(max_bucket=3))
    assert set(originals) == {0} and reasons.count("near_duplicate") == 59
    assert facts["oversized_buckets"] > 0 and facts["largest_bucket"] >= 50
    assert "max_bucket=3" in caplog.text


@pytest.mark.parametrize(("distance", "agreeing"), list(itertools.product((0, 1, 6, 15), (1, 2, 3))))
def test_each_pair_of_hashes_is_found_once(distance, agreeing):
    hashes, _, _ = similar(distance, 120, 5, distance)
    blocks = Blocks(distance, agreeing)
    found = []
    for lowest in blocks.sent:
        pairs = candidates(hashes, blocks, lowest, 1_000, [np.arange(120)])
        found += zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    truth = [
        (one, other)
        for one, other in itertools.combinations(range(120), 2)
        if int(hashes[one] ^ hashes[other]).bit_count() <= distance
    ]
    assert sorted(found) == truth


@pytest.mark.parametrize("most", [1, 3, 10])
@pytest.mark.parametrize(("agreeing", "lowest"), [(1, 0), (2, 3), (3, 1), (4, 6)])
def test_each_is_compared_with_the_first_of_its_bucket(monkeypatch, agreeing, lowest, most):
    """Small buckets beside ones above the limit, equal hashes in both, and arrays of more than one piece."""
    monkeypatch.setattr("pipelines.curate.dedup.candidates._PIECE", 7)
    crowd, _, _ = similar(most, 40, 5, 4)
    pairs, _, _ = similar(most, 120, 60, 3)
    hashes = np.random.default_rng(0).permutation(np.r_[crowd, crowd[:9], crowd[:9], pairs, pairs[:5]])
    blocks = Blocks(6, agreeing)
    truth, sizes = [], []
    for others in itertools.combinations(range(lowest + 1, blocks.count), agreeing - 1):
        for bucket in buckets_of(hashes, blocks, (lowest, *others)):
            sizes.append(len(bucket))
            for one, other in itertools.combinations(bucket, 2):
                agree = [n for n in range(blocks.count) if same_block(hashes[one], hashes[other], blocks, n)]
                first = agree[:agreeing] == [lowest, *others] and one in bucket[:most]
                truth += [(one, other)] * (first and int(hashes[one] ^ hashes[other]).bit_count() <= 6)
    found = candidates(hashes, blocks, lowest, most, [np.arange(len(hashes))])
    assert sorted(zip(found.first.tolist(), found.second.tolist(), strict=True)) == sorted(truth)
    assert (found.oversized, found.largest) == (sum(size > most for size in sizes), max(sizes))


def buckets_of(hashes, blocks, chosen):
    """Positions of the hashes that agree in the chosen blocks."""
    buckets = {}
    for position in range(len(hashes)):
        key = tuple(blocks.values(hashes[[position]], number)[0] for number in chosen)
        buckets.setdefault(key, []).append(position)
    return buckets.values()


def same_block(one, other, blocks, number):
    return blocks.values(np.array([one ^ other]), number)[0] == 0


def test_blocks_are_finer_the_more_hashes_there_are():
    assert [Blocks.of(6, 10**power).agreeing for power in (3, 6, 7, 9)] == [1, 2, 3, 4]
    assert sum(Blocks(6, 3).width(block) for block in range(9)) == 64
    assert all(Blocks.of(distance, 10).width(0) < 24 for distance in range(16))  # a bucket's name has so much room


def test_bytes_are_the_same_for_any_number_of_workers(small_dedup, tmp_path, monkeypatch, ray_cluster):
    hashes, thumbnails, areas = similar(4, 60, 3, 6)
    rows = {"sha256": [f"{n % 50}" for n in range(60)], "original_width": areas.tolist()}
    here = folder_bytes(tmp_path / "here", rows, hashes, thumbnails)
    monkeypatch.setattr(duplicates, "_SMALL", 0)
    for workers in (1, 2, 4):
        limits = Limits(cpus=0.5, in_flight=workers)
        assert folder_bytes(tmp_path / f"{workers}", rows, hashes, thumbnails, Config(limits=limits)) == here


def test_killed_anywhere_it_continues_to_the_same_bytes(small_dedup, tmp_path, killed_until_done):
    hashes, thumbnails, areas = similar(3, 80, 3, 6)
    rows = {"sha256": [f"{n % 70}" for n in range(80)], "original_width": areas.tolist()}
    undisturbed = folder_bytes(tmp_path / "undisturbed", rows, hashes, thumbnails)
    assert killed_until_done(lambda: folder_bytes(tmp_path / "killed", rows, hashes, thumbnails)) == undisturbed


def folder_bytes(folder, rows, hashes, thumbnails, config=None):
    shards = selection_of(folder / "selection", rows)
    context = Context(folder / "dedup")
    signatures_of(context, shards, hashes, thumbnails)
    duplicates.drop_duplicates(config or Config(), Context(folder / "selection").store, shards, context)
    return {path: context.store.read(path) for path in context.store.paths("data")}
