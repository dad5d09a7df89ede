"""Balancing against plain loops, the paper's among them, and its statistics against the closed form."""

import re
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.errors import ConfigError, DataError, UsageError
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate.balance import Config, run
from pipelines.curate.balance.entries import given_entries
from pipelines.curate.balance.matching import Matcher
from pipelines.curate.balance.sampling import keep_probabilities, uniform
from pipelines.curate.balance.trie import BREAK, Trie
from pipelines.tables import read_table


def plain_match(entries, text):
    """The paper's substring matching: a space on either side, seven punctuation marks spaced out, no case folding."""
    text = f" {text} ".replace("\t", " ").replace("\n", " ")
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    return [index for index, entry in enumerate(entries) if f" {entry} " in text]


def bounded_match(entries, text):
    """Entries with no letter, digit or mark on either side, by regular expressions; any white space between words."""
    expressions = [r"\s+".join(map(re.escape, entry.split())) for entry in entries]
    return [index for index, one in enumerate(expressions) if re.search(rf"(?<!\w){one}(?!\w)", text)]


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "a b", "B", "ä", "b a"]), min_size=1, unique=True)


@given(WORDS, st.text(st.sampled_from("abB ä,.!\t\n'-«»’।()"), max_size=30))
def test_matching_is_at_the_bounds_of_words(entries, text):
    assert Matcher(entries)(text) == bounded_match(entries, text)


@given(WORDS, st.text(st.sampled_from("abB ä,.!\t\n'-"), max_size=30))
def test_whatever_the_paper_matches_is_matched(entries, text):
    assert set(plain_match(entries, text)) <= set(Matcher(entries)(text))


def test_words_are_whole_and_cases_differ():
    assert Matcher(["red", "circle", "red circle"])("A red circle, Red circled; red") == [0, 1, 2]
    assert Matcher(["red"])("Red bored") == []
    assert Matcher([])("anything") == []


@pytest.mark.parametrize(
    ("entry", "held", "not_held"),
    [
        (
            "cat",
            ["the “cat”", "a cat’s tail", "(cat)", "cat—dog", "¿cat?", "#cat", "cat/dog", "cat…"],
            ["cats", "concat"],
        ),
        ("O'Brien", ["Mr O’Brien", "O'Brien's pub"], ["OBrien", "Brien"]),
        ("T-shirt", ["a T-shirt", "T-shirts, a T-shirt"], ["T-shirts", "shirt"]),
        ("C++", ["learn C++", "(C++)"], ["C", "C+"]),
        ("New York", ["in New York", "“New  York”", "New York-based"], ["New, York", "NewYork"]),
        ("eau", ["l’eau", "l'eau"], ["beau"]),
        ("café", ["cafe\u0301 noir", "un café"], ["cafés"]),  # composed or not
        ("लोमड़ी", ["लाल लोमड़ी।", "लोमड़ी॥"], ["लोमड़ियाँ"]),  # dandas end a sentence
        ("कि", [], ["किताब"]),  # a vowel sign belongs to its letter
        ("क", [], ["कि", "क्"]),
        ("می‌کنند", ["بازی می‌کنند."], ["می کنند"]),  # the joiner is inside the word
        ("کتاب", ["قهوه، کتاب؟"], ["کتابها"]),
        ("여우", ["붉은 여우."], ["여우가"]),
        ("狐狸", ["一只红色的狐狸在雪地里", "「狐狸」", "狐狸，猫"], ["狸"]),
        ("太和殿", ["北京故宫的太和殿"], ["太和"]),  # alone ICU breaks it another way than inside
        ("車", ["赤い車と人"], ["電車に乗る"]),
        ("東京タワー", ["東京タワーの夜景", "夜の東京タワー。"], ["東京の夜景"]),
        ("Tシャツ", ["青いTシャツの人"], ["シャツの人"]),
        ("แมว", ["แมวนอนหลับ", "เห็น แมว ๒ ตัว"], ["แ"]),
        ("ໝາ", ["ໝາແດງແລ່ນຢູ່ໃນຫິມະ"], []),
        ("កញ្ជ្រោង", ["កញ្ជ្រោងក្រហមរត់"], []),
        ("နှင်း", ["နှင်းထဲတွင်ပြေးနေသော"], []),
        ("པོ་ཏ་ལ", ["ལྷ་ས་པོ་ཏ་ལ་ཕོ་བྲང"], ["པོ་ཏ"]),
        ("🦊", ["a 🦊!", "🦊🦊"], ["fox"]),
    ],
)
def test_words_are_bounded_as_their_script_has_it(entry, held, not_held):
    matcher = Matcher(["another", entry])
    for text in held:
        assert matcher(text) == [1], text
    for text in not_held:
        assert matcher(text) == [], text


