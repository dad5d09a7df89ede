"""Balancing images whose captions were pooled: every caption of a row counts, and a row once an entry."""

import random
from collections import Counter

import pyarrow as pa
import pytest

from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate.balance import Config, run
from pipelines.curate.balance.sampling import uniform
from pipelines.curate.captions import read_texts
from pipelines.tables import read_table

WORDS = ["cat", "dog", "fox", "owl", "bee", "ant", "elk"]


def selection_of(folder, rows, per_shard=40, captions=None) -> Artifact:
    """A selection of ``rows``; ``captions``: type of their column of that name."""
    context = Context(folder)
    for start in range(0, len(rows), per_shard):
        shard = start // per_shard
        part = [{"uid": f"{start + n:032x}", "key": f"{start + n}", "shard": shard} | row
                for n, row in enumerate(rows[start : start + per_shard])]  # fmt: skip
        table = pa.Table.from_pylist(part)
        if captions is not None:
            place = table.column_names.index("captions")
            table = table.set_column(place, "captions", table["captions"].cast(captions))
        context.output.write_table(f"data/kept-{shard:05d}.parquet", table)
    return Artifact(context.store, context.finish())


def balanced(folder, config, selection):
    context = Context(folder)
    artifact = Artifact(context.store, run(config, {"selection": selection}, context))
    tables = {name: [read_table(artifact.store, file.path).to_pylist() for file in artifact.files(f"data/{name}")]
              for name in ("kept", "dropped", "entries")}  # fmt: skip
    return artifact, {name: [row for part in parts for row in part] for name, parts in tables.items()}


def pooled(random, most=4):
    """Captions of one image: none, one or several, words again in several of them."""
    weights = [2.0**-place for place in range(len(WORDS))]
    captions = [
        " ".join(random.choices(WORDS, weights, k=random.randint(1, 3))) for _ in range(random.randint(1, most))
    ]
    return {"caption": captions[0], "captions": random.choice([captions, captions, captions, None])}


def plain_loop(rows, t, seed=0):
    """Counts, probabilities and kept rows, by loops over all captions of each row."""
    held = [{word for text in row["captions"] or [row["caption"]] for word in text.split()} for row in rows]
    counts = Counter(word for words in held for word in words)
    chances = []
    for words in held:
        lost = 1.0
        for word in words:
            lost *= 1 - t / max(counts[word], t)
        chances.append(1 - lost)
    kept = [f"{n:032x}" for n, chance in enumerate(chances) if uniform(seed, f"{n:032x}") < chance]
    return counts, chances, kept, Counter(word for n, words in enumerate(held) if f"{n:032x}" in kept for word in words)


@pytest.mark.parametrize("t", [5, 20])
def test_all_captions_of_a_row_count_as_in_a_plain_loop(ray_cluster, tmp_path, t):
    rng = random.Random(t)
    rows = [pooled(rng) for _ in range(150)]
    counts, chances, kept, left = plain_loop(rows, t)
    artifact, tables = balanced(tmp_path / "b", Config(t=t, metadata=WORDS), selection_of(tmp_path / "s", rows))
    assert [row["uid"] for row in tables["kept"]] == kept
    assert {row["entry"]: (row["before"], row["after"]) for row in tables["entries"]} == {
        word: (counts[word], left[word]) for word in WORDS
    }
    dropped = {row["uid"]: row["keep_probability"] for row in tables["dropped"]}
    assert dropped == pytest.approx(
        {uid: chance for n, chance in enumerate(chances) if (uid := f"{n:032x}") in dropped}
    )
    assert artifact.manifest.facts["expected"] == round(sum(chances), 1)
    alone = [row | {"captions": None} for row in rows]
    assert plain_loop(alone, t)[0] != counts  # the pooled captions do matter


def test_without_drop_all_rows_stay_and_say_how_frequent_their_entries_are(ray_cluster, tmp_path):
    rng = random.Random(3)
    rows = [pooled(rng) for _ in range(90)] + [{"caption": "nothing", "captions": None}]
    counts, chances, _, _ = plain_loop(rows[:90], 20)
    selection = selection_of(tmp_path / "s", rows)
    artifact, tables = balanced(tmp_path / "b", Config(t=20, metadata=WORDS, drop=False), selection)
    assert artifact.manifest.funnel.dropped == {"no_metadata_match": 1}
    assert [row["keep_probability"] for row in tables["kept"]] == pytest.approx(chances)
    for row, given in zip(tables["kept"], rows, strict=False):
        held = {word for text in given["captions"] or [given["caption"]] for word in text.split()}
        assert sorted(row["times_limit"]) == pytest.approx(sorted(counts[word] / 20 for word in held), rel=1e-5)
    assert {row["entry"]: row["after"] for row in tables["entries"]} == {word: counts[word] for word in WORDS}
    assert artifact.manifest.facts["expected"] == round(sum(chances), 1)
    own, tables = balanced(tmp_path / "own", Config(t=20, min_count=5, drop=False), selection)
    assert own.manifest.funnel.kept == 91
    assert [row["times_limit"] for row in tables["kept"]][-1] == []


def test_captions_of_several_languages_count_in_each(ray_cluster, tmp_path):
    lists = [
        ["a red cat in my garden", "eine rote Katze im Garten, rot"],
        ["the taxi waits at the corner", "das Taxi steht hinter dem Haus"],
        ["ein Taxi wartet hier an der Ecke"],
        ["a taxi waits for you", "another taxi waits for you"],
    ]
    rows = [{"caption": texts[0], "captions": texts, "caption_language": "en"} for texts in lists]
    rows[2] |= {"captions": None, "caption_language": "de"}
    config = Config(t=100, by_language=True, metadata=("taxi", "Taxi", "rot", "red"))
    _, tables = balanced(tmp_path / "b", config, selection_of(tmp_path / "s", rows))
    counts = {(row["language"], row["entry"]): row["before"] for row in tables["entries"]}
    assert counts == {("en", "red"): 1, ("de", "rot"): 1, ("en", "taxi"): 2, ("de", "Taxi"): 2}


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (pa.list_(pa.string()), [(0, "own"), (0, "other"), (2, "third")]),
        (pa.large_list(pa.string()), [(0, "own"), (0, "other"), (2, "third")]),
        (pa.string(), [(0, "own"), (1, "second"), (2, "third")]),  # a column of a list's own
    ],
)
def test_captions_are_pooled_where_the_column_holds_lists(tmp_path, captions, expected):
    lists = [["own", "other"], [], None] if not pa.types.is_string(captions) else ["x", None, "y"]
    rows = [
        {"caption": text, "captions": several} for text, several in zip(["own", "second", "third"], lists, strict=True)
    ]
    selection = selection_of(tmp_path / "s", rows, captions=captions)
    texts = read_texts(selection.store, "data/kept-00000.parquet", False)
    assert list(zip(texts.rows.tolist(), texts.texts, strict=True)) == expected
