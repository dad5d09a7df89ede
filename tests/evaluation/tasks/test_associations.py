"""Associations against a loop over all ways to take images, through the stages, and as DataComp's suite has them."""

from __future__ import annotations

import itertools
import json

import evaluation_samples as samples
import numpy as np
import pyarrow.parquet as pq
import pytest
from embedded_by import embedded, unit

from evaluation import evaluate, figures, suite
from evaluation.checks import check_folder
from evaluation.evaluate import work
from evaluation.tasks import Associations
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from workflows.recipe import load

TASK = Associations(dataset="words")
SIZES = (5, 6, 10, 12)


def files(given, folder: str = "words") -> dict[str, bytes]:
    """``data/{folder}`` of samples, each the lines of its txt and what its json says."""
    members = []
    for number, (lines, fields) in enumerate(given):
        members += [(f"s{number}.png", samples.picture(number)), (f"s{number}.txt", "\n".join(lines).encode())]
        members += [(f"s{number}.json", json.dumps(fields).encode())]
    return {
        f"data/{folder}/dataset_type.txt": b"associations",
        f"data/{folder}/test/nshards.txt": b"1",
        f"data/{folder}/test/0.tar": samples.tar(members),
    }


def drawn(cues: int = 24, images: int = 14) -> tuple[list[tuple], list[tuple[str, list[int], set[int]]]]:
    """Samples, and their cues: a text, candidates, and those that are right. Two cues have the same text."""
    random, asked = np.random.default_rng(0), []
    for number in range(cues):
        candidates = random.permutation(images)[: SIZES[number % 4]].tolist()
        asked.append((f"A word {number // 2}", candidates, set(candidates[: random.integers(1, 5)])))
    given = []
    for image in range(images):
        own = [number for number, (_, candidates, _) in enumerate(asked) if image in candidates]
        told = {"cues": [f"c{number}" for number in own], "right": [image in asked[number][2] for number in own]}
        given.append(([asked[number][0] for number in own], told))
    return given, asked


def jaccard_in_loops(scores: dict[int, float], right: set[int]) -> float:
    """The mean over all sets of k images of which none is below an image that was left."""
    found = []
    for taken in map(set, itertools.combinations(scores, len(right))):
        if min(scores[one] for one in taken) >= max((scores[one] for one in scores.keys() - taken), default=-9):
            found.append(len(taken & right) / len(taken | right))
    return float(np.mean(found))


@pytest.mark.parametrize("levels", [True, False])
def test_scores_against_loops(levels, tmp_path):
    """With vectors of one entry scores are 0 or 1, and most are level; random ones never are."""
    given, asked = drawn()
    examples = EvalSet.open(samples.write_artifact(tmp_path, files(given)), "words", "test")
    random, of_text = np.random.default_rng(1), {}

    def vector(*_):
        return np.eye(3)[random.integers(3)] if levels else random.normal(size=16)

    data = embedded(examples, vector, lambda text: of_text.setdefault(text, vector()))
    scores = TASK.evaluate(data)
    expected, guessed, sizes = [], [], np.array([len(candidates) for _, candidates, _ in asked])
    for text, candidates, right in asked:
        cosines = data.images[candidates] @ unit([of_text[text]])[0]
        expected.append(jaccard_in_loops(dict(zip(candidates, np.round(cosines, 5).tolist(), strict=True)), right))
        guessed.append(jaccard_in_loops(dict.fromkeys(candidates, 0.0), right))
    parts = {f"jaccard_score_{size}": sizes == size for size in SIZES}
    parts |= {"avg_jaccard_score": sizes > 0, "jaccard_score_5-6": sizes < 7, "jaccard_score_10-12": sizes > 9}
    assert next(iter(scores.metrics)) == TASK.main
    for values, right in (
        ({name: metric.value for name, metric in scores.metrics.items()}, expected),
        (scores.facts["chance"], guessed),
    ):
        assert values == pytest.approx({name: np.mean(np.array(right)[part]) for name, part in parts.items()})
    assert dict(
        zip(scores.tables["associations"]["cue"], scores.tables["associations"]["jaccard_score"], strict=True)
    ) == (pytest.approx({f"c{number}": value for number, value in enumerate(expected)}))


def test_resamples_are_of_cues(tmp_path):
    """A mean over those of one size, also where a resample has none of them."""
    examples = EvalSet.open(samples.write_artifact(tmp_path, files(drawn()[0])), "words", "test")
    random = np.random.default_rng(2)
    scores = TASK.evaluate(embedded(examples, lambda *_: random.normal(size=8), lambda _: random.normal(size=8)))
    table, metric = scores.tables["associations"], scores.metrics["jaccard_score_12"]
    own = np.array([len(candidates) == 12 for candidates in table["candidates"]])
    values = np.asarray(table["jaccard_score"])
    counts = np.stack([random.integers(0, 3, len(own)), np.where(own, 0, 1)]).astype(float)
    assert metric.resampled(counts) == pytest.approx(
        [np.average(values[own], weights=counts[0][own]), values[own].mean()]
    )
    assert metric.units == own.sum()


