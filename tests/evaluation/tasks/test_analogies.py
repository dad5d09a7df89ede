"""Analogies against a loop over images, attributes and words; and vectors for which arithmetic is the whole answer."""

from __future__ import annotations

import json

import evaluation_samples as samples
import numpy as np
import pyarrow.parquet as pq
import pytest
from embedded_by import embedded

from evaluation import evaluate
from evaluation.evaluate import work
from evaluation.tasks import Analogies
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput

COLOURS, SHAPES, SIZES = ("red", "blue", "green"), ("car", "boat"), ("small", "big")
TASK = Analogies(dataset="words")


def files(given, names=("colour", "shape", "size")) -> dict[str, bytes]:
    members = []
    for number, words in enumerate(given):
        members += [(f"s{number}.png", samples.picture(number)), (f"s{number}.txt", "\n".join(words).encode())]
        members += [(f"s{number}.json", json.dumps({"attributes": list(names)}).encode())]
    return {
        "data/words/dataset_type.txt": b"analogies",
        "data/words/test/nshards.txt": b"1",
        "data/words/test/0.tar": samples.tar(members),
    }


def drawn(count: int) -> list[tuple[str, ...]]:
    """Images of some of the combinations, so that some questions have no answer."""
    random = np.random.default_rng(0)
    every = [(colour, shape, size) for colour in COLOURS for shape in SHAPES for size in SIZES if size != colour][:-3]
    return [every[place] for place in random.integers(0, len(every), count)]


def opened(tmp_path, given, **rest) -> EvalSet:
    return EvalSet.open(samples.write_artifact(tmp_path, files(given, **rest)), "words", "test")


def asked_in_loops(given, data, k):
    """Recall at k with the words and without, for each image and question, by attribute."""
    vector = {text: data.texts[place] for place, text in enumerate(data.captions)}
    found = []
    for image, words in enumerate(given):
        for attribute, values in enumerate((COLOURS, SHAPES, SIZES)):
            for value in values:
                target = (*words[:attribute], value, *words[attribute + 1 :])
                if value == words[attribute] or target not in given:
                    continue
                hits = []
                for step in (vector[value] - vector[words[attribute]], 0):
                    scores = data.images @ (data.images[image] + step)
                    order = [place for place in np.argsort(-scores) if place != image][:k]
                    hits.append(any(given[place] == target for place in order))
                found.append((attribute, *hits))
    return np.array(found)


@pytest.mark.long
@pytest.mark.parametrize("k", [1, 3])
def test_recall_against_loops(tmp_path, k):
    given, random = drawn(40), np.random.default_rng(1)
    data = embedded(opened(tmp_path, given), lambda *_: random.normal(size=6), lambda _: random.normal(size=6))
    scores = TASK.replace(recall_at=(k,)).evaluate(data)
    attribute, *expected = asked_in_loops(given, data, k).T
    for name, values in zip(("analogy", "plain"), expected, strict=True):
        assert 0 < values.mean() < 1
        assert scores.metrics[f"{name}_recall@{k}"].value == pytest.approx(values.mean())
        for place, own in enumerate(("colour", "shape", "size")):
            group = scores.groups["attributes"][own][f"{name}_recall@{k}"]
            assert group.value == pytest.approx(values[attribute == place].mean())
    assert scores.facts["questions"] == len(attribute)
    table = scores.tables["questions"]
    assert np.average(table[f"analogy_recall@{k}"], weights=table["asking"]) == pytest.approx(expected[0].mean())


@pytest.mark.long
def test_where_words_add_up_every_question_is_answered(tmp_path):
    """An image is the sum of its words and some noise of its own; without the words it finds its like, never others."""
    given, random = drawn(60), np.random.default_rng(2)
    words = {word: np.eye(10)[place] for place, word in enumerate((*COLOURS, *SHAPES, *SIZES))}
    noise = {}

    def image(number, sample):
        noise[number] = 0.05 * random.normal(size=10)
        return (sum(words[word] for word in sample.captions) + noise[number]) / 3**0.5

    data = embedded(opened(tmp_path, given), image, words.__getitem__)
    found = TASK.replace(weight=1 / 3**0.5).evaluate(data)
    assert found.metrics["analogy_recall@1"].value == 1
    assert found.metrics["plain_recall@1"].value < 0.2


def test_equal_vectors_get_what_guessing_gets(tmp_path):
    given = [("red", "car", "big")] * 3 + [("blue", "car", "big")] * 2
    data = embedded(opened(tmp_path, given), lambda *_: np.ones(4), lambda _: np.ones(4))
    found = TASK.evaluate(data).metrics["analogy_recall@1"].value
    assert found == pytest.approx((3 * 2 / 4 + 2 * 3 / 4) / 5)


@pytest.mark.parametrize(("given", "names", "message"), [
    ([("red", "car"), ("blue",)], ("colour", "shape"), "'s1' of words does not have the attributes"),
    ([("red", "car"), ("blue", "boat")], ("colour", "shape"), "has no analogies"),
    ([("red", "car")], ("colour",), "'s0' of words does not have the attributes"),
])  # fmt: skip
def test_what_asks_nothing_is_named(tmp_path, given, names, message):
    data = embedded(opened(tmp_path, given, names=names), lambda *_: np.ones(4), lambda _: np.ones(4))
    with pytest.raises(DataError, match=message):
        TASK.evaluate(data)


@pytest.mark.long
def test_one_pass_and_the_files(model, tmp_path):
    words = samples.write_artifact(tmp_path / "words", files(drawn(20)))
    vectors = samples.embed_here(tmp_path / "embedded", model, words, "words")
    output = ShardOutput(Context(tmp_path / "out").store, "words")
    record = work.evaluate(evaluate.Config(task=TASK, bootstrap=50), {"embeddings": vectors, "dataset": words}, output)
    assert set(record.facts["metrics"]) == {f"{name}_recall@{k}" for name in ("analogy", "plain") for k in (1, 5)}
    rows = pq.read_table(tmp_path / "out/data/attributes.parquet").to_pylist()
    assert [row["group"] for row in rows] == ["colour", "shape", "size"]
    assert (tmp_path / "out/figures/analogies.png").stat().st_size > 5000
