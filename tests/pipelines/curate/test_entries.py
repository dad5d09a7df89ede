"""Entries counted in captions and corpora: against plain loops, in many lots and parts, killed, and into balance."""

import json
import math
import random
from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cluster import Limits
from infra.errors import DataError, UsageError
from infra.run.context import Context
from infra.run.manifest import Artifact
from infra.store import LocalStore
from pipelines import adopt
from pipelines.curate import balance, entries
from pipelines.curate.balance.matching import Matcher
from pipelines.curate.entries import Config, corpus, work
from pipelines.curate.entries import words as counting
from pipelines.curate.entries.words import WordCounter, chosen
from pipelines.tables import read_table


def entries_of(captions, min_count, min_pmi):
    counter = WordCounter()
    for caption in captions:
        counter.add("", [caption])
    counts = counter.table()
    alone = [row["second"] == "" for row in counts.to_pylist()]
    times = counts["times"].to_pylist()
    words = sum(count for count, single in zip(times, alone, strict=True) if single)
    frequent = counts.filter(pa.array([count >= min_count for count in counts["texts"].to_pylist()], pa.bool_()))
    return chosen(frequent, words, sum(times) - words, min_pmi)["entry"].to_pylist()


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
    found = entries_of(captions, min_count=2, min_pmi=3.0)
    assert found == ["New", "New York", "York", "a", "at", "at night", "cat", "night"]
    assert "a cat" in entries_of(captions, min_count=2, min_pmi=2.0)
    assert entries_of([], 1, 0.0) == []


def test_entries_come_from_captions_without_spaces():
    captions = ["红色的狐狸", "狐狸在雪地里", "一只狐狸", "一只猫", "东京塔的夜景", "猫。狐狸"]
    assert entries_of(captions, min_count=3, min_pmi=99.0) == ["狐狸"]
    captions = ["東京タワーの夜景", "東京タワーの朝", "夜景の写真"] * 3
    found = entries_of(captions, min_count=3, min_pmi=1.0)
    assert {"東京タワー", "夜景", "東京タワーの"} <= set(found)
    matcher = Matcher(found)
    assert all(matcher(text) for text in ("東京タワーの夜景", "朝の写真"))


def test_words_on_both_sides_of_a_mark_are_no_pair():
    assert entries_of(["Paris, France"] * 5, min_count=2, min_pmi=0.0) == ["France", "Paris"]


def test_captions_of_a_row_count_as_one_text(monkeypatch):
    monkeypatch.setattr(counting, "_AT_ONCE", 2)
    counter = WordCounter()
    for captions in (["cat dog", "a cat dog"], ["dog"]):
        counter.add("", captions)
    found = {(row["first"], row["second"]): (row["times"], row["texts"]) for row in counter.table().to_pylist()}
    assert found == {
        ("a", ""): (1, 1),
        ("a", "cat"): (1, 1),
        ("cat", ""): (2, 1),
        ("cat", "dog"): (2, 1),
        ("dog", ""): (3, 2),
    }


# --- the stage --------------------------------------------------------------------------------------------------------

VOCABULARY = ["cat", "dog", "red", "New", "York", "fox", "house", "le", "chat", "noir", "café", "Straße"]


