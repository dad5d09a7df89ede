"""Batches composed by concepts: each rule against a plain loop; the same samples from any position, on any ranks."""

import json
import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import draw, encode

from infra.errors import ConfigError, DataError
from infra.formats.shards import TarWriter
from infra.store import LocalStore
from training.config import Config
from training.data.batched import Batched
from training.data.batching import BatchRule, Diverse, Frequent, Spread
from training.data.loader import Loader
from training.data.sampler import Sampler
from training.data.samples import Samples, Shards
from training.data.tokens import Tokenizer
from training.distributed.world import World

SHARDS, OTHER = [5, 0, 9, 1, 7, 12, 3], [4, 4, 3]  # 48 samples
CONCEPTS = [[int(one) for one in np.flatnonzero(row)] for row in np.random.default_rng(0).random((48, 6)) < 0.3]


def concepts_of(numbers):
    return [CONCEPTS[number] for number in numbers.tolist()]


def blocks(size):
    own = st.lists(st.integers(0, 5), max_size=4, unique=True)
    return st.lists(own, min_size=size, max_size=size)


@given(st.lists(st.integers(0, 6), min_size=24, max_size=24), st.sampled_from([1, 2, 3, 4, 6]))
def test_one_concept_each_is_spread_to_the_last_sample(concepts, batches):
    """Of every concept each batch has as many as any other, or one more."""
    places = Spread(batches=batches).arrange([[one] for one in concepts], 24 // batches)
    assert sorted(places) == list(range(24))
    for concept in set(concepts):
        counts = [sum(concepts[place] == concept for place in part) for part in np.array_split(places, batches)]
        assert max(counts) - min(counts) <= 1


def spread_plainly(concepts, batches, batch):
    """The rule as it is told, with exact fractions."""
    total = Counter(concept for own in concepts for concept in own)
    parts = [[] for _ in range(batches)]

    def share(part, own):
        have = Counter(concept for other in part for concept in concepts[other])
        return sum(Fraction(have[concept], total[concept]) for concept in own)

    def key(place):
        if not concepts[place]:
            return len(concepts) + 1, -1, place
        rarest = min(concepts[place], key=lambda one: (total[one], one))
        return total[rarest], rarest, place

    for place in sorted(range(len(concepts)), key=key):
        room = [number for number in range(batches) if len(parts[number]) < batch]
        ranked = [(share(parts[number], concepts[place]), len(parts[number]), number) for number in room]
        parts[min(ranked)[2]].append(place)
    return parts


@given(blocks(16))
def test_several_concepts_each_are_spread_by_the_rule(concepts):
    places = Spread(batches=4).arrange(concepts, 4)
    assert sorted(places) == list(range(16))
    total = Counter(concept for own in concepts for concept in own)
    if all(not count & (count - 1) for count in total.values()):  # whose shares are exact in binary
        assert [sorted(part) for part in spread_plainly(concepts, 4, 4)] == np.reshape(places, (4, 4)).tolist()


def test_spread_batches_are_evener_than_those_of_chance():
    rng = np.random.default_rng(1)
    ranks = 1 / np.arange(1, 301)
    concepts = [sorted(set(rng.choice(300, 4, p=ranks / ranks.sum()).tolist())) for _ in range(8 * 64)]
    places = Spread(batches=8).arrange(concepts, 64)

    def deviation(order):
        counts = np.zeros((8, 300))
        for number, part in enumerate(np.reshape(order, (8, 64)).tolist()):
            for place in part:
                counts[number, concepts[place]] += 1
        return np.square(counts - counts.mean(0)).sum()

    assert deviation(places) < 0.4 * deviation(range(8 * 64))


@given(blocks(20), st.sampled_from([1, 4, 10, 20]))
def test_diverse_is_the_plain_loop(concepts, batch):
    seen, chosen = Counter(), []
    worth = [own or [-1] for own in concepts]
    while len(chosen) < batch:
        left = [place for place in range(20) if place not in chosen]
        gains = [sum(1 / (1 + seen[one]) for one in worth[place]) / len(worth[place]) for place in left]
        chosen.append(left[gains.index(max(gains))])
        seen.update(worth[chosen[-1]])
    assert Diverse(batches=20 // batch).arrange(concepts, batch) == sorted(chosen)


@given(blocks(20))
def test_frequent_has_the_most_concepts(concepts):
    places = Frequent(batches=4).arrange(concepts, 5)
    rest = [len(own) for place, own in enumerate(concepts) if place not in places]
    assert len(places) == 5 and min(len(concepts[place]) for place in places) >= max(rest)


RULES = [Spread(batches=3), Diverse(batches=4), Frequent(batches=2)]
OPTIONS = [
    {},
    {"shuffle": "window", "window": 2, "batch": 6},
    {"chances": np.random.default_rng(3).uniform(0.2, 1, 48)},
]


@pytest.mark.parametrize("weights", [None, [2.0, 1.0]])
@pytest.mark.parametrize("options", OPTIONS, ids=["global", "window", "chances"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_any_stretch_is_found_by_itself(rule, options, weights):
    plain = Sampler([SHARDS, OTHER], 5, weights=weights, **options)
    sampler = Batched(plain, rule, 6, concepts_of)
    whole = sampler.numbers(np.arange(180)).tolist()
    again = pickle.loads(pickle.dumps(sampler))
    parts = [again.numbers(np.arange(start, min(start + 7, 180))) for start in range(0, 180, 7)]
    assert np.concatenate(parts).tolist() == whole
    assert again.numbers(np.arange(170, 180)).tolist() == whole[170:]
    # Each block is of the sampler's own samples; without loss of all of them.
    entering, seen = 6 * rule.batches, 6 * rule.kept
    for block in range(180 // seen):
        candidates = Counter(plain.numbers(np.arange(block * entering, (block + 1) * entering)).tolist())
        made = Counter(whole[block * seen : (block + 1) * seen])
        assert made <= candidates and (rule.kept < rule.batches or made == candidates)
    assert sampler.passed_over(180) == 180 * rule.batches // rule.kept - 180
    assert sampler.epochs(180) == plain.epochs(180 * rule.batches // rule.kept)
    ends = np.cumsum(SHARDS + OTHER)
    for start in range(0, 180, 6):
        read = set(np.searchsorted(ends, whole[start : start + 6], side="right").tolist())
        assert read <= set(sampler.shards(start, start + 6, (Fraction(0), Fraction(1, 2))))


class Broken(BatchRule):
    """Gives the first place again and again."""

    def arrange(self, concepts, batch):
        return [0] * len(concepts)


def test_a_rule_of_ones_own_must_give_batches():
    sampler = Batched(Sampler([SHARDS], 5), Broken(batches=2), 6, concepts_of)
    with pytest.raises(ConfigError, match="'broken' gave no batches") as caught:
        sampler.numbers(np.arange(6))
    assert caught.value.found == "12, 1 of them different"


# --- from the shards --------------------------------------------------------------------------------------------------


def write(folder, fields, per_shard=8):
    folder.mkdir(exist_ok=True)
    for start in range(0, len(fields), per_shard):
        with (folder / f"{start // per_shard:05d}.tar").open("wb") as file, TarWriter(file) as tar:
            for number in range(start, min(start + per_shard, len(fields))):
                tar.add(f"{number:04d}.png", encode(draw(number)[0]))
                if fields[number] is not None:
                    tar.add(f"{number:04d}.json", json.dumps(fields[number]).encode())
                tar.add(f"{number:04d}.txt", str(number).encode())


def letters(texts):
    return np.stack([np.frombuffer(text.encode().ljust(16, b"\0")[:16], np.uint8).astype(np.int64) for text in texts])


def samples(folder, column):
    store = LocalStore(folder)
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    options = {"tokenize": Tokenizer(letters), "min_side": 16, "folder": folder / "cache"}
    return Samples(shards, World(), concepts=column, **options)


def test_concepts_are_read_from_the_samples(tmp_path):
    fields = [{"topic": "cat"}, {"topic": ["dog", "cat", "dog"]}, {}, None, ["a list"], {"topic": 2.5}, {"topic": []}]
    fields += [{"topic": ["ant", None, "cat"]}, {"topic": "dog"}, {"topic": 7}, {"topic": [7, "7"]}]
    write(tmp_path, fields, per_shard=4)
    found = samples(tmp_path, "topic").index.concepts(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 1]))
    (cat,), both, *none = found[:7]
    (dog,) = found[8]
    assert sorted(both) == sorted([cat, dog]) == sorted(found[9]) and none == [[]] * 5
    assert cat in found[7] and dog not in found[7] and len(found[7]) == 2
    (seven,), (text,) = samples(tmp_path, "topic").index.concepts(np.array([9, 10]))
    assert seven == text
    with pytest.raises(DataError, match="no sample has a concept in the field 'entries'") as caught:
        samples(tmp_path, "entries")
    assert "drop=false" in caught.value.fix
    assert len(samples(tmp_path, None)) == 11


@pytest.mark.parametrize("rule", [Spread(batches=3), Diverse(batches=3)], ids=lambda rule: rule.kind)
def test_ranks_and_a_second_start_see_the_same_samples(tmp_path, rule):
    rng = np.random.default_rng(4)
    topics = rng.choice(["cat", "dog", "ant"], 48, p=[0.5, 0.25, 0.25])
    write(tmp_path, [{"entries": [topic]} for topic in topics.tolist()])
    source = samples(tmp_path, "entries")
    sampler = Batched(Sampler(source.counts, 3), rule, 8, source.index.concepts)
    config = Config(batch_size=8, seed=3)

    def seen(start, stop, size):
        loaders = [Loader(source, config, World(rank=rank, size=size), (16, 16), sampler) for rank in range(size)]
        parts = zip(*[loader.batches(start, stop) for loader in loaders], strict=True)
        texts = [bytes(row).rstrip(b"\0") for ranks in parts for batch in ranks for row in batch.texts.tolist()]
        return [int(text) for text in texts]

    whole = seen(0, 96, 1)
    assert seen(0, 96, 2) == seen(0, 96, 4) == whole
    assert seen(40, 96, 2) == whole[40:]
    if rule.kept == rule.batches:  # each of two epochs has every sample once
        assert sorted(whole[:48]) == sorted(whole[48:]) == list(range(48))
        for block in np.reshape(topics[whole], (4, 3, 8)):  # of three batches
            for topic in ("cat", "dog", "ant"):
                assert np.ptp((block == topic).sum(axis=1)) <= 1
