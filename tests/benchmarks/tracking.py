"""What logging to MLflow costs a run whose stage sends 1,000 metrics a minute.

    python -m tests.benchmarks.tracking [--seconds 60]

Twenty curves get a point at fifty steps a minute, on an sqlite store, as training logs them. The stage appends events
to the journal and goes on; the tracker's thread in the driver's process sends them. Counted are the time that the stage
is held up for, and the CPU time of the whole process beside the minute. The peer is the way of most training scripts:
``MlflowClient.log_metric`` for each value, where the stage waits. Both in one run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

CURVES, STEPS_A_MINUTE = 20, 50


def ours(folder: Path, seconds: int) -> tuple[float, float]:
    """Seconds that the stage is held up for, and CPU seconds of the process, over so many seconds."""
    from infra.events import RunStarted, StageStarted
    from infra.run.context import Context
    from infra.store import LocalStore
    from infra.tracking import Address, Tracker
    from workflows.run.journal import Journal

    root = LocalStore(folder)
    store = root.child("runs/one")
    journal = Journal(store)
    journal.append([RunStarted(run="one", recipe="r.py", settings="", commit="c", time=time.time())])
    journal.append([StageStarted(stage="train", attempt=1, digest="d" * 64, config={}, forced=False, time=time.time())])
    address = Address(f"sqlite:///{folder}/mlflow.db", f"{folder}/mlartifacts")
    tracker = Tracker(address, "tracking", root, store, journal.read)
    tracker.start()
    while not tracker.page:  # MLflow is imported and its database made once, whatever is logged
        time.sleep(0.1)
    context = Context(root.child("stage"), stage="train", emit=lambda event: journal.append([event]))
    send(context.metrics, 2, 0)
    time.sleep(3)
    begin, cpu = time.perf_counter(), time.process_time()
    held = send(context.metrics, seconds * STEPS_A_MINUTE // 60, 100)
    time.sleep(max(0.0, begin + seconds - time.perf_counter()))
    used = time.process_time() - cpu
    if not tracker.close(60):
        raise SystemExit(f"MLflow got not all: {tracker.degraded}")
    return held, used


def send(metrics: object, steps: int, first: int) -> float:
    """Send a value of each curve at so many steps, at their pace; the seconds that sending took."""
    held = 0.0
    for step in range(first, first + steps):
        begin = time.perf_counter()
        metrics({f"curve{number}": step + number / 7 for number in range(CURVES)}, step)  # type: ignore[operator]
        held += time.perf_counter() - begin
        time.sleep(max(0.0, 60 / STEPS_A_MINUTE - (time.perf_counter() - begin)))
    return held


def theirs(folder: Path, seconds: int) -> float:
    """Seconds that the stage waits for, logging each value by itself, one after the other without the pace."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/peer.db")
    run = client.create_run(client.create_experiment("peer", f"{folder}/peer")).info.run_id
    client.log_metric(run, "first", 0.0)
    begin = time.perf_counter()
    for step in range(seconds * STEPS_A_MINUTE // 60):
        for number in range(CURVES):
            client.log_metric(run, f"curve{number}", step + number / 7, step=step)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        held, used = ours(Path(folder), seconds)
        waited = theirs(Path(folder), seconds)
    values = seconds * STEPS_A_MINUTE // 60 * CURVES
    print(f"{values} metrics in {seconds} s: the stage is held up for {1000 * held:.0f} ms, {held / seconds:.3%} of it")
    print(f"the driver's process works {used:.2f} CPU s beside it: {100 * used / seconds:.2f} % of a core")
    print(f"MlflowClient.log_metric holds the stage up for {waited:.2f} s: {waited / held:.0f} x ours")


if __name__ == "__main__":
    main()