def made_up(texts: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    weights = [1 / (1 + place) for place in range(len(VOCABULARY))]
    found = []
    for _ in range(texts):
        text = " ".join(rng.choices(VOCABULARY, weights, k=rng.randint(0, 9)))
        found.append(text.replace("New", "New York").replace("chat", "chat noir"))
    return found


def plain_loop(texts, min_count, min_pmi):
    """Entries with their counts and mutual information, by loops."""
    times, holding = Counter(), Counter()
    for text in texts:
        held = [(word,) for word in text.split()] + list(pairwise(text.split()))
        times.update(held)
        holding.update(set(held))
    words, pairs = (sum(count for key, count in times.items() if len(key) == size) for size in (1, 2))
    found = {}
    for key, count in times.items():
        if holding[key] >= min_count:
            pmi = None
            if len(key) == 2:
                pmi = math.log2((count / pairs) / math.prod(times[(word,)] / words for word in key))
            if pmi is None or pmi >= min_pmi:
                found[" ".join(key)] = (count, holding[key], pmi and pytest.approx(pmi))
    return found


def selection_of(folder, texts, per_shard=30, **columns) -> Artifact:
    context = Context(folder)
    for start in range(0, len(texts), per_shard):
        part = range(start, min(start + per_shard, len(texts)))
        rows = [{"uid": f"{n:032x}", "caption": texts[n]} | {name: of[n] for name, of in columns.items()} for n in part]
        context.output.write_table(f"data/kept-{start // per_shard:05d}.parquet", pa.Table.from_pylist(rows))
    return Artifact(context.store, context.finish())


def adopted(folder, path, contents) -> Artifact:
    config = adopt.Config(path=str(path), contents=contents)
    context = Context(folder, location=config.location())
    return Artifact(context.store, adopt.run(config, {}, context))


def counted(folder, config, inputs) -> Artifact:
    context = Context(folder)
    return Artifact(context.store, entries.run(config, inputs, context))


def table_of(artifact):
    rows = read_table(artifact.store, "data/entries.parquet").to_pylist()
    return {row["entry"]: (row["times"], row["texts"], row["pmi"]) for row in rows}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(work, "_TEXTS", 40)
    monkeypatch.setattr(corpus, "_ROWS", 50)
    monkeypatch.setattr(corpus, "_BYTES", 700)
    monkeypatch.setattr(corpus, "_AT_ONCE", 7)
    monkeypatch.setattr(counting, "_AT_ONCE", 20)


def bytes_of(artifact):
    return {file.path: artifact.read(file.path) for file in artifact.files()}


def test_captions_in_many_parts_are_the_plain_loop(small_parts, tmp_path):
    texts = made_up(300)
    inputs = {"selection": selection_of(tmp_path / "s", texts)}
    config = Config(min_count=12, min_pmi=1.0)
    artifact = counted(tmp_path / "e", config, inputs)
    expected = plain_loop(texts, 12, 1.0)
    assert table_of(artifact) == expected
    assert {"New York", "chat noir"} <= expected.keys() and "cat dog" not in expected
    assert json.loads(artifact.read("data/entries.json")) == sorted(expected)
    pairs = sum(pmi is not None for _, _, pmi in expected.values())
    assert artifact.manifest.facts == {
        "entries": len(expected), "words": len(expected) - pairs, "pairs": pairs, "of_captions": True,
    }  # fmt: skip
    assert artifact.manifest.funnel.kept == 300
    assert {path.split("/")[0] for path in artifact.store.paths()} == {"data", "ledger"}


@pytest.mark.long
def test_corpora_of_any_form_are_the_plain_loop(small_parts, tmp_path):
    texts = [text for text in made_up(240, seed=1) if text]
    folder = tmp_path / "corpus"
    folder.mkdir()
    third = len(texts) // 3
    table = pa.table({"title": ["x"] * third, "text": pa.array(texts[:third], pa.large_string())})
    pq.write_table(table, folder / "a.parquet", row_group_size=17)
    lines = [json.dumps({"text": text, "id": n}, ensure_ascii=False) for n, text in enumerate(texts[third : 2 * third])]
    (folder / "b.jsonl").write_text("\n".join([*lines, "{", '{"text": 3}', '["text"]', "[" * 100_000]) + "\n")
    (folder / "c.txt").write_bytes("\r\n\n".join(texts[2 * third :]).encode() + b"\n\xff\xfe broken\n")
    (folder / "read.me").write_text("cat " * 999)
    artifact = counted(
        tmp_path / "e", Config(min_count=9, min_pmi=1.0), {"corpus": adopted(tmp_path / "a", folder, "corpus")}
    )
    assert table_of(artifact) == plain_loop(texts, 9, 1.0)
    assert artifact.manifest.funnel.dropped == {"no_text": 5}
    assert artifact.manifest.funnel.entered == len(texts) + 5
    assert artifact.manifest.facts["of_captions"] is False


def test_a_column_that_is_not_there_is_named(tmp_path):
    pq.write_table(pa.table({"body": ["cat"]}), tmp_path / "a.parquet")
    inputs = {"corpus": adopted(tmp_path / "a", tmp_path / "a.parquet", "corpus")}
    assert "cat" in table_of(counted(tmp_path / "e", Config(column="body", min_count=1), inputs))
    with pytest.raises(DataError, match="no column 'text'") as caught:
        counted(tmp_path / "f", Config(), inputs)
    assert caught.value.found == "body"
    with pytest.raises(UsageError, match="nothing to count"):
        Config().check_inputs([])


@given(st.text(st.sampled_from("ab\n\r é"), max_size=40), st.integers(1, 9), st.integers(1, 5))
def test_lines_are_read_once_wherever_a_file_is_cut(tmp_path_factory, text, size, line):
    store = LocalStore(tmp_path_factory.mktemp("lines"))
    data = text.encode()
    store.write("a.txt", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_LINE", line)
        lots = [corpus.Lines(store, "a.txt", n, min(n + size, len(data))) for n in range(0, len(data), size)]
        found = [one for lot in lots for one in corpus.lines_of(lot)]
    assert found == [one for one in data.splitlines() if one.strip()]


def test_killed_anywhere_it_continues_to_the_same_bytes(small_parts, tmp_path, monkeypatch, killed_until_done):
    monkeypatch.setattr(corpus, "_ROWS", 15)
    inputs, config = {"selection": selection_of(tmp_path / "s", made_up(300))}, Config(min_count=5, min_pmi=0.5)
    undisturbed = bytes_of(counted(tmp_path / "undisturbed", config, inputs))
    assert killed_until_done(lambda: bytes_of(counted(tmp_path / "killed", config, inputs))) == undisturbed


def test_bytes_are_the_same_for_any_number_of_workers(small_parts, tmp_path, monkeypatch, ray_cluster):
    inputs = {"selection": selection_of(tmp_path / "s", made_up(300))}
    here = bytes_of(counted(tmp_path / "here", Config(min_count=5, min_pmi=0.5), inputs))
    monkeypatch.setattr(work, "_SMALL", 0)
    for workers in (1, 2, 4):
        config = Config(min_count=5, min_pmi=0.5, limits=Limits(cpus=0.5, in_flight=workers))
        assert bytes_of(counted(tmp_path / f"{workers}", config, inputs)) == here
    monkeypatch.setattr(work, "_TEXTS", 10**6)
    monkeypatch.setattr(corpus, "_ROWS", 10**6)
    assert bytes_of(counted(tmp_path / "one", config, inputs)) == here


def test_each_language_by_itself_and_lists_as_they_are(tmp_path):
    texts = [
        "the red fox sleeps in the snow",
        "a red fox in the garden",
        "der rote Fuchs schläft im Schnee",
        "红色的狐狸",
    ]
    languages = ["en", "en", "de", "zh"]
    selection = selection_of(tmp_path / "s", texts, caption_language=languages)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/en.txt").write_text("Mona Lisa\n\n  fox  trot\n")
    (tmp_path / "lists/fr.txt").write_text("renard\n")
    (tmp_path / "names.txt").write_text("Xi'an\n")
    inputs = {
        "selection": selection,
        "phrases": adopted(tmp_path / "l", tmp_path / "lists", "metadata"),
        "phrases_names": adopted(tmp_path / "n", tmp_path / "names.txt", "metadata"),
    }
    artifact = counted(tmp_path / "e", Config(min_count=1, min_pmi=99.0, by_language=True), inputs)
    found = json.loads(artifact.read("data/entries.json"))
    assert found["en"] == sorted({*" ".join(texts[:2]).split(), "Mona Lisa", "fox trot", "Xi'an"})
    assert found["de"] == sorted({*texts[2].split(), "Xi'an"})
    assert set(found["zh"]) >= {"狐狸", "Xi'an"} and found["fr"] == ["Xi'an", "renard"]
    assert artifact.manifest.facts["by_language"] == {language: len(own) for language, own in found.items()}
    # Balance takes it as it is.
    config = balance.Config(by_language=True)
    assert balance_entries(config, artifact) == found
    flat = counted(
        tmp_path / "f", Config(min_count=2, min_pmi=0.0), {"selection": selection, "phrases": inputs["phrases_names"]}
    )
    assert balance_entries(balance.Config(), flat) == {"": ["Xi'an", "fox", "in", "in the", "red", "red fox", "the"]}


def balance_entries(config, artifact):
    from pipelines.curate.balance.entries import given_entries

    return given_entries(config, artifact)


def test_a_small_set_loses_nothing_by_entries_of_its_own(ray_cluster, tmp_path):
    """Words of five rows or more are entries; one row in ten has none of them."""
    captions = [f"word{n}" if n % 10 == 0 else f"a red fox {n}" for n in range(60)]
    selection = selection_of(tmp_path / "s", captions, key=[str(n) for n in range(60)])
    own = counted(tmp_path / "own", Config(min_count=5), {"selection": selection})
    (tmp_path / "corpus.txt").write_text("\n".join(captions))
    inputs = {"corpus": adopted(tmp_path / "a", tmp_path / "corpus.txt", "corpus")}
    other = counted(tmp_path / "other", Config(min_count=5), inputs)
    assert own.read("data/entries.json") == other.read("data/entries.json")

    def kept(name, metadata, **fields):
        context = Context(tmp_path / name)
        inputs = {"selection": selection} | ({"metadata": metadata} if metadata else {})
        return balance.run(balance.Config(t=60, **fields), inputs, context).funnel.kept

    assert kept("derived", None) == 60
    assert kept("given", own) == 60
    assert kept("corpus", other) == 54
    assert kept("corpus kept", other, keep_unmatched=True) == 60
    assert kept("dropped", own, keep_unmatched=False) == 54
