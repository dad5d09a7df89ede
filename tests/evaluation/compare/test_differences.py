"""Differences against closed forms, and how often their intervals hold what they should."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from scipy import optimize, stats

from evaluation.compare.differences import Difference, Estimate, difference, holm
from evaluation.intervals import resampled
from infra.measures import Mean

pytestmark = pytest.mark.long  # resamples

BOOTSTRAP = 400


def estimate(*hits, samples=BOOTSTRAP, share=False):
    """A metric that is the mean over images, with one array of hits per seed."""
    return Estimate(
        np.array([one.mean() for one in hits]),
        resampled([Mean(one) for one in hits], samples=samples).T,
        len(hits[0]) if share else None,
    )


def apart(one, other, confidence=0.95, seed=0):
    return difference(one, other, confidence=confidence, seed=seed)


def test_is_scipys_paired_bootstrap():
    random = np.random.default_rng(0)
    one = random.random(300)
    other = one + 0.02 + 0.1 * random.random(300)
    expected = stats.bootstrap(
        (one, other),
        lambda a, b, axis: (b - a).mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=BOOTSTRAP,
        rng=np.random.default_rng(0),
    )
    found = apart(estimate(one), estimate(other))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=1e-12)
    assert found.test_error == pytest.approx(expected.standard_error, rel=1e-2)
    assert found.value == pytest.approx((other - one).mean())


@pytest.mark.parametrize("edge", [0.0, 1.0])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("images", [24, 240, 5000])
def test_two_models_that_are_wrong_or_right_everywhere_differ_by_less_than_some_bound(edge, seeds, images):
    """The bound is where the score test of a paired difference reaches its level: d / sqrt(d (1 - d) / n) = z."""
    one = Estimate(np.full(seeds, edge), np.full((seeds, 50), edge), images)
    found = apart(one, one)
    z = stats.norm.ppf(0.975)
    assert found.high / sqrt(found.high * (1 - found.high) / images) == pytest.approx(z)
    assert (found.value, found.low, found.p) == (0, -found.high, 1)
    assert apart(one, one, confidence=0.99).high > found.high


def test_the_bound_is_for_shares_alone():
    rank = Estimate(np.array([1.0]), np.full((1, 50), 1.0))  # as a median rank of 1, which is no share
    assert (apart(rank, rank).low, apart(rank, rank).high) == (0, 0)
    assert apart(rank, rank).is_point


def test_two_models_that_agree_everywhere_differ_by_less_than_the_same_bound():
    hits = (np.random.default_rng(1).random(240) < 0.6).astype(float)
    found = apart(estimate(hits, share=True), estimate(hits, share=True))
    z = stats.norm.ppf(0.975)
    assert (found.value, found.low, found.high, found.p) == (0, -found.high, pytest.approx(z**2 / (240 + z**2)), 1)
    assert not found.is_point


@pytest.mark.parametrize("images", [24, 240])
def test_one_model_that_is_right_wherever_the_other_is_wrong(images):
    """The bound is where Tango's score statistic, its nuisance parameter found by brute force, reaches its level."""
    wrong, right = (Estimate(np.array([edge]), np.full((1, 50), edge), images) for edge in (0.0, 1.0))
    found = apart(wrong, right)

    def statistic(difference: float) -> float:
        """All n pairs are of one kind; the shares of both kinds, by the greatest likelihood under ``difference``."""
        other = np.linspace(0, (1 - difference) / 2, 100_001)
        one = other + difference
        q = other[np.argmax(np.log(one))]
        return images * (1 - difference) / sqrt(images * (2 * q + difference * (1 - difference)))

    expected = optimize.brentq(lambda d: statistic(d) - stats.norm.ppf(0.975), 0.01, 0.9999)
    assert (found.low, found.high) == (pytest.approx(expected, abs=1e-4), 1)
    other = apart(right, wrong)
    assert (other.low, other.high) == (-1, -found.low)


def test_what_both_find_easy_or_hard_cancels_out():
    """Alone, both intervals are 0.06 wide; the difference is exact."""
    hits = (np.random.default_rng(1).random(1000) < 0.6).astype(float)
    found = apart(estimate(hits), estimate(hits + 0.001))
    assert (found.low, found.high) == pytest.approx((0.001, 0.001))
    assert found.p == pytest.approx(2 / (BOOTSTRAP + 1))


def test_equal_models_are_not_separated():
    hits = (np.random.default_rng(1).random(100) < 0.6).astype(float)
    found = apart(estimate(hits), estimate(hits))
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert found.images_to_separate(100, 0.95) == float("inf")


@pytest.mark.parametrize(("accuracy", "better"), [(0.7, 0.04), (0.97, 0.01)])
def test_intervals_hold_the_difference_of_two_models_as_often_as_they_say(accuracy, better):
    """Simulated pairs: an image that one gets right the other gets right, but for independent slips of both."""
    random, images, runs, covered = np.random.default_rng(2), 500, 400, 0
    for run in range(runs):
        hard = random.random(images)
        one = (hard < accuracy) ^ (random.random(images) < 0.05)
        other = (hard < accuracy + better) ^ (random.random(images) < 0.05)
        truth = 0.9 * better  # a slip undoes a hit as it undoes a miss
        found = apart(estimate(one.astype(float)), estimate(other.astype(float)), seed=run)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / runs <= 0.975


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_hold_what_other_seeds_would_give(seeds):
    """Models of one kind differ by seed; the truth is the mean over all seeds and images. Few seeds: wide intervals."""
    random, images, runs, covered = np.random.default_rng(3), 400, 300, 0
    for run in range(runs):
        hard = random.random(images)
        variants = [
            [(hard < level + 0.03 * random.standard_normal()).astype(float) for _ in range(seeds)]
            for level in (0.5, 0.53)
        ]
        found = apart(*(estimate(*hits) for hits in variants), seed=run)
        covered += found.low <= 0.03 <= found.high
    assert 0.93 <= covered / runs <= 0.999  # Behrens and Fisher's is on the safe side


