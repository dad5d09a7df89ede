"""How often do intervals hold the truth, and how long do they take?

python -m tests.benchmarks.intervals coverage     1,000 test sets of each simulated model, a line each
python -m tests.benchmarks.intervals speed        1,000 resamples of all metrics of 50,000 images
"""

from __future__ import annotations

import sys
import time

import numpy as np

from evaluation.intervals import interval, resampled
from infra.metrics import Classified
from infra.ranking import Retrieved
from tests.evaluation import interval_samples as samples

IMAGES, RESAMPLES = 50_000, 1000


def coverage() -> None:
    found = []
    for case in samples.CASES:
        found.append(100 * samples.coverage(case, 1000))
        print(f"{found[-1]:6.1f}%  {case.name}", flush=True)
    print(f"coverage: least {min(found):.1f}%, most {max(found):.1f}%")


def speed() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 1000, IMAGES)
    rank = random.geometric(0.5, IMAGES) - 1
    classification = Classified(labels, labels, rank, 1000).metrics()
    owner = np.repeat(np.arange(IMAGES), 5)
    better, level, one = random.geometric(0.1, 5 * IMAGES) - 1, random.integers(0, 2, 5 * IMAGES), np.ones(IMAGES, int)
    retrieved = Retrieved(owner, better[:IMAGES], level[:IMAGES], one[:IMAGES], better, level)
    retrieval = retrieved.metrics((1, 5, 10)) | retrieved.median_ranks()
    total = 0.0
    for name, metrics in (("classification", classification), ("retrieval", retrieval)):
        begin, used = time.perf_counter(), time.process_time()
        values = resampled(list(metrics.values()), samples=RESAMPLES)
        for metric, column in zip(metrics.values(), values.T, strict=True):
            interval(metric, column)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - used
        total += cpu
        print(f"{name}: {len(metrics)} metrics in {seconds:.2f} s, {cpu:.2f} CPU-s")
    print(f"{RESAMPLES:,} resamples of all metrics, {IMAGES:,} images: {total:.2f} CPU-s (bar 5)")


if __name__ == "__main__":
    {"coverage": coverage, "speed": speed}[sys.argv[1]]()
