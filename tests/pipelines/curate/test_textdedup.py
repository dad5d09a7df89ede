"""Textdedup against brute force in plain Python: pairs, who stays, whose captions; in any script, with any workers."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cluster import Limits
from infra.errors import DataError
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate import textdedup
from pipelines.curate.textdedup.minhash import Bands
from pipelines.curate.textdedup.shingles import jaccard, shingles
from pipelines.tables import read_table

pytestmark = pytest.mark.long  # compares all with all

ROWS = 1500
WORDS = ("red", "blue", "old", "new", "chair", "table", "lamp", "house", "dog", "cat", "on", "near", "with", "a")


def captions(seed: int, rows: int = ROWS) -> list[str]:
    """Captions of 4 to 14 words; a half are others with words left out, added or changed."""
    rng = np.random.default_rng(seed)
    made: list[str] = []
    for _ in range(rows):
        if made and rng.random() < 0.5:
            words = made[rng.integers(len(made))].split()
            for _ in range(rng.integers(0, 3)):
                place, new = int(rng.integers(len(words))), [str(rng.choice(WORDS))]
                words[place : place + int(rng.integers(2))] = new[: int(rng.integers(2))]
                words = words or new
        else:
            words = [str(word) for word in rng.choice(WORDS, rng.integers(4, 15))]
        made.append(" ".join(words))
    return made


def sets_of(texts, words=2) -> list[set]:
    """Shingles in plain Python, of texts in Latin letters."""
    found = []
    for text in texts:
        own = re.findall(r"\w+", (text or "").casefold())
        found.append({tuple(own[n : n + words]) for n in range(max(1, len(own) - words + 1))} if own else set())
    return found


def similarity(one: set, other: set) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0


def brute_force(texts, areas, threshold) -> dict[int, int]:
    """What goes, and what stays instead: leaders in order of preference."""
    sets, stays, gone = sets_of(texts), [], {}
    for row in sorted(range(len(texts)), key=lambda row: (-areas[row], row)):
        like = next((other for other in stays if similarity(sets[row], sets[other]) >= threshold), None)
        if like is None:
            stays.append(row)
        else:
            gone[row] = like
    return gone


@pytest.fixture
def pool(tmp_path, images_artifact, monkeypatch):
    """``pool(texts, areas)``: inputs of as many rows, seven shards of them; galleries are not what this is about."""
    monkeypatch.setattr("pipelines.curate.gallery.draw", lambda *args: None)

    def make(texts, areas=None, **more):
        selection = Context(tmp_path / "selection")
        areas = areas or [1] * len(texts)
        for shard, rows in enumerate(np.array_split(np.arange(len(texts)), 7)):
            columns = {
                "uid": [f"{row:032x}" for row in rows],
                "key": [f"{row:09d}" for row in rows],
                "caption": [texts[row] for row in rows],
                **{name: [values[row] for row in rows] for name, values in more.items()},
            }
            table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
            table = table.append_column("shard", pa.array([shard] * len(rows), pa.int32()))
            sizes = {"original_width": [areas[row] for row in rows], "original_height": [1] * len(rows)}
            for name, values in sizes.items():
                table = table.append_column(name, pa.array(values, pa.int32()))
            selection.output.write_table(f"data/kept-{shard:05d}.parquet", table)
        return {"images": images_artifact([]), "selection": Artifact(selection.store, selection.finish())}

    return make


def table(artifact, kind) -> list[dict]:
    files = artifact.files(f"data/{kind}-", ".parquet")
    return [row for file in files for row in read_table(artifact.store, file.path).to_pylist()]


def gone(artifact) -> dict[int, int]:
    return {int(row["uid"], 16): int(row["duplicate_of"], 16) for row in table(artifact, "dropped")}


def in_small_parts(monkeypatch, rows=120, entries=600):
    monkeypatch.setattr("pipelines.curate.textdedup.steps._ROWS", rows)
    monkeypatch.setattr("pipelines.curate.textdedup.steps._ENTRIES", entries)
    monkeypatch.setattr("pipelines.curate.dedup.leaders.FEW", 50)
    monkeypatch.setattr("pipelines.curate.textdedup.work._PAIRS", 100)
    monkeypatch.setattr("pipelines.curate.textdedup.work._COMPARED", 70)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 1.0])
def test_equal_to_brute_force(pool, finished, monkeypatch, threshold):
    """With a probability of missing a pair so small that none is missed."""
    in_small_parts(monkeypatch)
    texts, areas = captions(1), np.random.default_rng(2).integers(1, 9, ROWS).tolist()
    config = textdedup.Config(threshold=threshold, missed=1e-9, max_bucket=10_000)
    made = finished(textdedup.run, config, pool(texts, areas))
    expected = brute_force(texts, areas, threshold)
    assert gone(made) == expected and len(expected) > 100
    sets = sets_of(texts)
    reasons = {int(row["uid"], 16): row["reason"] for row in table(made, "dropped")}
    for row, original in expected.items():
        assert (reasons[row] == "duplicate_text") <= (sets[row] == sets[original]) or threshold < 1
    assert set(reasons.values()) == {"duplicate_text"} | ({"near_duplicate_text"} if threshold < 1 else set())
    assert made.manifest.funnel.entered == ROWS and made.manifest.funnel.kept == ROWS - len(expected)


def test_misses_no_more_than_it_says_and_merges_nothing_falsely(pool, finished):
    texts = captions(3, 3000)
    config = textdedup.Config(missed=0.2, captions="own")
    facts = finished(textdedup.run, config, pool(texts)).manifest.facts
    distinct = {frozenset(one): one for one in sets_of(texts)}  # equal sets leave before the search
    alike = [similarity(*pair) for pair in itertools.combinations(distinct.values(), 2) if similarity(*pair) >= 0.7]
    bands = Bands.of(0.7, 0.2)
    misses = np.array([bands.misses(one) for one in alike])
    assert bands.misses(0.7) <= 0.2 and misses.sum() > 20
    deviation = (misses * (1 - misses)).sum() ** 0.5
    missed = len(alike) - facts["pairs"]
    # None that is not alike is among the pairs, so all that lacks was missed; pairs of one text are not independent.
    assert 0 < missed < misses.sum() + 5 * deviation


def test_sets_meet_as_often_as_their_similarity_says():
    """The share of equal bands, and bits of sketches, of sets of known similarity, against MinHash's own formula."""
    rng = np.random.default_rng(0)
    bands = Bands(rows=1, count=100)
    for common, other in ((30, 10), (20, 20), (5, 35)):
        values = rng.integers(0, 2**64, (400, common + 2 * other), dtype=np.uint64)
        one, two = values[:, : common + other], np.delete(values, slice(common, common + other), axis=1)
        bounds = np.arange(401) * (common + other)
        (keys, sketches), (other_keys, other_sketches) = (bands.keys(sets.ravel(), bounds) for sets in (one, two))
        agree = keys == other_keys
        true = common / (common + 2 * other)
        bits, half = bands.bits - np.bitwise_count(sketches ^ other_sketches).astype(int), (1 + true) / 2
        assert (bits >= bands.fewest_bits(true)).all()
        assert bits.mean() / bands.bits == pytest.approx(half, abs=4 * (half * (1 - half) / 400 / bands.bits) ** 0.5)
        assert agree.mean() == pytest.approx(true, abs=4 * (true * (1 - true) / agree.size) ** 0.5)


