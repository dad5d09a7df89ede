"""One training worker on one core, two on two, over gloo: how much of the second is gained.

    python -m tests.benchmarks.scaling

The tiny model of the training benchmark, the same global batch, the same shards; samples per second by the slope
between two lengths, so that start-up is left out. Both runs see the same samples and must come to the same loss.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from tests.benchmarks.trainers import run_ours
from tests.benchmarks.whole_training import TINY, make_shards


def main(arguments: list[str] | None = None) -> float:
    """Print the table; the rate of two workers over twice that of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--samples", type=int, nargs=2, default=(640, 2560))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the shards are kept for the next time")
    args = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    rates, losses = [], []
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        shards = (args.folder or Path(scratch)) / f"shards-{args.images}-96"
        make_shards(shards, args.images, 96)
        for workers in (1, 2):
            os.sched_setaffinity(0, cores[:workers])  # of what is started from here on
            seconds = []
            for samples in args.samples:
                folder = Path(scratch) / f"{workers}-{samples}"
                folder.mkdir()
                config = {
                    "model": TINY, "batch_size": args.batch, "samples": samples, "log_every": args.batch,
                    "schedule": {"warmup": 10 * args.batch}, "cluster": {"workers": workers},
                    "loading": {"threads": 1}, "checkpoint": {"every": 10**12},
                }  # fmt: skip
                seconds.append(run_ours(config, shards, folder, workers)[0])
            rates.append((args.samples[1] - args.samples[0]) / (seconds[1] - seconds[0]))
            history = (folder / "out/data/history.jsonl").read_text().splitlines()
            losses.append([json.loads(line)["loss"] for line in history])
            print(f"{workers} worker(s) on {workers} core(s): {rates[-1]:.1f} samples/s", flush=True)
    os.sched_setaffinity(0, cores)
    apart = max(abs(one - two) for one, two in zip(*losses, strict=True))
    efficiency = rates[1] / rates[0] / 2
    print(f"efficiency {efficiency:.0%}; the losses of the two runs are at most {apart:.1e} apart")
    return efficiency


if __name__ == "__main__":
    main()
