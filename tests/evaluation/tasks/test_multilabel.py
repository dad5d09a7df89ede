"""Sets whose images have any number of classes: their files, their scores against scikit-learn's, and their suite."""

from __future__ import annotations

import io
import json

import evaluation_samples as samples
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier

from evaluation import evaluate, suite
from evaluation.embedded import open_embedded
from evaluation.evaluate import work
from evaluation.tasks import FewShot, LinearProbe, NearestNeighbours, ZeroShot
from evaluation.tasks.work.logistic import OneVsRest
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.formats.testset.holdings import read_holdings
from infra.run.context import Context, ShardOutput

CLASSES = ["red circle", "blue circle", "star", "heart"]
SHOWN = np.array([[(number >> label) % 2 if label < 3 else 0 for label in range(4)] for number in range(16)])


def array(values, kind="int64") -> bytes:
    np.save(buffer := io.BytesIO(), np.asarray(values, kind))
    return buffer.getvalue()


def files(shown=SHOWN, kind="int64", **others) -> dict[str, bytes]:
    """CLIP_benchmark's layout of such a set: npy in place of cls."""
    members = []
    for number, row in enumerate(shown):
        members += [(f"s{number:02d}.png", samples.picture(number)), (f"s{number:02d}.npy", array(row, kind))]
    return {
        "data/voc/dataset_type.txt": b"multilabel\n",
        "data/voc/classnames.txt": "\n".join(CLASSES).encode(),
        "data/voc/zeroshot_classification_templates.txt": b"a photo of a {c}.\n",
        "data/voc/test/nshards.txt": b"1",
        "data/voc/test/0.tar": samples.tar(members),
    } | others


@pytest.mark.parametrize("kind", ["int64", "uint8", "float32", "bool"])
def test_the_array_names_the_classes(tmp_path, kind):
    found = list(EvalSet.open(samples.write_artifact(tmp_path, files(kind=kind)), "voc", "test"))
    assert [sample.labels for sample in found] == [tuple(np.flatnonzero(row)) for row in SHOWN]
    assert {(sample.label, sample.captions) for sample in found} == {(-1, ())}


def test_the_check_of_a_set_counts_its_classes(tmp_path):
    given = files()
    with_bad = [("s.png", samples.picture(0)), ("s.npy", array([1, 0]))]
    given |= {"data/voc/test/nshards.txt": b"2", "data/voc/test/1.tar": samples.tar(with_bad)}
    holds = read_holdings(EvalSet.open(samples.write_artifact(tmp_path, given), "voc", "test"))
    assert (holds.images, holds.labels) == (16, {0: 8, 1: 8, 2: 8})
    assert holds.broken == {"no valid label": 1}


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (("s.npy", array([1, 0, 1])), "npy holding 4 zeros and ones"),
        (("s.npy", array([1, 0, 2, 0])), "no valid labels"),
        (("s.npy", array([[1, 0, 0, 0]])), r"shape \(1, 4\)"),
        (("s.npy", array([1, 0, 0, 0])[:90]), "cannot be read"),
        (("s.npy", array([1, {}, 0, 0], "object")), "cannot be read"),
        (("s.cls", b"1"), "cannot be read"),
    ],
)
def test_any_other_array_is_refused(tmp_path, member, words):
    given = files()
    given["data/voc/test/0.tar"] = samples.tar([("s.png", samples.picture(0)), member])
    with pytest.raises(DataError, match=words):
        list(EvalSet.open(samples.write_artifact(tmp_path, given), "voc", "test"))


def hub(names_in) -> pa.Table:
    """Rows as the library ``datasets`` writes them, with lists of classes."""
    images = [{"bytes": samples.picture(number), "path": None} for number in range(4)]
    labels = [[2, 0], [], [1], [3, 3]]
    made = pa.table({"image": pa.array(images), "labels": pa.array(labels, pa.list_(pa.int64()))})
    features = {"image": {"_type": "Image"}, "labels": names_in({"names": CLASSES, "_type": "ClassLabel"})}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize(
    "names_in",
    [lambda names: {"feature": names, "_type": "List"}, lambda names: [names]],
    ids=["List", "an older one"],
)
def test_lists_of_classes_in_tables_are_read(tmp_path, names_in):
    pq.write_table(hub(names_in), buffer := io.BytesIO())
    given = {"data/voc/test.parquet": buffer.getvalue()}
    examples = EvalSet.open(samples.write_artifact(tmp_path, given), "voc", "test")
    assert (examples.kind, examples.classes) == ("multilabel", tuple(CLASSES))
    assert [sample.labels for sample in examples] == [(0, 2), (), (1,), (3,)]
    other = {**given, "data/voc/classnames.txt": b"a\nb\nc\nd", "data/voc/dataset_type.txt": b"classification"}
    with pytest.raises(DataError, match="are no numbers"):
        EvalSet.open(samples.write_artifact(tmp_path / "other", other), "voc", "test")


@pytest.fixture
def given(model, tmp_path):
    sets = samples.write_artifact(tmp_path / "voc", files())
    return {"dataset": sets, "embeddings": samples.embed_here(tmp_path / "vectors", model, sets, "voc")}