@given(st.floats(0.05, 1), st.floats(1e-6, 0.5))
def test_bands_miss_as_rarely_as_was_asked(threshold, missed):
    bands = Bands.of(threshold, missed)
    assert bands.misses(threshold) <= missed * (1 + 1e-6)
    assert bands.rows * bands.count <= 128 or bands.rows == 1


@given(st.lists(st.text("ab12 .,-", max_size=12) | st.none(), max_size=8), st.integers(1, 3))
def test_shingles_are_those_of_plain_python(texts, words):
    hashes, bounds = shingles(texts, words)
    own = [hashes[start:end] for start, end in itertools.pairwise(bounds.tolist())]
    expected = sets_of(texts, words)
    assert [len(one) for one in own] == [len(one) for one in expected]
    assert all((np.diff(one.astype(object)) > 0).all() for one in own)
    pairs = list(itertools.product(range(len(texts)), repeat=2))

    def flat(rows):
        sizes = np.array([len(own[row]) for row in rows], np.int64)
        return np.concatenate([np.empty(0, np.uint64), *(own[row] for row in rows)]), np.r_[0, np.cumsum(sizes)]

    found = jaccard(flat([one for one, _ in pairs]), flat([other for _, other in pairs]))
    assert found.tolist() == [similarity(expected[one], expected[other]) for one, other in pairs]


ALIKE = [
    ("北京故宫的太和殿在阳光下的照片", "北京故宫的太和殿在阳光下的照片。", "上海外滩的夜景在灯光下的照片"),
    ("東京タワーの夜景と赤い電車の写真", "東京タワーの夜景と赤い電車の写真！", "京都の金閣寺と白い雪の景色の写真"),
    ("แมวสีดำนอนอยู่บนโต๊ะไม้ในบ้านหลังเก่า", "แมวสีดำนอนอยู่บนโต๊ะไม้ในบ้านหลังเก่า!", "สุนัขสีขาววิ่งเล่นบนชายหาดตอนเย็น"),
    ("Ein roter Stuhl, neben dem Tisch", "ein roter Stuhl neben dem Tisch!", "Ein alter Schrank vor dem Haus"),
    ("Кот спит на старом столе", "кот спит на старом столе", "Собака бежит по белому снегу"),
    ("L’été à la mer — café", "l'été à la mer: café", "L’hiver à la montagne — thé"),
]


@pytest.mark.parametrize("texts", ALIKE, ids=range(len(ALIKE)))
def test_in_any_script(pool, finished, texts):
    made = finished(textdedup.run, textdedup.Config(), pool(list(texts)))
    assert gone(made) == {1: 0}


