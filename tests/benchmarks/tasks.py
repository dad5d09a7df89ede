"""Five tasks on one test set beside one: CPU seconds, the embedding included. What is embedded once serves all.

    python -m tests.benchmarks.tasks [--images 1000] [--model ViT-B-32]

A set of pictures like photographs with twenty classes, ``images`` to learn from and as many to test; a model of
open_clip with random weights, in fp32 on one thread. One task: embed both splits, then the linear probe. Five: embed
them, then the linear probe, zero-shot classification, k nearest neighbours, and learning from 1 and from 16 images of
each class.
Each step runs in a process of its own, as the stages do, and its imports count.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.pictured_set import SPLITS, adopted, make

TASKS = ("linear_probe", "zeroshot_classification", "knn", "one_shot", "few_shot")


def embed(folder: Path) -> None:
    """The stage ``embed``, without the cluster around it."""
    from evaluation.embed import Config
    from evaluation.embed.config import Part
    from evaluation.embed.work import embed as work
    from infra.formats.testset import EvalSet
    from infra.run.context import Context, ShardOutput
    from infra.run.manifest import MANIFEST

    inputs = adopted(folder)
    sets = [EvalSet.open(inputs["dataset"], "pictures", split) for split in SPLITS]
    context = Context(f"{folder}/embedded", stage="embed", digest="e" * 64)
    specs = [
        (Part(one.alone(shard), shard), ShardOutput(context.store, f"{one.split}-{shard}"))
        for one in sets
        for shard in one.parts
    ]
    specs.append((Part(sets[0].alone(None), None), ShardOutput(context.store, "classes")))
    config = Config(sets=("pictures",), splits=SPLITS)
    context = Context(context.store, stage="embed", digest="e" * 64, config=config.resolved())
    records = list(work(config, inputs["model"], specs))
    facts = {"model": "m", "pretrained": "random", "logit_scale": max(one.facts["logit_scale"] for one in records)}
    context.store.write(MANIFEST, context.finish(records, facts=facts).to_bytes())


def evaluate(folder: Path, name: str) -> None:
    """The stage ``evaluate`` with one of the tasks."""
    from evaluation.evaluate import Config
    from evaluation.evaluate.work import evaluate as work
    from evaluation.tasks import FewShot, LinearProbe, NearestNeighbours, ZeroShot
    from infra.run.context import Context, ShardOutput
    from infra.run.manifest import Artifact

    task = {
        "linear_probe": LinearProbe(dataset="pictures"),
        "zeroshot_classification": ZeroShot(dataset="pictures"),
        "knn": NearestNeighbours(dataset="pictures"),
        "one_shot": FewShot(dataset="pictures", shots=1),
        "few_shot": FewShot(dataset="pictures", shots=16),
    }[name]
    inputs = {**adopted(folder), "embeddings": Artifact.load(f"{folder}/embedded")}
    work(Config(task=task), inputs, ShardOutput(Context(f"{folder}/{name}").store, name))


def seconds(folder: str, step: str) -> float:
    """CPU seconds of a step in a process of its own."""
    from infra.cluster import TENSORS

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.tasks", "--step", folder, step]
    subprocess.run(command, env={**os.environ, **TENSORS, **threads}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(spent: dict[str, float], tasks: Sequence[str] = TASKS) -> str:
    one, five = spent["embed"] + spent[tasks[0]], spent["embed"] + sum(spent[name] for name in tasks)
    return f"five tasks: {five / one:.3f} x one ({five:.0f} and {one:.0f} CPU-s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        folder, step = Path(options.step[0]), options.step[1]
        embed(folder) if step == "embed" else evaluate(folder, step)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.images, options.model)
        spent = {step: seconds(folder, step) for step in ("embed", *TASKS)}
    for step, found in spent.items():
        print(f"{step:24} {found:7.1f} CPU-s")
    print(report(spent))


if __name__ == "__main__":
    main()
