"""Balancing against the plain loop the paper gives, and its statistics against the closed form."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.errors import DataError, UsageError
from infra.run.context import Context
from infra.run.manifest import Artifact
from infra.store import LocalStore
from pipelines.curate.balance import Config, run
from pipelines.curate.balance.entries import entries_of, list_entries, spaced
from pipelines.curate.balance.matching import Matcher
from pipelines.curate.balance.sampling import keep_probabilities, uniform
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
    assert list_entries(Config(), metadata(name, text), LocalStore("/nowhere"), []) == ["New York", "red"]


def test_metadata_that_is_no_list_of_entries_is_refused(metadata):
    for name, text, words in [
        ("a.json", "{", "not JSON"),
        ("b.json", '{"red": 1}', "not a list"),
        ("c.txt", " \n", "no entry"),
    ]:
        with pytest.raises(DataError, match=words):
            list_entries(Config(), metadata(name, text), LocalStore("/nowhere"), [])
    several = metadata("d.txt", "red\n")
    several.manifest.files.append(several.manifest.files[0])
    with pytest.raises(DataError, match="one file"):
        list_entries(Config(), several, LocalStore("/nowhere"), [])


def test_metadata_comes_from_the_field_or_the_input():
    Config().check_inputs(["selection", "metadata"])
    Config(metadata=["red"]).check_inputs(["selection"])
    with pytest.raises(UsageError, match="both"):
        Config(metadata=["red"]).check_inputs(["selection", "metadata"])


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
    assert result.manifest.facts == {"entries": 3, "entries_found": 2, "entries_over_t": 1}
    assert [file.path for file in result.files("figures/")] == ["figures/entries.png"]
    assert finished(run, config, {"selection": selection}).manifest == result.manifest
    with pytest.raises(DataError, match="no entry"):
        finished(run, Config(metadata=(" ",)), {"selection": selection})
    inputs = {"selection": selection, "metadata": metadata("three.txt", "red\nblue\ngreen\n")}
    assert finished(run, Config(t=20), inputs).manifest == result.manifest
