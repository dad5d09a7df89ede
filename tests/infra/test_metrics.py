"""Metrics of classification against scikit-learn and torch's top-k."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from infra import metrics
from tests.infra.measured import resampled, unit, values


@pytest.fixture(params=[1 << 22, 7], ids=["one chunk", "tiny chunks"])
def chunked(request, monkeypatch):
    monkeypatch.setattr(metrics, "_CELLS", request.param)


def test_ensemble_is_open_clips_classifier():
    random = np.random.default_rng(0)
    prompts = unit(random, 5 * 3, 8)
    expected = torch.tensor(prompts).reshape(5, 3, 8).mean(1)
    expected = expected / expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(metrics.ensemble(prompts, 5), expected.numpy(), atol=1e-7)


@pytest.mark.parametrize("classes", [3, 9])
def test_classification_against_torch_and_sklearn(chunked, classes):
    random = np.random.default_rng(1)
    images, classifier = unit(random, 200, 6), unit(random, classes, 6)
    labels = random.integers(0, classes, 200)
    classified = metrics.classify(images, classifier, labels.tolist())
    scores = torch.tensor(images) @ torch.tensor(classifier).T

    top = scores.topk(min(5, classes), dim=1).indices.numpy()
    found = values(classified.metrics())
    assert found["acc1"] == pytest.approx((top[:, 0] == labels).mean())
    if classes >= 5:
        assert found["acc5"] == pytest.approx((top == labels[:, None]).any(axis=1).mean())
    else:
        assert "acc5" not in found
    assert found["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(labels, top[:, 0]))
    assert (classified.predicted == top[:, 0]).all()
    matrix = metrics.confusion_matrix(classified)
    assert (matrix == sklearn_confusion_matrix(labels, top[:, 0], labels=range(classes))).all()


def test_mean_per_class_recall_passes_over_absent_classes():
    labels, predicted = [0, 0, 3, 3, 3], np.array([0, 1, 3, 3, 2])
    classified = metrics.classify(np.eye(6, dtype=np.float32)[predicted], np.eye(6, dtype=np.float32), labels)
    assert values(classified.metrics())["mean_per_class_recall"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_tie_between_classes_goes_to_the_first():
    same = np.ones((3, 4), dtype=np.float32) / 2
    classified = metrics.classify(same[:2], same, [0, 1])
    assert classified.predicted.tolist() == [0, 0]
    assert classified.rank.tolist() == [0, 1]


def test_resampled_is_the_metric_of_the_resample():
    random = np.random.default_rng(2)
    images, classifier = unit(random, 40, 6), unit(random, 7, 6)
    labels = random.integers(0, 7, 40)
    classified = metrics.classify(images, classifier, labels.tolist())
    index = random.integers(0, 40, (5, 40))
    for row, found in zip(index, resampled(classified.metrics(), index), strict=True):
        alone = metrics.classify(images[row], classifier, labels[row].tolist())
        np.testing.assert_allclose(found, list(values(alone.metrics()).values()))