def same_models(random, models, images, better):
    """Hits of the same models before and after: a model is as much stronger or weaker in both, an image as hard."""
    hard, strength = random.random(images), 0.06 * random.standard_normal(models)
    gains = better + 0.01 * random.standard_normal(models)

    def hits(levels):
        return [((hard < level) ^ (random.random(images) < 0.02)).astype(float) for level in levels]

    return estimate(*hits(0.5 + strength)), estimate(*hits(0.5 + strength + gains))


@pytest.mark.parametrize("models", [2, 3, 5])
def test_of_the_same_models_the_interval_is_that_of_the_paired_t_test(models):
    """With so many images that models are all the noise there is."""
    random = np.random.default_rng(7)
    strength = 0.1 * random.standard_normal(models)
    before, after = (strength + mean + 0.01 * random.standard_normal(models) for mean in (0.5, 0.53))
    one, other = (Estimate(values, np.repeat(values[:, None], 200_000, axis=1)) for values in (before, after))
    found = difference(one, other, confidence=0.9, seed=0, same_models=True)
    expected = stats.ttest_rel(after, before)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.9)), abs=3e-4)
    assert found.p == pytest.approx(expected.pvalue, abs=3e-3)
    assert found.seeds == ((found.seed_error, models - 1),)
    assert found.seed_error == pytest.approx(stats.sem(after - before))


@pytest.mark.parametrize(("models", "power"), [(2, 0.15), (3, 0.5), (5, 0.9)])
def test_of_the_same_models_intervals_hold_the_gain_of_all_models(models, power):
    """The truth is the mean over all models and images; how strong a model is does not widen the interval."""
    random, runs = np.random.default_rng(8), 250
    covered, paired, alone = 0, 0, 0
    for run in range(runs):
        before, after = same_models(random, models, 400, 0.05)
        found = difference(before, after, confidence=0.95, seed=run, same_models=True)
        covered += found.low <= 0.96 * 0.05 <= found.high  # a slip undoes a hit as it undoes a miss
        paired += found.low > 0
        alone += apart(before, after, seed=run).low > 0
    assert 0.92 <= covered / runs <= 0.995
    assert paired / runs >= power and alone / runs <= 0.1


def test_one_seed_against_several_knows_of_the_noise_of_the_several():
    random = np.random.default_rng(4)
    hits = [(random.random(200) < level).astype(float) for level in (0.4, 0.5, 0.6)]
    single, several = apart(estimate(hits[0]), estimate(hits[1])), apart(estimate(hits[0]), estimate(*hits))
    assert single.seed_error == 0
    values = [one.mean() for one in hits]
    assert several.seed_error == pytest.approx(stats.sem(values))


def test_the_images_it_takes_are_those_at_which_the_interval_just_clears_zero():
    """For a mean the error falls with the root of the number; z = 1.96."""
    found = Difference(value=0.01, low=-0.01, high=0.03, p=0.3, test_error=0.01, seed_error=0)
    assert found.images_to_separate(1000, 0.95) == pytest.approx(1000 * 1.959964**2, rel=1e-2)
    noisy = replace(found, seeds=((0.006, 50),))
    assert noisy.images_to_separate(1000, 0.95) == float("inf")  # only more seeds help


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_with_so_many_images_the_interval_clears_0(seeds):
    """Against the draws themselves, with the test set's noise at the share that is asked for."""
    random, draws = np.random.default_rng(4), 200_000
    error = 0.002
    values = np.linspace(-1, 1, seeds)
    values *= error * np.sqrt(seeds) / values.std(ddof=1)
    base, other = (Estimate(values + mean, mean + 0.02 * random.normal(size=(1, draws))) for mean in (0.3, 0.35))
    found = difference(base, other, confidence=0.95, seed=0)
    share = 1000 / found.images_to_separate(1000, 0.95)
    assert 0 < share < np.inf
    noise = np.sqrt(share) * found.test_error * random.normal(size=draws)
    noise += error * (random.standard_t(seeds - 1, draws) - random.standard_t(seeds - 1, draws))
    assert np.quantile(noise, 0.975) == pytest.approx(found.value, rel=0.05)


def test_holm():
    """His own procedure: reject in order of p while p_k < level / (m - k)."""
    random = np.random.default_rng(5)
    for _ in range(200):
        p, level = random.random(7) ** 3, 0.05
        order, rejected = np.argsort(p), set()
        for rank, index in enumerate(order):
            if p[index] > level / (7 - rank):
                break
            rejected.add(index)
        assert {index for index, value in enumerate(holm(p)) if value <= level} == rejected
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