def output(folder) -> ShardOutput:
    return ShardOutput(Context(folder).store, "voc")


@pytest.mark.long
def test_scores_are_scikit_learns(given, tmp_path):
    config = evaluate.Config(task=ZeroShot(dataset="voc"), bootstrap=100)
    record = work.evaluate(config, given, output(tmp_path / "out"))
    examples = EvalSet.open(given["dataset"], "voc", "test")
    data = open_embedded(given["embeddings"], examples, lambda: None)
    scores = data.images @ data.classifier.T
    each = [average_precision_score(SHOWN[:, label], scores[:, label]) for label in range(3)]
    found = record.facts["metrics"]
    assert list(found) == ["mean_average_precision"]
    assert found["mean_average_precision"]["value"] == pytest.approx(np.mean(each), abs=1e-6)
    assert found["mean_average_precision"]["low"] <= np.mean(each) <= found["mean_average_precision"]["high"]
    assert (record.facts["classes"], record.facts["classes_with_images"]) == (4, 3)
    rows = pq.read_table(tmp_path / "out/data/classes.parquet").to_pylist()
    assert [row["group"] for row in rows] == CLASSES[:3]
    assert [row["average_precision"] for row in rows] == pytest.approx(each)
    assert [row["share_of_images"] for row in rows] == [0.5] * 3
    firsts = pq.read_table(tmp_path / "out/data/first_classes.parquet").to_pylist()
    assert [row["right"] for row in firsts] == [bool(SHOWN[n, scores[n].argmax()]) for n in range(16)]
    assert firsts[5]["classes"] == ["red circle", "star"]


@pytest.mark.long
@pytest.mark.parametrize(
    "task",
    [FewShot(dataset="voc"), NearestNeighbours(dataset="voc"), ZeroShot(dataset="voc", groups=("a",))],
    ids=lambda task: task.kind,
)
def test_what_needs_one_class_an_image_is_refused(given, tmp_path, task):
    with pytest.raises(DataError, match=r"no single class|any number of classes"):
        work.evaluate(evaluate.Config(task=task), given, output(tmp_path / "out"))


def test_vtab_plus_takes_its_metric():
    entry = suite.load_suite("vtab_plus").sets["voc2007_multilabel"]
    assert (entry.task, entry.main) == ("zeroshot_classification", "mean_average_precision")


def drawn(random, images=600, width=24):
    """Unit vectors in a narrow cone, and four classes that they show by chance: often, sometimes, never, always."""
    vectors = random.standard_normal((images, width)) @ random.standard_normal((width, width)) / 4 + 2
    odds = vectors @ random.standard_normal((width, 2)) / 2
    odds -= np.quantile(odds, (0.4, 0.9), axis=0).diagonal()
    drawn = random.random(odds.shape) < 1 / (1 + np.exp(-odds))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return vectors, np.column_stack([drawn, np.zeros(images, bool), np.ones(images, bool)])


@pytest.mark.parametrize("strength", [1e-2, 1.0, 100.0, 10_000.0])
def test_the_least_loss_is_scikit_learns_one_against_the_rest(strength):
    vectors, shows = drawn(np.random.default_rng(0))
    peer = OneVsRestClassifier(LogisticRegression(C=strength, tol=1e-10, max_iter=100_000))
    peer.fit(vectors.astype(np.float64), shows[:, :2])

    def loss(weights, intercepts):
        odds = vectors @ weights + intercepts
        entropy = (np.logaddexp(0, odds) - shows[:, :2] * odds).mean(axis=0)
        return (entropy + (weights**2).sum(axis=0) / (2 * strength * len(vectors))).sum()

    expected = loss(*(np.column_stack([getattr(one, name).T for one in peer.estimators_]) for name in PARTS))
    found = OneVsRest(vectors, shows)
    assert loss(*found.fit(strength)) == pytest.approx(expected, rel=1e-4)
    scores = found.scores(strength, vectors)
    assert np.abs(scores[:, :2] - peer.decision_function(vectors)).max() < 0.03 * np.abs(scores[:, :2]).max()
    assert np.ptp(scores[:, 2:], axis=0).tolist() == [0, 0] and (scores[:, 3] > scores.min(axis=1)).all()


PARTS = ("coef_", "intercept_")


@pytest.mark.long
def test_a_linear_probe_is_scikit_learns_at_the_best_of_its_penalties(given, tmp_path):
    config = evaluate.Config(task=LinearProbe(dataset="voc", train="test"), bootstrap=100)
    facts = work.evaluate(config, given, output(tmp_path / "out")).facts
    data = open_embedded(given["embeddings"], EvalSet.open(given["dataset"], "voc", "test"), lambda: None)
    peer = OneVsRestClassifier(LogisticRegression(C=facts["inverse_penalty"], tol=1e-10, max_iter=100_000))
    scores = peer.fit(data.images.astype(np.float64), SHOWN[:, :3]).decision_function(data.images)
    expected = average_precision_score(SHOWN[:, :3], scores)
    found = facts["metrics"]["lp_mean_average_precision"]
    assert list(facts["metrics"]) == ["lp_mean_average_precision"]
    assert found["value"] == pytest.approx(expected, abs=0.02)
    assert found["low"] <= found["value"] <= found["high"]
