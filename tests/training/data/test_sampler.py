"""Which sample when: against brute force."""

import pickle
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

import training.data.sampler
from infra.errors import ConfigError
from training.data.sampler import Sampler, epoch_order, interleave, permute_at

SHARDS = [5, 0, 9, 1, 7, 12, 3]  # 37 samples
OTHER = [4, 4, 3]


def shard_of(number, counts=SHARDS):
    return int(np.searchsorted(np.cumsum(counts), number, side="right"))


def walk(sampler, start, stop):
    return sampler.numbers(np.arange(start, stop)).tolist()


def test_without_weights_it_is_one_shuffle_after_another():
    expected = np.concatenate([np.random.default_rng([3, epoch]).permutation(37) for epoch in range(3)])
    assert walk(Sampler([SHARDS], 3), 0, 111) == expected.tolist()
    assert walk(Sampler([SHARDS[:3], SHARDS[3:]], 3), 0, 111) == expected.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": "window", "window": 2},
        {"shuffle": "window", "window": 3, "batch": 12},
        {"shuffle": "window", "window": 99, "batch": 8},
    ],
)
@pytest.mark.parametrize("weights", [None, [2.0, 1.0]])
def test_any_stretch_is_found_by_itself(options, weights):
    sampler = Sampler([SHARDS, OTHER], 5, weights=weights, **options)
    whole = walk(sampler, 0, 300)
    again = pickle.loads(pickle.dumps(sampler))
    assert [number for start in range(0, 300, 7) for number in walk(again, start, min(300, start + 7))] == whole
    assert [int(again.numbers(np.array([position]))[0]) for position in range(299, -1, -9)] == whole[299::-9]