@given(st.lists(st.lists(st.integers(0, 4), max_size=5, unique=True), min_size=1, max_size=20), st.integers(1, 6))
def test_probabilities_are_the_papers(matches, t):
    counts = Counter(entry for row in matches for entry in row)
    expected = []
    for row in matches:
        lost = 1.0
        for entry in row:
            lost *= 1 - t / max(counts[entry], t)
        expected.append(1 - lost)
    rows = np.array([row for row, entries in enumerate(matches) for _ in entries], np.int64)
    held = np.array([counts[entry] for entries in matches for entry in entries], np.int64)
    found = keep_probabilities(rows, held, t, len(matches))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_draws_are_even_and_a_rows_own():
    draws = np.array([uniform(0, str(row)) for row in range(4000)])
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs((draws < 0.1).mean() - 0.1) < 0.02
    assert uniform(0, "a") == uniform(0, "a") != uniform(1, "a")


@pytest.fixture
def metadata(tmp_path):
    """``metadata(name, text)``: an artifact that holds this one file."""

    def make(name: str, text: str) -> Artifact:
        context = Context(tmp_path / f"metadata-{name}")
        context.output.write(f"data/{name}", text.encode())
        return Artifact(context.store, context.finish())

    return make


@pytest.mark.parametrize(("name", "text"), [("m.txt", "red\nNew  York \n\nred\n"), ("m.json", '["red", "New York"]')])
def test_metadata_is_read_from_its_file(metadata, name, text):
    assert given_entries(Config(), metadata(name, text)) == {"": ["New York", "red"]}


def test_metadata_that_is_no_list_of_entries_is_refused(metadata):
    for name, text, words in [
        ("a.json", "{", "not JSON"),
        ("b.json", '{"red": 1}', "not a list"),
        ("c.txt", " \n", "no entry"),
    ]:
        with pytest.raises(DataError, match=words):
            given_entries(Config(), metadata(name, text))
    several = metadata("d.txt", "red\n")
    several.manifest.files.append(several.manifest.files[0])
    with pytest.raises(DataError, match="one file"):
        given_entries(Config(), several)


def test_metadata_comes_from_the_field_or_the_input():
    Config().check_inputs(["selection", "metadata"])
    Config(metadata=["red"]).check_inputs(["selection"])
    with pytest.raises(UsageError, match="both"):
        Config(metadata=["red"]).check_inputs(["selection", "metadata"])


def test_published_limits_have_names():
    assert [Config(t=name).t for name in ("clip", "metaclip_400m", "metaclip_2.5b", "30")] == [
        20_000,
        20_000,
        170_000,
        30,
    ]
    assert Config(t="clip").identity() == Config().identity()
    with pytest.raises(ConfigError, match=r"clip, metaclip_400m"):
        Config(t="laion")


def captions_of(artifact, prefix):
    return [
        row
        for file in artifact.files(f"data/{prefix}-", ".parquet")
        for row in read_table(artifact.store, file.path).to_pylist()
    ]


