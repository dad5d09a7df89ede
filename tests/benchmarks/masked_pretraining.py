"""Does data2vec help? CLIP alone, and CLIP after data2vec on the image tower, for equal samples in all.

    python -m tests.benchmarks.masked_pretraining [--seeds 3]

The digits of tests/benchmarks/digits.py. CLIP alone sees all samples with their captions. The other starts with
data2vec on some of them, a third here, and goes on with CLIP on the rest. Zero-shot accuracy of the held-out scans; the
difference is paired by scan, its interval has the seeds' noise and the scans'.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.compare.differences import Estimate, difference
from tests.benchmarks.digits import MODEL, classified, write
from tests.benchmarks.trainers import trained

RESAMPLES = 2000


def train(work: Path, name: str, samples: int, seed: int, pretrained: Path | None, **changes: Any) -> Path:
    """The exported model of a training; it starts from ``pretrained``."""
    config = {
        "model": MODEL, "batch_size": 128, "samples": samples, "seed": seed, "log_every": 1280,
        "optimizer": {"lr": 2e-3, "weight_decay": 0.2}, "schedule": {"warmup": samples // 10},
        "augment": {"crop_scale": [0.7, 1.0]}, **changes,
    }  # fmt: skip
    return trained(config, work / "shards", work / f"{name}-{seed}", pretrained)


def estimate(answers: list[np.ndarray]) -> Estimate:
    """Accuracy by seed, on all scans and on resamples of them, the same for every variant."""
    table = np.stack(answers)
    chosen = np.random.default_rng(0).integers(0, table.shape[1], (RESAMPLES, table.shape[1]))
    return Estimate(table.mean(axis=1), np.stack([row[chosen].mean(axis=1) for row in table]), table.shape[1])


def main(arguments: list[str] | None = None) -> float:
    """Print the table; return the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=15_000, help="seen in all")
    parser.add_argument("--share", type=float, default=1 / 3, help="of them for data2vec")
    args = parser.parse_args(arguments)
    first = round(args.share * args.samples)
    objective = {"kind": "data2vec", "layers": 3, "momentum": 0.98, "final_momentum": 0.999, "momentum_warmup": first}
    found: dict[str, list[np.ndarray]] = {"CLIP alone": [], "data2vec, then CLIP": []}
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        write(work)
        for seed in range(args.seeds):
            started = train(work, "data2vec", first, seed, None, objective=objective)
            models = {
                "CLIP alone": train(work, "alone", args.samples, seed, None),
                "data2vec, then CLIP": train(work, "after", args.samples - first, seed, started),
            }
            for name, model in models.items():
                answers = classified(model, work / "tests")
                found[name].append((answers.predicted == answers.labels).astype(np.float64))
                print(f"{name:20} seed {seed}: acc1 {found[name][-1].mean():.3f}", flush=True)
    alone, after = (estimate(answers) for answers in found.values())
    gap = difference(alone, after, confidence=0.95, seed=0)
    print(f"{args.samples} samples, {first} of them for data2vec: {alone.mean:.3f} alone, {after.mean:.3f} after it")
    print(f"difference: {gap}")
    return gap.value


if __name__ == "__main__":
    main()
