"""The linear probe beside scikit-learn's LogisticRegression: CPU time to the same loss, and the accuracy, one run.

    python -m tests.benchmarks.probe [--images 50000]

Unit vectors of 512 numbers in a narrow cone, as those of images are, of 100 classes that overlap. Both learn with the
same three penalties on one thread; scikit-learn by L-BFGS with its own tolerance, or the first below it that gets to a
loss as small as ours.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from evaluation.tasks.work.logistic import Probe

CLASSES, WIDTH = 100, 512
STRENGTHS = (1.0, 10.0, 100.0)
TOLERANCES = (1e-4, 3e-5, 1e-5, 3e-6, 1e-6)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def drawn(random: np.random.Generator, centres: NDArray[np.float64], images: int) -> tuple[Floats, Ints]:
    labels = random.integers(0, CLASSES, images)
    hidden = centres[labels] + 1.2 * random.standard_normal((images, centres.shape[1]))
    axes = np.random.default_rng(1).standard_normal((centres.shape[1], WIDTH)) / 6
    vectors = hidden @ axes + 0.3 * random.standard_normal((images, WIDTH)) + 0.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


class Measured(NamedTuple):
    seconds: float
    loss: float
    accuracy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    images = parser.parse_args().images
    random = np.random.default_rng(0)
    centres = random.standard_normal((CLASSES, 32))
    (vectors, labels), (asked, truth) = (drawn(random, centres, count) for count in (images, 10_000))
    ratios, losses, apart = [], [], []
    for strength in STRENGTHS:

        def theirs(tolerance: float, strength: float = strength) -> tuple[Floats, Floats]:
            model = LogisticRegression(C=strength, max_iter=10_000, tol=tolerance).fit(vectors, labels)
            return model.coef_.T, model.intercept_

        def measured(name: str, work: Callable[[], tuple[Floats, Floats]], strength: float = strength) -> Measured:
            begin = time.process_time()
            weights, intercept = (part.astype(np.float64) for part in work())
            seconds = time.process_time() - begin
            scores = vectors @ weights + intercept
            entropy = (logsumexp(scores, axis=1) - scores[np.arange(images), labels]).mean()
            loss = float(entropy + (weights**2).sum() / (2 * strength * images))
            right = float(((asked @ weights + intercept).argmax(axis=1) == truth).mean())
            print(
                f"C {strength:5.0f}  {name:12} {seconds:6.1f} CPU-s  loss {loss:.6f}  accuracy {right:.4f}", flush=True
            )
            return Measured(seconds, loss, right)

        mine = measured("ours", lambda strength=strength: Probe(vectors, labels).fit(strength))
        for tolerance in TOLERANCES:
            peer = measured(f"theirs {tolerance:.0e}", partial(theirs, tolerance))
            if peer.loss <= mine.loss * (1 + 1e-4):
                break
        ratios.append(peer.seconds / mine.seconds)
        losses.append(mine.loss / peer.loss - 1)
        apart.append(100 * (peer.accuracy - mine.accuracy))
    print(f"linear probe: at least {min(ratios):.2f} x scikit-learn's speed")
    print(f"loss above scikit-learn's by at most {100 * max(losses):.3f} %")
    print(f"accuracy below scikit-learn's by at most {max(0.0, *apart):.2f} points")


if __name__ == "__main__":
    main()
