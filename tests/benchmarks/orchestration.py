"""The orchestrator alone: stages that do nothing, beside DVC, Metaflow and Snakemake; a large plan; a sweep.

    python -m venv ... && pip install dvc metaflow snakemake
    python -m tests.benchmarks.orchestration stages [--peer-python ../bin/python] [--repeats 5]
    python -m tests.benchmarks.orchestration plan [--stages 1000]
    python -m tests.benchmarks.orchestration sweep [--seconds 30]

``stages``: a chain of six stages that each write one file, cold and once more with nothing to do. A run of ours starts
Ray, so Ray's own start and stop stand beside, and those of the fewer processes that ``connect`` starts. The programs
take turns; each figure is the best of its turns, so of ours with MLflow's empty tables in the user's cache.
``plan``: the wall time of ``clipline plan`` on a chain of so many stages. ``sweep``: twelve runs, four settings by
three seeds, that share two stages and have one of their own, of so many seconds each, two at once: its wall time over
that of the distinct stages alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from infra.config import Input, Runtime, StageConfig
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from workflows.stage import Stage, Workflow

CLIPLINE = Path(sys.executable).with_name("clipline")
STAGES = 6
RATES, SEEDS = ("0.1", "0.2", "0.3", "0.4"), 3

RAY = """
import ray
ray.init(num_cpus=2)
ray.shutdown()
"""
CONNECT = """
from infra import cluster
with cluster.connect(cpus=2):
    pass
"""
DVC = """
stages:
  s0: {cmd: touch f0, outs: [f0]}
""" + "".join(f"  s{n}: {{cmd: touch f{n}, deps: [f{n - 1}], outs: [f{n}]}}\n" for n in range(1, STAGES))  # fmt: skip
SNAKEFILE = f"rule all:\n  input: 'f{STAGES - 1}'\nrule s0:\n  output: 'f0'\n  shell: 'touch {{output}}'\n" + "".join(
    f"rule s{n}:\n  input: 'f{n - 1}'\n  output: 'f{n}'\n  shell: 'touch {{output}}'\n" for n in range(1, STAGES)
)
METAFLOW = "from metaflow import FlowSpec, step\n\nclass Six(FlowSpec):\n" + "".join(
    f"    @step\n    def {name}(self):\n        self.x = 1\n" + (f"        self.next(self.{after})\n" if after else "")
    for name, after in (("start", "s1"), ("s1", "s2"), ("s2", "s3"), ("s3", "s4"), ("s4", "end"), ("end", ""))
) + "\nif __name__ == '__main__':\n    Six()\n"  # fmt: skip


# --- the workflow: this file is a recipe, too


class First(StageConfig):
    produces = ("nothing",)

    number: int = 0
    seconds: Runtime[float] = 0.0


class Next(First):
    inputs = {"before": Input("nothing")}

    lr: float = 0.0
    seed: int = 0


def do_nothing(config: First, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Sleep, and write one file."""
    time.sleep(config.seconds)
    context.output.write("data/nothing.txt", b"")
    return context.finish()


def workflow(stages: int = STAGES, seconds: float = 0.0, lr: float = 0.0, seed: int = 0) -> Workflow:
    """A chain; the learning rate and the seed are its last stage's."""
    chain = [Stage("s0", do_nothing, First(seconds=seconds))]
    for number in range(1, stages):
        last = {"lr": lr, "seed": seed} if number == stages - 1 else {}
        config = Next(number=number, seconds=seconds, **last)
        chain.append(Stage(f"s{number}", do_nothing, config, {"before": chain[-1]}))
    return Workflow("nothing", tuple(chain))


# --- the figures


