"""Word similarity against scipy, on the set and on its resamples, and by a model from file to score."""

from __future__ import annotations

from dataclasses import replace

import evaluation_samples as samples
import numpy as np
import pyarrow.parquet as pq
import pytest
from embedded_by import embedded
from scipy.stats import spearmanr

from evaluation import evaluate
from evaluation.checks import check_folder
from evaluation.correlation import RankCorrelation
from evaluation.evaluate import work
from evaluation.tasks import WordSimilarity
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput

TASK = WordSimilarity(dataset="words")


@pytest.mark.parametrize("levels", [3, 1000], ids=["ties", "distinct"])
def test_resamples_are_scipys_of_repeated_pairs(levels):
    random = np.random.default_rng(levels)
    values, others = random.integers(0, levels, (2, 40)).astype(float)
    metric = RankCorrelation(values, others)
    drawn = random.integers(0, 40, (20, 40))
    counts = np.stack([np.bincount(one, minlength=40) for one in drawn]).astype(float)
    expected = [spearmanr(values[one], others[one]).statistic for one in drawn]
    assert metric.resampled(counts) == pytest.approx(expected, abs=1e-12)
    assert metric.value == pytest.approx(spearmanr(values, others).statistic, abs=1e-12)
    assert RankCorrelation(np.ones(5), np.arange(5.0)).value == 0


def written(folder, rows: str):
    head = "word1,word2,POS,rating\n"
    return samples.write_artifact(folder, {"data/words/word_similarity.csv": (head + rows).encode()})


def rows(number: int, seed: int = 0) -> list[tuple[str, str, str, float]]:
    random = np.random.default_rng(seed)
    return [(f"w{one}", f"w{other}", "NV"[n % 2], float(random.integers(9)))
            for n, (one, other) in enumerate(random.integers(0, 30, (number, 2)))]  # fmt: skip


def test_cosines_are_ranked_as_scipy_ranks_them_by_category_too(tmp_path):
    given = rows(60)
    text = "".join(f"{one},{other},{pos},{rating}\n" for one, other, pos, rating in given)
    examples = EvalSet.open(written(tmp_path, text + "half\n"), "words", "test")
    vectors = {
        f"w{n}": vector / np.linalg.norm(vector)
        for n, vector in enumerate(np.random.default_rng(1).normal(size=(30, 5)))
    }
    scores = TASK.evaluate(embedded(examples, lambda *_: np.ones(5), vectors.get))
    cosines = np.array([vectors[one] @ vectors[other] for one, other, *_ in given])
    ratings = np.array([rating for *_, rating in given])
    assert scores.metrics["spearman"].value == pytest.approx(spearmanr(cosines, ratings).statistic, abs=1e-6)
    nouns = np.array([pos == "N" for _, _, pos, _ in given])
    by_category = scores.groups["categories"]
    assert by_category["N"]["spearman"].value == pytest.approx(
        spearmanr(cosines[nouns], ratings[nouns]).statistic, abs=1e-6
    )
    assert scores.facts["left_out"] == {"too few fields": 1}
    assert scores.tables["left_out"]["found"] == ["half"]


class Verbs(WordSimilarity):
    def evaluate(self, data):
        scores = super().evaluate(data)
        return replace(scores, metrics=scores.groups["categories"]["V"])


def test_a_task_of_ones_own_may_be_one_of_these(tmp_path):
    text = "a,b,V,1\nc,b,V,2\na,c,V,3\na,b,N,9\n"
    vectors = {"a": [1, 0], "b": [0, 1], "c": [1, 1]}
    examples = EvalSet.open(written(tmp_path, text), "words", "test")
    scores = Verbs(dataset="words").evaluate(embedded(examples, lambda *_: [1, 0], vectors.get))
    assert scores.metrics["spearman"].value == pytest.approx(spearmanr([0, 0.5**0.5, 0.5**0.5], [1, 2, 3]).statistic)


def test_a_model_is_asked_from_file_to_score_in_prompts_too(model, tmp_path):
    text = "".join(f"{one},{other},{pos},{rating}\n" for one, other, pos, rating in rows(40, 2))
    dataset = written(tmp_path / "sets", text + "half\n")
    vectors = samples.embed_here(tmp_path / "embedded", model, dataset, "words")
    found = {}
    for name, templates in (("plain", None), ("prompted", ("{c}",)), ("photo", ("a photo of a {c}.", "{c}"))):
        context = Context(tmp_path / name)
        inputs = {"embeddings": vectors, "dataset": dataset, "model": model}
        task = TASK.replace(templates=templates)
        record = work.evaluate(evaluate.Config(task=task, bootstrap=50), inputs, ShardOutput(context.store, "x"))
        found[name] = record.facts["metrics"]["spearman"]
        assert record.facts["left_out"] == {"too few fields": 1}
        with context.store.open("data/categories.parquet") as file:
            (row, _) = pq.read_table(file).to_pylist()
        assert row["spearman_low"] <= row["spearman"] <= row["spearman_high"]
    assert found["prompted"]["value"] == pytest.approx(found["plain"]["value"], abs=0.02)  # float16 on disk
    assert found["photo"]["value"] != found["plain"]["value"]


def test_the_task_is_told_to_fit_and_bad_lines_to_be_left_out(tmp_path):
    written(tmp_path, "a,b,N,1\nc,d,V,2\ne,f,N,3\nhalf\n")
    (report,) = check_folder(str(tmp_path / "data"))
    assert (report.form, report.sound, report.holds.images) == ("word_pairs", True, 3)
    assert report.holds.broken == {"too few fields": 1}
    assert [kind for kind, reason in report.against.items() if not reason and kind.startswith("word")] == [
        "word_similarity"
    ]


def test_samples_that_are_no_pairs_are_told(tmp_path):
    members = [("s1.png", samples.picture(1)), ("s1.txt", b"a\nb"), ("s1.json", b'{"rating": "high"}')]
    files = {
        "data/x/dataset_type.txt": b"word_similarity",
        "data/x/test/nshards.txt": b"1",
        "data/x/test/0.tar": samples.tar(members),
    }
    examples = EvalSet.open(samples.write_artifact(tmp_path, files), "x", "test")
    with pytest.raises(DataError, match="s1"):
        TASK.evaluate(embedded(examples, lambda *_: [1, 0], lambda _: [1, 0]))
