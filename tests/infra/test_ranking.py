"""Retrieval against brute force and enumerated orders of equals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from infra import ranking
from infra.measures import Median
from tests.infra.measured import resampled, unit, values


@pytest.fixture(params=[1 << 22, 7], ids=["one chunk", "tiny chunks"])
def chunked(request, monkeypatch):
    monkeypatch.setattr(ranking, "_CELLS", request.param)
    monkeypatch.setattr(ranking, "_SIDE", request.param)


def test_top_k_orders_and_breaks_ties_by_column():
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert ranking.top_k(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert ranking.top_k(scores, 9).shape == (2, 4)


def clip_benchmark_recall(scores: np.ndarray, positive: np.ndarray, k: int) -> float:
    """The definition: the share of rows with a positive pair among the top k columns."""
    top = np.argsort(-scores, axis=1)[:, :k]
    return float(np.take_along_axis(positive, top, axis=1).any(axis=1).mean())


def retrieval_set(random: np.random.Generator, images: int = 30):
    image_of = np.repeat(np.arange(images), random.integers(1, 6, images))
    return unit(random, images, 5), unit(random, len(image_of), 5), image_of


def test_retrieval_without_ties_is_clip_benchmarks(chunked):
    images, texts, image_of = retrieval_set(np.random.default_rng(3))
    retrieved = ranking.retrieve(images, texts, range(len(texts)), image_of.tolist())
    found = values(retrieved.metrics((1, 5, 10)))
    scores = texts @ images.T
    positive = image_of[:, None] == np.arange(len(images))
    for k in (1, 5, 10):
        image, text = clip_benchmark_recall(scores, positive, k), clip_benchmark_recall(scores.T, positive.T, k)
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(image)
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(text)
        assert found[f"mean_recall@{k}"] == pytest.approx((image + text) / 2)


def test_equal_captions_score_the_mean_over_all_orders(chunked):
    """Six captions in two wordings: every order of equals, enumerated."""
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[0.8, 0.6, 0.0], [0.6, 0.0, 0.8]], dtype=np.float32)
    text_of, image_of = [0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]
    retrieved = ranking.retrieve(images, texts, text_of, image_of)
    scores = images @ texts[text_of].T
    for k in (1, 2, 3, 6):
        expected = np.zeros(3)
        orders = list(itertools.permutations(range(6)))
        for order in orders:
            ranked = [sorted(order, key=lambda caption, row=row: -row[caption])[:k] for row in scores]
            expected += [any(image_of[caption] == image for caption in top) for image, top in enumerate(ranked)]
        np.testing.assert_allclose(retrieved.text_recall(k), expected / len(orders))


def test_one_score_for_all_pairs_is_guessing():
    images, texts = np.ones((8, 4), dtype=np.float32) / 2, np.ones((1, 4), dtype=np.float32) / 2
    found = values(ranking.retrieve(images, texts, [0] * 8, list(range(8))).metrics((1, 4)))
    assert found["image_retrieval_recall@1"] == found["text_retrieval_recall@1"] == pytest.approx(1 / 8)
    assert found["image_retrieval_recall@4"] == found["text_retrieval_recall@4"] == pytest.approx(1 / 2)


def test_more_answers_asked_for_than_there_are():
    images, texts, image_of = retrieval_set(np.random.default_rng(4), images=3)
    found = values(ranking.retrieve(images, texts, range(len(texts)), image_of.tolist()).metrics((50,)))
    assert set(found.values()) == {1.0}


def test_retrieval_resamples_images_with_their_captions():
    random = np.random.default_rng(5)
    images, texts, image_of = retrieval_set(random)
    retrieved = ranking.retrieve(images, texts, range(len(texts)), image_of.tolist())
    by_text, by_image = retrieved.image_recall(1), retrieved.text_recall(1)
    index = random.integers(0, 30, (4, 30))
    for row, found in zip(index, resampled(retrieved.metrics((1,)), index), strict=True):
        captions = np.concatenate([np.flatnonzero(image_of == image) for image in row])
        image, text = by_text[captions].mean(), by_image[row].mean()
        np.testing.assert_allclose(found, [image, text, (image + text) / 2])


def counted_in_loops(images, texts, text_of, image_of):
    """Better, level and right answers of each query, pair by pair, in whole numbers."""
    scores = images.astype(int) @ texts.astype(int)[text_of].T
    image_side, text_side = [], []
    for image, row in enumerate(scores):
        mine = [score for score, owner in zip(row, image_of, strict=True) if owner == image]
        wrong = [score for score, owner in zip(row, image_of, strict=True) if owner != image]
        best = max(mine)
        image_side.append((sum(s > best for s in wrong), wrong.count(best), mine.count(best)))
    for caption, owner in enumerate(image_of):
        own, wrong = scores[owner, caption], [s for image, s in enumerate(scores[:, caption]) if image != owner]
        text_side.append((sum(s > own for s in wrong), wrong.count(own)))
    return np.array(image_side).T, np.array(text_side).T


@pytest.mark.parametrize("seed", range(8))
def test_retrieval_against_loops_with_equal_images_captions_and_scores(chunked, seed):
    """Vectors of small whole numbers: many rows are equal, and many scores of unequal rows."""
    random = np.random.default_rng(seed)
    images = random.integers(-1, 2, (25, 3)).astype(np.float32)
    texts = random.integers(-1, 2, (12, 3)).astype(np.float32)
    image_of = np.repeat(np.arange(25), random.integers(1, 4, 25))
    text_of = random.integers(0, 12, len(image_of))
    found = ranking.retrieve(images, texts, text_of, image_of)
    image_side, text_side = counted_in_loops(images, texts, text_of, image_of)
    np.testing.assert_array_equal([found.image_better, found.image_equal, found.image_right], image_side)
    np.testing.assert_array_equal([found.text_better, found.text_equal], text_side)


def test_the_same_image_twice_is_a_tie_wherever_it_lies():
    """A matrix product may round the two differently; which comes first would be chance."""
    random = np.random.default_rng(6)
    images, texts = unit(random, 2000, 33), unit(random, 2000, 33)
    images[1000:] = images[:1000]
    found = ranking.retrieve(images, texts, range(2000), range(2000))
    assert (found.text_equal == 1).all()


@pytest.mark.parametrize("k", [1, 3, 9, 30])
def test_nearest_is_a_stable_sort_of_all_scores(chunked, k):
    """Whole numbers: many scores are equal, and the first of the equals wins."""
    random = np.random.default_rng(7)
    queries, answers = (random.integers(-1, 2, (count, 4)).astype(np.float32) for count in (11, 25))
    scores = queries @ answers.T
    values, places = ranking.nearest(queries, answers, k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))
    np.testing.assert_array_equal(ranking.top_k(scores, k), expected)


def ranks_in_loops(image_side, text_side, images=2000):
    """The mean rank of the first right answer over many shuffles of what is level with it."""
    random = np.random.default_rng(0)
    found = []
    for better, equal, right in (*zip(*image_side, strict=True), *((b, e, 1) for b, e in zip(*text_side, strict=True))):
        places = [random.permutation(equal + right)[:right].min() for _ in range(images)]
        found.append(1 + better + np.mean(places))
    return found


def test_a_rank_is_its_expectation_over_orders_of_equals():
    random = np.random.default_rng(8)
    images, texts = (random.integers(-1, 2, (size, 3)).astype(np.float32) for size in (8, 6))
    image_of = np.repeat(np.arange(8), 2)
    text_of = random.integers(0, 6, 16)
    found = ranking.retrieve(images, texts, text_of, image_of)
    sides = counted_in_loops(images, texts, text_of, image_of)
    ranks = [
        *ranking.tie_rank(found.image_better, found.image_equal, found.image_right),
        *ranking.tie_rank(found.text_better, found.text_equal, np.ones_like(found.text_equal)),
    ]
    np.testing.assert_allclose(ranks, ranks_in_loops(*sides), atol=0.25)


def test_the_median_rank_of_a_resample_is_numpys():
    random = np.random.default_rng(9)
    images, texts, image_of = retrieval_set(random)
    found = ranking.retrieve(images, texts, range(len(texts)), image_of.tolist())
    by_text, by_image = 1 + found.text_better, 1 + found.image_better
    assert values(found.median_ranks()) == {
        "image_retrieval_median_rank": np.median(by_text),
        "text_retrieval_median_rank": np.median(by_image),
    }
    index = random.integers(0, 30, (50, 30))
    for row, (image, text) in zip(index, resampled(found.median_ranks(), index), strict=True):
        captions = np.concatenate([np.flatnonzero(image_of == one) for one in row])
        assert (image, text) == (np.median(by_text[captions]), np.median(by_image[row]))


@pytest.mark.parametrize("outcomes", [1, 2, 999, 20_000])
def test_a_median_far_from_the_middle_is_found_too(outcomes):
    """Resamples that a bootstrap hardly draws: nearly all weight on the first or the last images."""
    random = np.random.default_rng(10)
    image_of = np.sort(random.integers(0, 400, outcomes))
    value = image_of + random.integers(0, 3, outcomes)
    counts = random.integers(0, 3, (6, 400)).astype(float) * (np.arange(400) // 80 == np.arange(6)[:, None] % 5)
    counts[5] = 1
    counts[:, image_of[0]] += 1
    found = Median(value, image_of, 400).resampled(counts)
    expected = [np.median(np.repeat(value, row[image_of].astype(int))) for row in counts]
    np.testing.assert_array_equal(found, expected)


def test_captions_that_are_not_chosen_are_not_there(chunked):
    """Against a loop over the chosen captions; images that have none of them stay to be found."""
    random = np.random.default_rng(11)
    images, texts = (random.integers(-1, 2, (size, 3)).astype(np.float32) for size in (20, 9))
    image_of = np.repeat(np.arange(20), 3)
    text_of = random.integers(0, 9, 60)
    chosen = random.random(60) < 0.3
    found = ranking.retrieve_among(images, texts, text_of, image_of, chosen)
    scores = images.astype(int) @ texts.astype(int)[text_of[chosen]].T
    owners = image_of[chosen]
    assert 1 < len(set(owners)) < 20
    own = scores[owners, np.arange(len(owners))]
    np.testing.assert_array_equal(found.text_better, (scores > own).sum(axis=0))
    np.testing.assert_array_equal(found.text_equal, (scores == own).sum(axis=0) - 1)
    for place, image in enumerate(sorted(set(owners))):
        mine, wrong = scores[image][owners == image], scores[image][owners != image]
        expected = [(wrong > mine.max()).sum(), (wrong == mine.max()).sum(), (mine == mine.max()).sum()]
        assert [found.image_better[place], found.image_equal[place], found.image_right[place]] == expected
    assert all(metric.images == len(set(owners)) for metric in found.metrics((1,)).values())
