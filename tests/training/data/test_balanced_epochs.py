"""Epochs of online balancing: how often each sample comes, against its chance and plain loops."""

import json
import math
import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import draw, encode

from infra.errors import DataError
from infra.formats.shards import TarWriter
from infra.store import LocalStore
from training.config import Config
from training.data.index import LOADS
from training.data.loader import Loader
from training.data.sampler import Drawn, Sampler
from training.data.samples import Samples, Shards
from training.data.tokens import Tokenizer
from training.distributed.world import World

SHARDS = [5, 0, 9, 1, 7, 12, 3]  # 37 samples
OTHER = [4, 4, 3]
CHANCES = np.random.default_rng(0).choice([1.0, 1.0, 0.5, 0.25, 0.03], 48)


def plain_loop(chances, start):
    """The samples of an epoch in order: walk along the line of chances from point to point."""
    total = math.fsum(chances)
    step = total / max(1, math.floor(total + 1e-9))
    found, sample, end = [], 0, chances[0]
    for place in range(round(total / step)):
        while end <= (place + start) * step + 1e-9 and sample < len(chances) - 1:
            sample += 1
            end += chances[sample]
        found.append(sample)
    return found


@given(
    st.lists(st.lists(st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.9, 1.0]), max_size=9), min_size=1, max_size=9),
    st.integers(0, 9),
)
def test_a_draw_is_the_plain_loop_at_any_place(shards, epoch):
    chances = np.array([chance for shard in shards for chance in shard])
    if not len(chances):
        return
    counts = np.array([len(shard) for shard in shards])
    drawn = Drawn(counts, chances, (7, 1))
    start = drawn._start(epoch)
    found = drawn.samples(epoch, np.arange(drawn.count)).tolist()
    assert found == plain_loop(chances.tolist(), start)
    assert max(Counter(found).values()) == 1
    ends = np.cumsum(counts)
    assert (
        drawn.counts(epoch).tolist()
        == np.bincount(np.searchsorted(ends, found, side="right"), minlength=len(counts)).tolist()
    )
    places = np.random.default_rng(epoch).permutation(drawn.count)
    assert drawn.samples(epoch, places).tolist() == [found[place] for place in places]


def test_a_sample_comes_as_often_as_its_chance_says():
    chances = np.random.default_rng(1).uniform(0.02, 1, 500)
    chances[::7] = 1.0
    drawn = Drawn(np.array([200, 300]), chances, (0, 0))
    times = np.zeros(500)
    for epoch in range(3000):
        times[drawn.samples(epoch, np.arange(drawn.count))] += 1
    expected = chances * drawn.count / chances.sum()
    assert drawn.count == math.floor(chances.sum())
    spread = np.sqrt(expected * (1 - expected) / 3000)
    assert (np.abs(times / 3000 - expected) <= 4.5 * spread + 1e-9).all()


