"""The model on paper: sums that can be done by hand, and what must hold whatever the parameters."""

import dataclasses

import pytest

from tests.benchmarks.cost import Machine, Model, estimate

B32 = Model(parameters=151e6, forward_flops=14.78e9, width=512)
MACHINE = Machine(peak=1e15, utilisation=0.5, peak_logits=5e14, inside=4e11, between=5e10, latency=0, cores=10)


def test_one_gpu_by_hand():
    step = estimate(B32, MACHINE, 1, 1000)
    assert step.compute == pytest.approx(3 * 14.78e9 * 1000 / 5e14)
    assert step.loss == pytest.approx(4 * 2 * 1000 * 1000 * 512 / 2.5e14)
    assert (step.gather, step.reduce) == (0, 0)
    assert step.feed == pytest.approx(1000 / 19_000)
    assert step.seconds == max(step.compute + step.loss, step.feed)


def test_many_by_hand():
    step = estimate(B32, MACHINE, 16, 100)
    assert step.batch == 1600
    assert step.gather == pytest.approx(2 * 15 / 16 * 4 * 1600 * 512 / 5e10)
    average = 2 * 15 / 16 * 4 * 151e6 / 5e10
    assert step.reduce == pytest.approx(average - 2 / 3 * step.compute)  # the backward pass hides the rest
    hidden = estimate(B32, MACHINE, 16, 10_000)
    assert hidden.reduce == pytest.approx(average * 25e6 / (4 * 151e6))  # all but the last bucket


def test_more_gpus_are_never_slower_in_all_nor_faster_each():
    rates = [estimate(B32, Machine(), gpus, 512).samples_per_s for gpus in (1, 8, 64, 512)]
    assert rates == sorted(rates)
    each = [rate / gpus for rate, gpus in zip(rates, (1, 8, 64, 512), strict=True)]
    assert each == sorted(each, reverse=True)


def test_slow_cores_hold_the_gpu_up():
    starved = dataclasses.replace(MACHINE, cores=1, samples_per_core=100.0)
    assert estimate(B32, starved, 1, 1000).samples_per_s == pytest.approx(100)
