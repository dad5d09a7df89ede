"""Balancing each language by itself: counts and limits against plain loops, entries of each language, the stage."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.errors import DataError
from infra.run.context import Context, Output
from infra.run.manifest import Artifact
from infra.store import LocalStore
from pipelines.curate import filter as filtering
from pipelines.curate.balance import Config, run
from pipelines.curate.balance.counting import Totals, write_counts
from pipelines.curate.balance.entries import given_entries
from pipelines.curate.balance.matching import Matchers
from pipelines.curate.balance.sampling import limits_by_language
from pipelines.tables import read_table

ENTRIES = st.lists(st.integers(0, 4), max_size=4, unique=True)


@pytest.mark.long
@given(st.lists(st.tuples(st.sampled_from(["de", "en", "ja"]), ENTRIES), max_size=30), st.integers(1, 6))
def test_counts_and_limits_are_those_of_each_language(tmp_path_factory, rows, t):
    store = LocalStore(tmp_path_factory.mktemp("counts"))
    hits = [(row, language, entry) for row, (language, entries) in enumerate(rows) for entry in entries]
    columns = dict(zip(("row", "language", "entry"), zip(*hits, strict=True), strict=True)) if hits else {}
    schema = pa.schema({"row": pa.int64(), "language": pa.string(), "entry": pa.int32()})
    write_counts(Output(store), "all", pa.table(columns, schema) if hits else schema.empty_table())
    totals = Totals(read_table(store, "scratch/all.parquet"))
    counts = Counter((language, entry) for language, entries in rows for entry in entries)
    for language in ("de", "en", "ja", "xx"):
        code = totals.codes_of(pa.chunked_array([[language]]))
        assert totals.of(np.repeat(code, 5), np.arange(5)).tolist() == [counts[language, entry] for entry in range(5)]

    limits = limits_by_language(totals, t, "en")
    assert limits.keys() == {language for language, _ in counts}
    if "en" not in limits:
        assert set(limits.values()) <= {t}
        return

    def tail(language, limit):
        own = [count for (other, _), count in counts.items() if other == language]
        return Fraction(sum(count for count in own if count < limit), sum(own))

    assert limits.pop("en") == t
    for language, limit in limits.items():  # the largest limit whose tail is not above English's, as far as counts tell
        assert tail(language, limit) <= tail("en", t)
        largest = max(count for (other, _), count in counts.items() if other == language)
        assert tail(language, limit + 1) > tail("en", t) or limit == largest


def test_entries_of_a_language_are_matched_in_its_captions_only():
    matchers = Matchers({"de": ["rot"], "en": ["red", "rot"], "": ["x"]})  # numbered 0: x, 1: rot, 2: red, 3: rot
    found = matchers.match(["rot x", "rot x", None, "red", "rot x"], ["de", "en", "en", "ja", "ja"])
    assert found.to_pylist() == [[1], [3], [], [], [0]]
    assert Matchers({"en": ["red"]}).match(["red", "red"], ["de", "en"]).to_pylist() == [[], [0]]
    assert Matchers({}).match(["red"], ["de"]).to_pylist() == [[]]
    assert Matchers({}).match([], []).to_pylist() == []


@pytest.mark.parametrize(
    "files",
    [
        {"en.txt": "red\nNew York\n", "de.json": '["rot"]'},
        {"all.json": '{"en": ["red", "New  York", ""], "de": ["rot", "rot"]}'},
    ],
)
def test_metadata_by_language_is_read_from_files_or_one_object(tmp_path, files):
    metadata = _metadata(tmp_path, files)
    assert given_entries(Config(by_language=True), metadata) == {"de": ["rot"], "en": ["New York", "red"]}
    with pytest.raises(DataError, match=r"one file|not a list"):
        given_entries(Config(), metadata)


def test_metadata_by_language_that_is_none_is_refused(tmp_path):
    metadata = _metadata(tmp_path, {"x.json": '{"en": ["red"], "de": "rot"}'})
    with pytest.raises(DataError, match="'de' is not a list"):
        given_entries(Config(by_language=True), metadata)


def _metadata(folder, files):
    context = Context(folder / "metadata")
    for name, text in files.items():
        context.output.write(f"data/{name}", text.encode())
    return Artifact(context.store, context.finish())


def test_the_stage_balances_a_language_by_itself(ray_cluster, images_artifact, finished):
    image = Image.new("RGB", (4, 4))
    english = [f"a red thing in the garden of my house, number {index}" for index in range(120)]
    english += [f"a rare blue bird was seen at the lake, number {index}" for index in range(10)]
    german = [f"ein rotes Ding im Garten hinter dem Haus, Nummer {index}" for index in range(12)]
    german += ["ein seltener blauer Vogel wurde am See gesehen"]
    images = images_artifact([(caption, image) for caption in english + german], per_shard=50)
    selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})

    # Of English the tail, blue, is 10 of 130 matches, of German 1 of 13: the limit there is 12, and all stay.
    config = Config(t=20, by_language=True, metadata=("blue", "red", "rotes", "blauer"))
    result = finished(run, config, {"selection": selection})
    assert result.manifest.facts["t_by_language"] == {"de": 12, "en": 20}
    counts = read_table(result.store, "data/entries.parquet").to_pylist()
    before = {(row["language"], row["entry"]): row["before"] for row in counts}
    assert before == {("de", "blauer"): 1, ("de", "rotes"): 12, ("en", "blue"): 10, ("en", "red"): 120}
    after = {row["entry"]: row["after"] for row in counts}
    assert (after["blauer"], after["rotes"], after["blue"]) == (1, 12, 10)
    assert 8 <= after["red"] <= 36  # 20 expected, standard deviation 4.1

    # Entries of the captions' own are each language's, too.
    own = finished(run, Config(t=1000, min_count=12, by_language=True), {"selection": selection})
    entries = {language: set() for language in ("de", "en")}
    for row in read_table(own.store, "data/entries.parquet").to_pylist():
        entries[row["language"]].add(row["entry"])
    assert {"Garten", "rotes"} <= entries["de"]
    assert {"garden", "red"} <= entries["en"]
    assert not entries["de"] & entries["en"] - {","}
    assert own.manifest.funnel.kept == len(english + german)
