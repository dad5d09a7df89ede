"""Probes and neighbours on handwritten digits, against scikit-learn and loops."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_samples import write_artifact
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from evaluation.embedded import open_embedded
from evaluation.tasks import FewShot, LinearProbe, NearestNeighbours
from evaluation.tasks.work.logistic import class_scores, place_in_class
from infra.errors import ConfigError
from infra.formats.testset import EvalSet
from infra.formats.vectors import write_vectors
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """1,000 digits to learn from and 797 to test, as vectors of a set with ten classes."""
    pixels, labels = load_digits(return_X_y=True)
    files = {"data/digits/classnames.txt": "\n".join("0123456789").encode(), "data/digits/test/nshards.txt": b"1"}
    sets = write_artifact(tmp_path_factory.mktemp("sets"), files)
    output = Context(tmp_path_factory.mktemp("vectors")).output
    for split, part in (("train", slice(0, 1000)), ("test", slice(1000, None))):
        count = len(labels[part])
        columns = {
            "uid": [f"{split}{number}" for number in range(count)],
            "label": labels[part],
            "labels": [[]] * count,
            "beyond_context": pa.array([[]] * count, pa.list_(pa.bool_())),
            "captions": [0] * count,
            "metadata": [""] * count,
        }
        texts = pa.array([[]] * count, pa.list_(pa.string()))
        rows = pa.table({**columns, "captions": pa.array([0] * count, pa.int32()), "texts": texts})
        write_vectors(output, f"digits/{split}/00000", rows, pixels[part], np.empty((0, 64)), "clip")
    manifest = Manifest(
        stage="embed",
        digest="b" * 64,
        identity={},
        files=output.files,
        facts={"logit_scale": 1.0},
        config={"long_captions": {"kind": "cut"}},
    )
    return open_embedded(Artifact(output.store, manifest), EvalSet.open(sets, "digits", "test"), lambda: None)


def values(scores) -> dict[str, float]:
    return {name: metric.value for name, metric in scores.metrics.items()}


def converged(strength, vectors, labels):
    """scikit-learn's model at the minimum of its loss, from which its default tolerance is far."""
    return LogisticRegression(C=strength, max_iter=10_000, tol=1e-8).fit(vectors.astype(np.float64), labels)


@pytest.mark.parametrize("strength", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("images", [20, 1000])
@pytest.mark.parametrize("kinds", [2, 10])
def test_the_least_loss_is_scikit_learns(digits, strength, images, kinds):
    """Also of fewer images than dimensions, and of dimensions in which no image differs."""
    learned = digits.split("train")
    some = np.flatnonzero(learned.labels < kinds)[:images]
    model = converged(strength, learned.images[some], learned.labels[some])
    expected = model.decision_function(digits.images)
    if kinds == 2:
        expected = np.stack([-expected, expected], axis=1) / 2
    found = class_scores(learned.images[some], learned.labels[some], strength, digits.images, 10)[:, model.classes_]
    found, expected = (scores - scores.mean(axis=1, keepdims=True) for scores in (found, expected))
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max() + 1e-4


def test_a_linear_probe_is_scikit_learns_at_the_best_of_its_penalties(digits):
    scores = LinearProbe(dataset="digits").evaluate(digits)
    found, learned = values(scores), digits.split("train")
    model = converged(scores.facts["inverse_penalty"], learned.images, learned.labels)
    assert found["lp_acc1"] == pytest.approx(model.score(digits.images, digits.labels), abs=0.002)
    sure = np.asarray(scores.tables["predictions"]["confidence"])
    assert np.abs(sure - model.predict_proba(digits.images).max(axis=1)).max() < 0.02
    every = [
        LogisticRegression(C=10.0**power, max_iter=1000).fit(learned.images, learned.labels) for power in (-4, 0, 4)
    ]
    assert found["lp_acc1"] >= max(one.score(digits.images, digits.labels) for one in every) - 0.01
    assert list(found) == ["lp_acc1", "lp_acc5", "lp_mean_per_class_recall"]
    assert scores.facts["learned_from"] == 1000


def test_two_classes_and_classes_that_were_not_learned(digits):
    learned = digits.split("train")
    few = np.isin(learned.labels, (3, 7))
    scores = class_scores(learned.images[few], learned.labels[few], 100.0, digits.images, 10)
    model = converged(100.0, learned.images[few], learned.labels[few])
    assert np.isin(np.arange(10), np.flatnonzero(np.isfinite(scores).any(axis=0))).tolist() == [
        number in (3, 7) for number in range(10)
    ]
    assert (scores.argmax(axis=1) == model.predict(digits.images)).mean() > 0.997
    alone = class_scores(learned.images[:1], learned.labels[:1], 1.0, digits.images, 10)
    assert set(alone.argmax(axis=1).tolist()) == {int(learned.labels[0])}


def test_more_shots_are_better_and_few_are_far_above_chance(digits):
    one, many = (
        values(FewShot(dataset="digits", shots=shots).evaluate(digits))[f"few_shot_acc1@{shots}"] for shots in (1, 16)
    )
    assert 0.3 < one < many - 0.1
    assert many > 0.8


def test_places_in_a_class_are_counted():
    labels = np.random.default_rng(0).integers(0, 5, 50)
    expected = [labels[:number].tolist().count(label) for number, label in enumerate(labels)]
    assert place_in_class(labels).tolist() == expected


@pytest.mark.parametrize("k", [1, 5, 20])
def test_neighbours_are_scikit_learns(digits, k):
    found = values(NearestNeighbours(dataset="digits", k=k).evaluate(digits))
    learned = digits.split("train")
    weights = {"weights": lambda distance: np.exp((1 - distance) / 0.07)}
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", **weights).fit(learned.images, learned.labels)
    assert found["knn_acc1"] == pytest.approx(peer.score(digits.images, digits.labels))


def test_a_split_that_is_not_embedded_is_told(digits):
    with pytest.raises(ConfigError, match="no vectors of digits/valid"):
        LinearProbe(dataset="digits", train="valid").evaluate(digits)