def seconds(command: list[object], folder: Path) -> float:
    """Wall time of a command in ``folder``; it must end well."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    env.setdefault("USERNAME", "bench")  # Metaflow wants one
    start = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"it failed: {' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def clipline(command: str, *options: object) -> list[object]:
    return [CLIPLINE, command, Path(__file__), "--root", "root", *options]


def programs(peer: Path | None) -> dict[str, Callable[[Path], list[list[object]]]]:
    """Each program's commands in an empty folder: those that prepare it, the run, and the run once more."""
    found: dict[str, Callable[[Path], list[list[object]]]] = {
        "Ray": lambda folder: [[sys.executable, "-c", RAY]],
        "connect": lambda folder: [[sys.executable, "-c", CONNECT]],
        "clipline": lambda folder: [clipline("run", "--cpus", 2)] * 2,
    }
    if peer is None:
        return found
    bin = peer.parent

    def dvc(folder: Path) -> list[list[object]]:
        (folder / "dvc.yaml").write_text(DVC)
        seconds([bin / "dvc", "init", "--no-scm", "-q"], folder)
        return [[bin / "dvc", "repro"]] * 2

    def snakemake(folder: Path) -> list[list[object]]:
        (folder / "Snakefile").write_text(SNAKEFILE)
        return [[bin / "snakemake", "--cores", "2"]] * 2

    def metaflow(folder: Path) -> list[list[object]]:
        (folder / "flow.py").write_text(METAFLOW)
        return [[peer, "flow.py", "--quiet", "run"], [peer, "flow.py", "--quiet", "resume"]]

    return {**found, "DVC": dvc, "Snakemake": snakemake, "Metaflow": metaflow}


def stages(peer: Path | None, repeats: int) -> None:
    """Print the least seconds of each program, cold and with nothing to do."""
    taken: dict[tuple[str, str], list[float]] = {}
    for _, (name, prepare) in itertools.product(range(repeats), programs(peer).items()):
        with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
            for kind, command in zip(("cold", "cached"), prepare(Path(scratch)), strict=False):
                taken.setdefault((name, kind), []).append(seconds(command, Path(scratch)))
    for (name, kind), all_turns in taken.items():
        print(f"{name:10} {kind:7} {min(all_turns):.2f} s (at most {max(all_turns):.2f})")
    ray, ours, cold = (min(taken[name, "cold"]) for name in ("Ray", "connect", "clipline"))
    cached = min(taken["clipline", "cached"])
    print(f"{STAGES} stages cold: Ray's start and stop and {cold - ray:.2f} s, of clipline's Ray {cold - ours:.2f} s")
    print(f"{STAGES} stages cached: {cached:.2f} s", end="")
    least = min(
        (min(turns) for (name, kind), turns in taken.items() if kind == "cached" and name != "clipline"), default=0
    )
    print(f", {cached / least:.2f} x the quickest of the others" if least else "")


def plan(count: int, repeats: int) -> None:
    """Print the least seconds of planning a chain of ``count`` stages."""
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        command = clipline("plan", "--set", f"stages={count}")
        taken = [seconds(command, Path(scratch)) for _ in range(repeats)]
    print(f"plan of {count} stages: {min(taken):.2f} s (at most {max(taken):.2f})")


def sweep(each: float) -> None:
    """Print the wall time of a sweep over that of its distinct stages on the slots."""
    runs, shared = len(RATES) * SEEDS, 2
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        options = ["--grid", f"lr={','.join(RATES)}", "--seeds", SEEDS, "--cpus", 2, "--stages", 2]
        settings = ["--set", f"stages={shared + 1}", "--set", f"seconds={each}"]
        taken = seconds(clipline("sweep", *options, *settings), Path(scratch))
    # What is shared is a chain: it has one slot, whatever else is free.
    least = shared * each + runs * each / 2
    print(f"sweep of {runs} runs: {taken:.1f} s, its stages alone {least:.1f} s, {taken / least:.3f} x")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("figure", choices=("stages", "plan", "sweep"))
    parser.add_argument("--peer-python", type=lambda given: Path(given).absolute(), help="with DVC and the others")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stages", type=int, default=1000, help="of the plan")
    parser.add_argument("--seconds", type=float, default=30, help="of a stage of the sweep")
    args = parser.parse_args(arguments)
    run = {
        "stages": partial(stages, args.peer_python, args.repeats),
        "plan": partial(plan, args.stages, args.repeats),
        "sweep": partial(sweep, args.seconds),
    }
    run[args.figure]()


if __name__ == "__main__":
    main()
