"""Recovery: from the death of a worker, or of its node, to the next step of training.

    python -m tests.benchmarks.recovery [--kills 3]

A cluster of three nodes trains a small model on generated shards through Ray Train: the head, and two with a worker
each. Workers are killed with SIGKILL, the one that holds rank 0, which is the worst; then a node is lost with all that
runs on it, and the training goes on with the worker that is left; then a node is added. Each time the clock runs from
the deed to the first step after it. What a larger model adds is what it takes to read its checkpoint; what is lost in
samples is what was seen since the newest one, and its steps are done again.

What Ray's part is made of: it looks after its workers every 0.5 s here (2 s by itself), gives up a silent node after
``RAY_health_check_period_ms`` times ``RAY_health_check_failure_threshold`` (1.5 s here, 15 s by itself), and learns
every 20 s what its cluster still holds. The rest is starting processes and importing torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.whole_training import TINY, make_shards
from training.config import Config

DRIVER = Path(__file__).parents[1] / "faults/nodes.py"


def recoveries(plan: list[tuple[int, str]], shards: Path, output: Path, config: Config) -> list[tuple[str, int, float]]:
    """What was done, how many workers went on, and after how many seconds they had done their first step."""
    command = [sys.executable, "-W", "ignore", DRIVER, json.dumps(plan), shards, output, config.model_dump_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: list[tuple[str, int, float]] = []
    deed, workers = None, 0
    for event in (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")):
        match event:
            case {"event": "kill" | "lose" | "add"}:
                deed = event
            case {"event": "train_start"}:
                workers = event["workers"]
            case {"event": "progress"} if deed:
                found.append((deed["event"], workers, event["time"] - deed["time"]))
                deed = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=3)
    arguments = parser.parse_args()
    every = 64
    plan = [(every * (number + 1), "kill") for number in range(arguments.kills)]
    plan += [(every * (arguments.kills + 1), "lose"), (every * (arguments.kills + 2), "add")]
    settings = {"model": TINY, "batch_size": 16, "samples": every * (arguments.kills + 3), "log_every": every}
    config = Config(**settings, checkpoint={"every": every // 2}, cluster={"workers": (1, 2), "grow_after_s": 1})
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder, "shards")
        make_shards(shards / "data/train", 200, 96)
        found = recoveries(plan, shards, Path(folder, "out"), config)
    print(f"{'deed':24} {'went on with':>14} {'times':>6} {'seconds to the next step':>26}")
    for deed, name in {"kill": "worker killed", "lose": "node lost", "add": "node added"}.items():
        times = [seconds for what, _, seconds in found if what == deed]
        workers = {count for what, count, _ in found if what == deed}
        spread = f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})" if times else "-"
        print(f"{name:24} {'/'.join(map(str, sorted(workers))) + ' workers':>14} {len(times):6} {spread:>26}")


if __name__ == "__main__":
    main()