def test_the_stage(ray_cluster, images_artifact, finished, metadata):
    from pipelines.curate import filter as filtering

    image = Image.new("RGB", (4, 4))
    rows = [(f"a red thing, number {index}", image) for index in range(200)]
    rows += [(f"a rare blue thing, number {index}", image) for index in range(10)] + [("nothing of note", image)] * 3
    config = Config(t=20, metadata=("red", "blue", "green"))
    kept = {}
    for per_shard in (50, 1000):
        images = images_artifact(rows, per_shard)
        selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})
        result = finished(run, config, {"selection": selection})
        kept[per_shard] = [row["uid"] for row in captions_of(result, "kept")]
        reasons = Counter(row["reason"] for row in captions_of(result, "dropped"))
        assert result.manifest.funnel.dropped == reasons
        assert reasons["no_metadata_match"] == 3
        assert sum("blue" in row["caption"] for row in captions_of(result, "kept")) == 10
        assert 8 <= len(kept[per_shard]) - 10 <= 36  # 20 red ones expected, standard deviation 4.2
        away = [row for row in captions_of(result, "dropped") if row["reason"] == "balanced_away"]
        assert {round(row["keep_probability"], 9) for row in away} == {0.1}
    assert kept[50] == kept[1000]  # the layout of shards has no say
    expected = {"5": 10.0, "10": 20.0, "20": 30.0, "40": 50.0, "80": 90.0}
    facts = {"entries": 3, "entries_found": 2, "entries_over_t": 1, "expected": 30.0, "expected_by_t": expected}
    assert result.manifest.facts == facts
    assert [file.path for file in result.files("figures/")] == ["figures/entries.png"]
    assert finished(run, config, {"selection": selection}).manifest == result.manifest
    with pytest.raises(DataError, match="no entry"):
        finished(run, Config(metadata=(" ",)), {"selection": selection})
    inputs = {"selection": selection, "metadata": metadata("three.txt", "red\nblue\ngreen\n")}
    assert finished(run, Config(t=20), inputs).manifest == result.manifest


def test_nothing_is_lost_where_the_entries_are_the_captions_own_and_none_is_too_frequent(
    ray_cluster, images_artifact, finished
):
    from pipelines.curate import filter as filtering

    captions = [f"a red thing, number {index}" for index in range(12)] + ["nothing of note", "嗯", "!?"]
    images = images_artifact([(caption, Image.new("RGB", (4, 4))) for caption in captions], per_shard=4)
    selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})
    result = finished(run, Config(t=12), {"selection": selection})
    assert (result.manifest.funnel.entered, result.manifest.funnel.kept) == (15, 15)
    counts = read_table(result.store, "data/entries.parquet").to_pylist()
    assert {"entry": "red", "before": 12, "after": 12} in counts
    assert result.manifest.facts["entries_over_t"] == 0
    assert not result.store.paths("scratch")
    assert list(result.verify()) == []


def test_a_stage_stopped_behind_any_commit_goes_on_to_the_same_bytes(
    ray_cluster, images_artifact, finished, tmp_path, monkeypatch
):
    from pipelines.curate import filter as filtering

    images = images_artifact([(f"a red thing {n}, {n % 7}", Image.new("RGB", (4, 4))) for n in range(40)], per_shard=10)
    selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})
    config, inputs = Config(t=9, min_count=3), {"selection": selection}
    whole = finished(run, config, inputs).manifest
    monkeypatch.setattr("infra.cluster.loop._ANSWER_S", 0.0)  # an event with each answer

    class Stopped(Exception):
        pass

    for later in range(1, 60):  # the driver dies at its first event, at its second, ..., until it has come through
        left = iter(range(later))

        def stop(event, left=left):
            if next(left, None) is None:
                raise Stopped

        with suppress(Stopped):
            assert run(config, inputs, Context(tmp_path / "killed", emit=stop)) == whole
            break
    assert 4 < later < 55
    assert run(config, inputs, Context(tmp_path / "killed")) == whole


WORDS_AND_PHRASES = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "é", "-", "狐狸", "'"]), min_size=1, max_size=4).map(" ".join), max_size=12
)


@given(WORDS_AND_PHRASES, st.lists(st.text(st.sampled_from("abcé狐狸-\u2019' \n"), max_size=12), max_size=8))
def test_texts_are_matched_together_as_one_by_one(entries, texts):
    entries = sorted(set(entries))
    matcher = Matcher(entries)
    assert matcher.match(texts).to_pylist() == [matcher(text) for text in texts]


def test_a_trie_finds_what_plain_loops_find():
    random = np.random.default_rng(0)
    sequences = list({tuple(random.choice(list("abcdef"), random.integers(1, 5)).tolist()) for _ in range(300)})
    texts = [random.choice(list("abcdefg"), random.integers(0, 30)).tolist() for _ in range(50)]
    trie = Trie(sequences)
    ids = [number for text in texts for number in [*trie.ids(text), BREAK]][:-1]
    found = Counter(zip(*(part.tolist() for part in trie.find(np.array(ids))), strict=True))
    expected = Counter(
        (row, which)
        for row, text in enumerate(texts)
        for which, sequence in enumerate(sequences)
        for start in range(len(text))
        if tuple(text[start : start + len(sequence)]) == sequence
    )
    assert found == expected and len(expected) > 500