def test_the_gallery_shows_the_candidates_most_like_a_cue(tmp_path, monkeypatch):
    given, asked = drawn()
    examples = EvalSet.open(samples.write_artifact(tmp_path, files(given)), "words", "test")
    random, seen, draw = np.random.default_rng(3), [], figures.text_to_image
    data = embedded(examples, lambda *_: random.normal(size=8), lambda _: random.normal(size=8))
    monkeypatch.setattr(figures, "text_to_image", lambda queries, title: seen.extend(queries) or draw(queries, title))
    assert TASK.evaluate(data).figures["associations"].startswith(b"\x89PNG")
    assert len(seen) == 6
    pictures = {sample.image.tobytes(): number for number, sample in enumerate(examples)}
    for query in seen:
        shown = [pictures[answer.item.tobytes()] for answer in query.answers]
        text = query.query.split(" (")[0]
        cosines = data.images @ data.texts[data.captions.index(text)]
        (candidates, right), *_ = [
            (candidates, right)
            for word, candidates, right in asked
            if word == text and set(shown) <= set(candidates) and f"({len(right)} of {len(candidates)} " in query.query
        ]
        assert shown == sorted(candidates, key=lambda image: -cosines[image])[:5]
        assert [answer.right for answer in query.answers] == [image in right for image in shown]


@pytest.mark.long
def test_datacomps_suite_scores_it(model, tmp_path):
    tests = samples.write_artifact(tmp_path / "tests", files(drawn()[0], "misc/winogavil"))
    made = load("evaluate").build(["suite=datacomp", f"tests={tests.store.url}/data", f"model={model.store.url}/data"])
    (stage,) = (stage for stage in made if isinstance(stage.config, evaluate.Config))
    vectors = samples.embed_here(tmp_path / "embedded", model, tests, "misc/winogavil")
    context = Context(tmp_path / "out", stage="evaluate", config=stage.config.resolved())
    record = work.evaluate(stage.config, {"embeddings": vectors, "dataset": tests}, ShardOutput(context.store, "all"))
    found = record.facts["metrics"]["jaccard_score_10-12"]
    assert 0 < found["low"] < found["value"] < found["high"] < 1
    rows = pq.read_table(tmp_path / "out/data/associations.parquet").to_pylist()
    own = [row["jaccard_score"] for row in rows if len(row["candidates"]) >= 10]
    assert found["value"] == pytest.approx(np.mean(own)) and len(own) == 12

    metrics = {
        f"jaccard_score_10-12{end}": found[one] for end, one in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
    scored = Artifact(context.store, context.finish([record], metrics=metrics))
    config = suite.Config(suite=suite.load_suite("datacomp"))
    summed = Context(tmp_path / "suite", stage="suite", digest="a" * 64, config=config.resolved())
    manifest = suite.run(config, {"scores_0": scored}, summed)
    assert manifest.metrics["average_of_1_of_38"] == manifest.metrics["retrieval_of_1_of_3"] == found["value"]


GOOD = {"cues": ["1"], "right": [True]}
WRONG = {"cues": ["1"], "right": [False]}


@pytest.mark.parametrize(("given", "message"), [
    ([(["A"], GOOD), (["A"], {"cues": ["1"]})], "'s1' of words does not say which cues"),
    ([(["A"], GOOD), (["A"], {"cues": ["1"], "right": ["no"]})], "'s1' of words does not say which cues"),
    ([(["A"], GOOD), (["A", "B"], WRONG)], "'s1' of words does not say which cues"),
    ([(["A"], GOOD), (["B"], WRONG)], "cue '1' of test set 'words' is asked in several wordings"),
    ([(["A"], GOOD), (["A", "A"], {"cues": ["1", 1], "right": [False, False]})], "has an image twice"),
    ([(["A"], GOOD)], "leaves no choice"),
    ([(["A"], WRONG)], "has no right image"),
])  # fmt: skip
def test_what_cannot_be_asked_is_named(given, message, tmp_path):
    examples = EvalSet.open(samples.write_artifact(tmp_path, files(given)), "words", "test")
    with pytest.raises(DataError, match=message):
        TASK.evaluate(embedded(examples, lambda *_: np.ones(4), lambda _: np.ones(4)))


def test_a_set_without_cues_is_refused(holdout):
    with pytest.raises(DataError, match="has no cues"):
        TASK.evaluate(embedded(EvalSet.open(holdout, "holdout", "test"), lambda *_: np.ones(4), lambda _: np.ones(4)))


def test_the_check_counts_samples_without_cues(tmp_path):
    samples.write_artifact(tmp_path / "good", files(drawn()[0]))
    samples.write_artifact(tmp_path / "bad", files([*drawn()[0], (["A"], {}), ([], GOOD)]))
    ((good,), (bad,)) = (check_folder(f"{tmp_path}/{name}/data") for name in ("good", "bad"))
    assert good.sound and good.against["associations"] == "" and good.against["zeroshot_retrieval"]
    assert bad.holds.broken == {"cues": 1, "no caption": 1}
