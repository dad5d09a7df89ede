"""Balancing against the plain loop the paper gives, and its statistics against the closed form."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.errors import ConfigError, DataError
from pipelines.curate.balance.stage import Config, Matcher, entries_of, keep_probabilities, run, spaced, uniform
from pipelines.tables import read_table


def plain_match(entries, text):
    """The paper's substring matching: a space on either side, seven punctuation marks spaced out, no case folding."""
    text = f" {text} ".replace("\t", " ").replace("\n", " ")
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    return [index for index, entry in enumerate(entries) if f" {entry} " in text]


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "a b", "B", "ä", "b a", "."]), min_size=1, unique=True)


@given(WORDS, st.text(st.sampled_from("abB ä,.!\t\n"), max_size=30))
def test_matching_is_the_plain_loops(entries, text):
    assert Matcher(entries)(text) == plain_match(entries, text)


def test_words_are_whole_and_cases_differ():
    assert Matcher(["red", "circle", "red circle"])("A red circle, Red circled; red") == [0, 1, 2]
    assert Matcher(["red"])("Red bored") == []
    assert Matcher([])("anything") == []
    assert spaced("a,b\n") == " a , b  "


@given(st.lists(st.lists(st.integers(0, 4), max_size=5, unique=True), min_size=1, max_size=20), st.integers(1, 6))
def test_probabilities_are_the_papers(matches, t):
    counts = Counter(entry for row in matches for entry in row)
    expected = []
    for row in matches:
        lost = 1.0
        for entry in row:
            lost *= 1 - t / max(counts[entry], t)
        expected.append(1 - lost)
    column = pa.chunked_array([pa.array(matches, pa.list_(pa.int32()))])
    found = keep_probabilities(column, np.array([counts[entry] for entry in range(5)]), t)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_entries_come_from_the_captions():
    captions = [
        "New York at night",
        "New York by day",
        "a New York cab",
        "a cat",
        "a cat at night",
        "a dog",
        "Figure 3",
    ]
    entries = entries_of(captions, min_count=2, min_pmi=3.0)
    assert entries == ["New", "New York", "York", "a", "at", "at night", "cat", "night"]
    assert "a cat" in entries_of(captions, min_count=2, min_pmi=2.0)
    assert entries_of([], 1, 0.0) == []


def test_draws_are_even_and_a_rows_own():
    draws = np.array([uniform(0, str(row)) for row in range(4000)])
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs((draws < 0.1).mean() - 0.1) < 0.02
    assert uniform(0, "a") == uniform(0, "a") != uniform(1, "a")


def test_metadata_counts_by_content(tmp_path):
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    for path in (one, other):
        path.write_text("red\nblue\n")
    assert Config(metadata=str(one)).identity() == Config(metadata=str(other)).identity()
    other.write_text("red\n")
    assert Config(metadata=str(one)).identity() != Config(metadata=str(other)).identity()
    with pytest.raises(ConfigError, match="metadata"):
        Config(metadata=str(tmp_path / "none.txt"))


def captions_of(artifact, prefix):
    return [
        row
        for file in artifact.files(f"data/{prefix}-", ".parquet")
        for row in read_table(artifact.store, file.path).to_pylist()
    ]


def test_the_stage(ray_cluster, images_artifact, finished):
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
    assert result.manifest.facts == {"entries": 3, "entries_found": 2, "entries_over_t": 1}
    assert [file.path for file in result.files("figures/")] == ["figures/entries.png"]
    assert finished(run, config, {"selection": selection}).manifest == result.manifest
    with pytest.raises(DataError, match="no entry"):
        finished(run, Config(metadata=(" ",)), {"selection": selection})