def test_a_word_changed_in_a_text_without_spaces(pool, finished):
    """Of two sentences of Chinese that differ in one word most pairs of words are the same; of two others none."""
    texts = ["一只黑色的猫在公园的木头长椅上睡觉", "一只白色的猫在公园的木头长椅上睡觉", "城市里的火车站每天都有旅客"]
    assert gone(finished(textdedup.run, textdedup.Config(threshold=0.6), pool(texts))) == {1: 0}


def test_what_counts_as_a_word(pool, finished):
    words = ["drill bit 12 mm", "drill bit 13 mm", "book on C", "book on C++"]
    texts = [*words, "!?", "...", "", None, "😀 smile", "smile"]
    made = finished(textdedup.run, textdedup.Config(), pool(texts))
    assert gone(made) == {}  # of texts without words none equals another
    again = finished(textdedup.run, textdedup.Config(), pool([*words, "Drill-bit: 12 mm!", "BOOK ON C++"]))
    assert gone(again) == {4: 0, 5: 3}


def test_captions_are_pooled_by_the_rule_of_dedup(pool, finished):
    texts = ["a red chair by the old table", "A red chair by the old table!", "a red chair by the old table in Rome"]
    texts.append("a lamp")
    inputs = pool(texts, [1, 1, 5, 1], caption_language=["en", "en", "it", "en"], cluster=["x", "x", "y", "z"])
    made = finished(textdedup.run, textdedup.Config(), inputs)
    (stays, lamp) = table(made, "kept")
    assert (stays["caption"], stays["captions"]) == (texts[2], [texts[2], texts[0], texts[1]])
    assert lamp["captions"] == [texts[3]]
    reasons = {row["caption"]: row["reason"] for row in table(made, "dropped")}
    assert reasons == {texts[0]: "near_duplicate_text", texts[1]: "duplicate_text"}
    rows = [*table(made, "kept"), *table(made, "dropped")]
    clusters = {row["caption"]: int(row["text_cluster"], 16) for row in rows}
    assert clusters == dict(zip(texts, (2, 2, 2, 3), strict=True))
    assert {row["caption"]: row["cluster"] for row in rows} == dict(zip(texts, "xxyz", strict=True))  # dedup's own
    by_language = finished(textdedup.run, textdedup.Config(captions="by_language"), inputs)
    assert table(by_language, "kept")[0]["captions"] == [texts[2], texts[0]]
    marked = finished(textdedup.run, textdedup.Config(drop=False), inputs)
    assert [row["duplicate_of"] and int(row["duplicate_of"], 16) for row in table(marked, "kept")] == [2, 2, None, None]


def test_another_column_is_compared(pool, finished):
    inputs = pool(["one", "two", "three"], context=["the same words here", "the same words here", None])
    assert gone(finished(textdedup.run, textdedup.Config(column="context"), inputs)) == {1: 0}
    with pytest.raises(DataError, match="no column 'nothing'"):
        finished(textdedup.run, textdedup.Config(column="nothing"), inputs)


def test_a_bucket_that_is_too_large_says_so(pool, finished, caplog):
    """Captions of one template: each is compared with the first few only, and who is told."""
    texts = [f"apartment for rent in the old town near the market number {number}" for number in range(300)]
    made = finished(textdedup.run, textdedup.Config(max_bucket=4), pool(texts))
    assert len(table(made, "kept")) == 1
    assert made.manifest.facts["largest_bucket"] > 250 and "max_bucket=4" in caplog.text


@pytest.mark.parametrize("texts", [[], ["one"], [None] * 9, ["the same words"] * 50])
def test_few_and_equal_texts(pool, finished, texts):
    made = finished(textdedup.run, textdedup.Config(), pool(texts))
    assert made.manifest.funnel.entered == len(texts)
    assert made.manifest.funnel.kept == (1 if texts[:1] == ["the same words"] else len(texts))


def digests(artifact) -> dict[str, str]:
    return {file.path: file.sha256 for file in artifact.manifest.files if file.path.startswith("data/")}


def test_bytes_are_the_same_for_any_workers_parts_and_kills(
    ray_cluster, pool, finished, monkeypatch, tmp_path, killed_until_done
):
    inputs, config = pool(captions(5, 600)), textdedup.Config()
    expected = digests(finished(textdedup.run, config, inputs))
    in_small_parts(monkeypatch)
    killed = killed_until_done(lambda: finished(textdedup.run, config, inputs, tmp_path / "killed"))
    assert digests(killed) == expected
    assert not list(killed.store.paths("exchange")) and not list(killed.store.paths("scratch"))
    monkeypatch.setattr("pipelines.curate.textdedup.steps._SMALL", 0)
    for workers in (1, 2, 4):
        limited = config.replace(limits=Limits(in_flight=workers))
        assert digests(finished(textdedup.run, limited, inputs)) == expected