@pytest.mark.parametrize("batch", [1, 4, 6])
@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_a_window_shuffles_every_sample_of_few_shards(window, batch):
    sampler = Sampler([SHARDS], 1, shuffle="window", window=window, batch=batch)
    epochs = [walk(sampler, 37 * epoch, 37 * (epoch + 1)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for epoch in epochs:
        shards = list(dict.fromkeys(shard_of(number) for number in epoch))
        seen = 0
        while seen < 37:  # a window is over when as many samples came as its shards hold, and none of another
            own = next(
                group
                for end in range(1, window + 1)
                if len(group := set(map(shard_of, epoch[seen : seen + 99])) & set(shards[:end]))
                == min(end, len(shards))
                and set(map(shard_of, epoch[seen : seen + sum(SHARDS[s] for s in shards[:end])])) == set(shards[:end])
            )
            seen += sum(SHARDS[shard] for shard in own)
            shards = [shard for shard in shards if shard not in own]


def test_the_shards_needed_are_those_read():
    for weights, workers in product((None, [3.0, 1.0]), (1, 2, 3, 4, 6, 12)):
        sampler = Sampler([SHARDS, OTHER], 2, weights=weights, shuffle="window", window=2, batch=12)
        for start, worker in product(range(0, 120, 12), range(workers)):
            own = 12 // workers
            numbers = walk(sampler, start + worker * own, start + (worker + 1) * own)
            read = {shard_of(number, SHARDS + OTHER) for number in numbers}
            needed = sampler.shards(start, start + 12, (Fraction(worker, workers), Fraction(worker + 1, workers)))
            assert read <= set(needed)
            assert len(needed) <= (2 if weights is None else 4) * 3
    assert Sampler([SHARDS], 2).shards(5, 6) == list(range(len(SHARDS)))


@pytest.mark.parametrize("weights", [None, [2.0, 1.0]])
def test_workers_share_the_shards_of_a_window(weights):
    counts = np.random.default_rng(0).integers(40, 60, (2, 64)).tolist()
    every = [count for source in counts for count in source]
    total = sum(every)
    sampler = Sampler(counts, 7, weights=weights, shuffle="window", window=16, batch=32)
    whole = walk(sampler, 0, total)
    for workers in (2, 4, 8):
        needed = [sampler.shards(0, total, (Fraction(k, workers), Fraction(k + 1, workers))) for k in range(workers)]
        assert max(map(len, needed)) <= 128 * (1 / workers + 2 / 16)
        own = 32 // workers
        for k, shards in enumerate(needed):
            numbers = [number for at in range(k * own, total, 32) for number in whole[at : at + own]]
            assert {shard_of(number, every) for number in numbers} <= set(shards)
    if weights is None:
        assert sorted(whole) == list(range(total))
        for at in range(0, 512, 32):  # of the first window
            assert len({shard_of(number, every) for number in whole[at : at + 32]}) > 10


def test_a_lanes_places_are_dealt_at_random():
    """Each sample of a window is as likely early as late."""
    places = np.zeros((8, 400))
    for seed in range(400):
        order = walk(Sampler([[50] * 8], seed, shuffle="window", window=8, batch=16), 0, 400)
        for sample in range(8):
            places[sample, seed] = order.index(sample * 50 + 7)
    assert np.abs(places.mean(axis=1) - 199.5).max() < 4 * 400 / 12**0.5 / 400**0.5
    assert np.abs(places.std(axis=1) / (400 / 12**0.5) - 1).max() < 0.15


@pytest.mark.parametrize(
    "weights", [[1], [0.7, 0.3], [1, 2, 3], [1] * 7, [1, 1 / 3, np.pi], [100, 1], [5, 4, 3, 2, 1, 0.5, 0.25]]
)
def test_every_stretch_of_a_mixture_holds_each_source_in_proportion(weights):
    sources, before = interleave(weights)
    counts = np.bincount(sources, minlength=len(weights))
    assert counts / len(sources) == pytest.approx(np.array(weights) / sum(weights), abs=1e-6)
    told = np.cumsum(sources[:5000, None] == np.arange(len(weights)), axis=0)
    due = np.arange(1, len(told) + 1)[:, None] * counts / len(sources)
    assert np.abs(told - due).max() < max(1, len(weights) - 1)
    for source in range(len(weights)):
        assert (before[sources == source] == np.arange(counts[source])).all()


def test_sources_of_a_mixture_go_through_epochs_of_their_own():
    sampler = Sampler([SHARDS, OTHER], 4, weights=[0.9, 0.3])
    found = np.array(walk(sampler, 0, 4 * 37))  # three quarters and one quarter
    first, second = found[found < 37], found[found >= 37] - 37
    assert first.tolist() == [*epoch_order(4, 0, 37), *epoch_order(4, 1, 37), *epoch_order(4, 2, 37)]
    assert len(second) == 37
    assert second[:33].tolist() == [*epoch_order(4, 0, 11, 1), *epoch_order(4, 1, 11, 1), *epoch_order(4, 2, 11, 1)]
    assert max(Counter(second.tolist()).values()) - min(Counter(second.tolist()).values()) == 1


def test_a_replacement_stays_in_its_source():
    sampler = Sampler([SHARDS, OTHER], 4, weights=[1, 1])
    assert [sampler.replacement(number) for number in (0, 35, 36, 37, 47)] == [1, 36, 0, 38, 37]
    assert Sampler([SHARDS, OTHER], 4).replacement(36) == 37


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-1, 2], [float("nan"), 1], [float("inf"), 1], [1.0], [1e-9, 1.0]])
def test_weights_that_are_no_proportions_are_refused(weights):
    with pytest.raises(ConfigError):
        Sampler([SHARDS, OTHER], 0, weights=weights)


def test_a_source_without_samples_is_refused():
    with pytest.raises(ConfigError, match="no samples"):
        Sampler([SHARDS, [0]], 0, weights=[1, 1])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 64, 1000, 4097])
def test_scattering_is_a_permutation(count):
    assert sorted(permute_at(np.arange(count), count, (1, 2)).tolist()) == list(range(count))


def test_scattering_looks_random():
    count = 1 << 16
    found = permute_at(np.arange(count), count, (0, 7))
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(found, np.arange(count))[0, 1]) < 0.02
    inside, _, _ = np.histogram2d(np.arange(count), found, bins=32)
    chi = ((inside - count / 1024) ** 2 / (count / 1024)).sum()
    assert abs(chi - 31 * 31) < 6 * (2 * 31 * 31) ** 0.5
    assert (permute_at(np.arange(count), count, (0, 8)) != found).mean() > 0.99
    for many in (400_000_000, 1 << 40):
        few = permute_at(np.arange(1000), many, (1,))
        assert 0 <= few.min() < many / 100 < 0.9 * many < few.max() < many
        assert len(set(few.tolist())) == 1000


def test_a_set_too_large_for_a_permutation_is_scattered(monkeypatch):
    monkeypatch.setattr(training.data.sampler, "LARGEST_PERMUTATION", 30)
    sampler = Sampler([SHARDS], 3)
    epochs = [walk(sampler, 37 * epoch, 37 * (epoch + 1)) for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(37))
    assert epochs[0] == permute_at(np.arange(37), 37, (3, 0, 0)).tolist() != epochs[1]
