"""Word analogies against a loop that follows gensim's definition, and by a model from file to score."""

from __future__ import annotations

import evaluation_samples as samples
import numpy as np
import pytest
from embedded_by import embedded, unit

from evaluation import evaluate, word_analogies
from evaluation.checks import check_folder
from evaluation.evaluate import work
from evaluation.tasks import WordAnalogies
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput

TASK = WordAnalogies(dataset="words")
WORDS = [f"w{number}" for number in range(25)]


def written(folder, sections: dict[str, list[tuple[str, ...]]]):
    lines = [line for name, asked in sections.items() for line in (f": {name}", *(" ".join(one) for one in asked))]
    files = {
        "data/words/questions-words.txt": "\n".join(lines).encode(),
        "data/words/vocabulary.txt": "\n".join(WORDS).encode(),
    }
    return samples.write_artifact(folder, files)


def drawn(number: int, seed: int) -> list[tuple[str, ...]]:
    random = np.random.default_rng(seed)
    return [tuple(WORDS[one] for one in random.choice(25, 4, replace=False)) for _ in range(number)]


def by_hand(vectors: dict[str, np.ndarray], a: str, b: str, c: str) -> dict[str, list[str]]:
    """The words that score highest: gensim's ``most_similar`` (unit vectors added) and ``most_similar_cosmul``."""
    target = (vectors[b] + vectors[c] - vectors[a]).astype(np.float64)
    target /= np.linalg.norm(target)
    shifted = {
        name: {x: (1 + float(vectors[x] @ vectors[w])) / 2 for x in vectors}
        for name, w in {"a": a, "b": b, "c": c}.items()
    }
    scores = {
        "3cosadd": {x: round(float(vectors[x] @ target), 9) for x in vectors},
        "3cosmul": {x: round(shifted["b"][x] * shifted["c"][x] / (shifted["a"][x] + 0.001), 9) for x in vectors},
        "only_c": {x: round(float(vectors[x] @ vectors[c]), 9) for x in vectors},
    }
    free = {x for x in vectors if not any(np.array_equal(vectors[x], vectors[w]) for w in (a, b, c))}
    return {name: [x for x in free if of[x] == max(of[y] for y in free)] for name, of in scores.items()}


@pytest.mark.parametrize("cells", [1 << 21, 60], ids=["one block", "blocks"])
def test_answers_against_a_loop_with_ties(tmp_path, monkeypatch, cells):
    """25 words have 12 vectors: several have one and the same, and are level."""
    monkeypatch.setattr(word_analogies, "_CELLS", cells)
    random = np.random.default_rng(5)
    kinds = unit(random.normal(size=(12, 4)))
    vectors = {word: kinds[random.integers(12)] for word in WORDS}
    sections = {"one": drawn(40, 1), "two": drawn(30, 2)}
    examples = EvalSet.open(written(tmp_path, sections), "words", "test")
    scores = TASK.evaluate(embedded(examples, lambda *_: np.ones(4), vectors.get))
    for name in ("3cosadd", "3cosmul", "only_c"):
        right = {
            section: [np.mean([word == d for word in by_hand(vectors, a, b, c)[name]]) for a, b, c, d in asked]
            for section, asked in sections.items()
        }
        assert scores.metrics[f"acc_{name}"].value == pytest.approx(np.mean([*right["one"], *right["two"]]))
        for section, credits in right.items():
            assert scores.groups["sections"][section][f"acc_{name}"].value == pytest.approx(np.mean(credits))
    assert scores.facts["questions"] == 70


def test_words_given_are_no_answers_and_one_of_several_right_ones_will_do(tmp_path):
    files = {
        "data/words/1_X/I01 [x - y].txt": b"king\tqueen/kings\nman\twoman/human\n",
        "data/words/1_X/I02 [same].txt": b"up\tdown\ndown\tup\n",
    }
    examples = EvalSet.open(samples.write_artifact(tmp_path, files), "words", "test")
    place = {"king": [1, 0, 1, 0], "queen": [1, 1, 1, 0], "man": [1, 0, 0, 0], "woman": [1, 1, 0, 0.3],
             "human": [1, 1, 0, 0.2], "kings": [-1, 0, 0, 0], "up": [0, 0, 1, 5], "down": [0, 0, -1, 5]}  # fmt: skip
    scores = TASK.evaluate(embedded(examples, lambda *_: np.ones(4), place.get))
    questions = scores.tables["questions"]
    assert questions["3cosadd"][:2] == ["human", "queen"]
    assert questions["3cosadd_credit"][:2].tolist() == [1, 1]
    assert scores.facts["unanswerable"] == 2
    assert scores.groups["sections"]["I02 [same]"]["acc_3cosadd"].value == 0
    assert scores.facts["asked_pairs"] == 4


def test_a_model_is_asked_from_file_to_score(model, tmp_path):
    dataset = written(tmp_path / "sets", {"one": drawn(20, 3), "gram two": [*drawn(10, 4), ("too", "few")]})
    vectors = samples.embed_here(tmp_path / "embedded", model, dataset, "words")
    context = Context(tmp_path / "out")
    inputs = {"embeddings": vectors, "dataset": dataset, "model": model}
    task = TASK.replace(templates=("a photo of a {c}",))
    record = work.evaluate(evaluate.Config(task=task, bootstrap=20), inputs, ShardOutput(context.store, "x"))
    assert record.facts["left_out"] == {"no four words": 1}
    assert set(record.facts["metrics"]) == {"acc_3cosadd", "acc_3cosmul", "acc_only_c"}
    assert {"sections", "categories", "questions", "left_out"} <= set(record.facts["tables"])
    (report,) = check_folder(str(tmp_path / "sets/data"))
    assert [kind for kind, reason in report.against.items() if not reason and kind.startswith("word")] == [
        "word_analogies"
    ]


def test_questions_that_are_none_are_told(tmp_path):
    members = [("s1.png", samples.picture(1)), ("s1.txt", b"a\nb\nc\nd"), ("s1.json", b'{"questions": [[0, 1, 2, 4]]}')]
    files = {
        "data/x/dataset_type.txt": b"word_analogies",
        "data/x/test/nshards.txt": b"1",
        "data/x/test/0.tar": samples.tar(members),
    }
    examples = EvalSet.open(samples.write_artifact(tmp_path, files), "x", "test")
    with pytest.raises(DataError, match="s1"):
        TASK.evaluate(embedded(examples, lambda *_: [1, 0], lambda _: [1, 0]))