@pytest.mark.parametrize("options", [{}, {"shuffle": "window", "window": 3, "batch": 12}])
@pytest.mark.parametrize("weights", [None, [2.0, 1.0]])
def test_where_every_chance_is_one_nothing_changes(options, weights):
    plain = Sampler([SHARDS, OTHER], 5, weights=weights, **options)
    same = Sampler([SHARDS, OTHER], 5, weights=weights, chances=np.ones(48), **options)
    positions = np.arange(300)
    assert same.numbers(positions).tolist() == plain.numbers(positions).tolist()
    assert (same.epoch, same.window_samples) == (48, plain.window_samples)


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": "window", "window": 2}, {"shuffle": "window", "window": 3, "batch": 12}]
)
@pytest.mark.parametrize("weights", [None, [2.0, 1.0]])
def test_any_stretch_is_found_by_itself(options, weights):
    sampler = Sampler([SHARDS, OTHER], 5, weights=weights, chances=CHANCES, **options)
    whole = sampler.numbers(np.arange(300)).tolist()
    again = pickle.loads(pickle.dumps(sampler))
    assert [number for start in range(0, 300, 7) for number in again.numbers(np.arange(start, start + 7))][
        :300
    ] == whole
    if weights is None:
        assert sampler.epoch == math.floor(CHANCES.sum())
        drawn = Drawn(np.array(SHARDS + OTHER), CHANCES, (5, 0))
        for epoch in range(300 // sampler.epoch):
            expected = sorted(drawn.samples(epoch, np.arange(drawn.count)).tolist())
            assert sorted(whole[epoch * drawn.count : (epoch + 1) * drawn.count]) == expected
        assert len({tuple(whole[k * drawn.count : (k + 1) * drawn.count]) for k in range(3)}) == 3
    (first, seen), *others = sampler.epochs(300)
    assert sum(count * epochs for count, epochs in [(first, seen), *others]) == pytest.approx(300)


def test_the_shards_needed_are_those_read():
    every = SHARDS + OTHER
    ends = np.cumsum(every)
    for weights in (None, [3.0, 1.0]):
        sampler = Sampler([SHARDS, OTHER], 2, weights=weights, chances=CHANCES, shuffle="window", window=2, batch=12)
        for start in range(0, 120, 12):
            for worker, workers in ((0, 1), (0, 2), (1, 2), (3, 4)):
                own = 12 // workers
                numbers = sampler.numbers(np.arange(start + worker * own, start + (worker + 1) * own))
                read = set(np.searchsorted(ends, numbers, side="right").tolist())
                needed = sampler.shards(start, start + 12, (Fraction(worker, workers), Fraction(worker + 1, workers)))
                assert read <= set(needed)


# --- from the shards --------------------------------------------------------------------------------------------------


def write(folder, loads, per_shard=8):
    folder.mkdir(exist_ok=True)
    for start in range(0, len(loads), per_shard):
        with (folder / f"{start // per_shard:05d}.tar").open("wb") as file, TarWriter(file) as tar:
            for number in range(start, min(start + per_shard, len(loads))):
                tar.add(f"{number:04d}.png", encode(draw(number)[0]))
                tar.add(f"{number:04d}.json", json.dumps({LOADS: loads[number]}).encode())
                tar.add(f"{number:04d}.txt", str(number).encode())


def letters(texts):
    return np.stack([np.frombuffer(text.encode().ljust(16, b"\0")[:16], np.uint8).astype(np.int64) for text in texts])


def samples(folder, balance):
    store = LocalStore(folder)
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    return Samples(shards, World(), tokenize=Tokenizer(letters), min_side=16, folder=folder / "cache", balance=balance)


@pytest.mark.parametrize("balance", [0.5, 1.0, 4])
def test_chances_are_metaclips_rule_on_the_loads(tmp_path, balance):
    loads = [[2.5, 0.25], [8], [], [0.5, 1000, 3], [1.0]]
    write(tmp_path, loads)
    expected = []
    for each in loads:
        lost = Fraction(1)
        for load in each:
            lost *= 1 - min(Fraction(1), Fraction(balance) / Fraction(load))
        expected.append(float(1 - lost) if each else 1.0)
    assert samples(tmp_path, balance).chances == pytest.approx(expected, rel=1e-12)
    assert samples(tmp_path, None).chances is None


@pytest.mark.parametrize("wrong", [None, "often", [0], [-1.0], ["1"], {"red": 1}])
def test_shards_without_loads_are_refused(tmp_path, wrong):
    write(tmp_path, [[1.0], wrong])
    with pytest.raises(DataError, match=r"00000\.tar: sample '0001' does not say how often its entries are") as caught:
        samples(tmp_path, 1.0)
    assert "drop=false" in caught.value.fix
    assert len(samples(tmp_path, None)) == 2


def test_ranks_and_a_second_start_see_the_same_samples(tmp_path):
    rng = np.random.default_rng(4)
    write(tmp_path, [[float(load)] for load in rng.choice([0.5, 2.0, 5.0], 60)])
    source = samples(tmp_path, 1.0)
    sampler = Sampler(source.counts, 3, chances=source.chances)
    config = Config(batch_size=8, seed=3)

    def seen(start, stop, size):
        loaders = [Loader(source, config, World(rank=rank, size=size), (16, 16), sampler) for rank in range(size)]
        parts = zip(*[loader.batches(start, stop) for loader in loaders], strict=True)
        texts = [bytes(row).rstrip(b"\0") for ranks in parts for batch in ranks for row in batch.texts.tolist()]
        return [int(text) for text in texts]

    whole = seen(0, 160, 1)
    assert whole == sampler.numbers(np.arange(160)).tolist()
    assert seen(0, 160, 2) == seen(0, 160, 4) == whole
    assert seen(80, 160, 2) == whole[80:]
    epoch = sampler.epoch
    assert len(set(whole[:epoch])) == epoch < 60
