"""What a step costs on 1 to 1,024 GPUs: a model on paper, to plan a run by and to know what to measure first.

    python -m tests.benchmarks.cost --model ViT-B-32 --batch-per-gpu 1024

A step is the towers' compute, the loss over the global batch, the exchange of features, the average of gradients and
the feeding of samples. Assumptions, all of them parameters below:

- the towers reach a fixed share of the GPU's dense bf16 peak (``utilisation``), whatever the batch;
- each rank compares its b images with all B texts, in tiles that are computed twice, for the loss and for its gradient
  in both: four products of 2 b B d FLOPs, in TF32;
- texts' features travel as fp32: a ring all-gather of B d numbers, a reduce-scatter of as many gradients;
- gradients are averaged as fp32 by a ring all-reduce, hidden behind the backward pass (two thirds of the compute)
  except for its last bucket;
- a ring runs at the speed of its slowest link: NVLink within a node, the network beyond; each of its hops costs a
  latency, and NCCL's trees make that the logarithm of the number of nodes;
- a GPU is fed by its cores at the loader's measured rate per core; no rank is slower than the others.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

__all__ = ["Machine", "Model", "Step", "estimate"]


@dataclass(frozen=True)
class Machine:
    """GPUs and what joins them; per GPU, in FLOP/s, bytes/s, seconds and samples/s. Defaults: nodes of 8 H100 SXM."""

    peak: float = 989e12  # dense bf16
    utilisation: float = 0.40
    peak_logits: float = 494e12  # dense TF32
    gpus_per_node: int = 8
    inside: float = 450e9  # NVLink, one direction
    between: float = 50e9  # 400 Gbit/s of network a GPU
    latency: float = 15e-6
    cores: float = 14
    samples_per_core: float = 1900.0


@dataclass(frozen=True)
class Model:
    parameters: float
    forward_flops: float  # of one sample through both towers
    width: int  # of the features


@dataclass(frozen=True)
class Step:
    """Seconds of one step on one of ``gpus`` GPUs with ``batch`` samples in all."""

    gpus: int
    batch: int
    compute: float
    loss: float
    gather: float
    reduce: float  # what the backward pass does not hide
    feed: float  # what the loader needs for the GPU's samples; in parallel to all else

    @property
    def seconds(self) -> float:
        return max(self.compute + self.loss + self.gather + self.reduce, self.feed)

    @property
    def samples_per_s(self) -> float:
        return self.batch / self.seconds


def estimate(model: Model, machine: Machine, gpus: int, batch_per_gpu: int) -> Step:
    """The step of ``gpus`` GPUs with ``batch_per_gpu`` samples each, by the assumptions above."""
    b, batch = batch_per_gpu, batch_per_gpu * gpus
    compute = 3 * model.forward_flops * b / (machine.peak * machine.utilisation)
    products = 4 * 2.0 * b * batch * model.width
    link = machine.inside if gpus <= machine.gpus_per_node else machine.between
    ring = (gpus - 1) / gpus
    hops = machine.latency * (1 + math.log2(max(1, gpus / machine.gpus_per_node))) if gpus > 1 else 0.0
    features = 4.0 * batch * model.width
    gradients = 4.0 * model.parameters
    average = 2 * ring * gradients / link + hops
    bucket = min(1.0, 25e6 / gradients)  # DDP's buckets are 25 MB; the last one has nothing left to hide behind
    return Step(
        gpus,
        batch,
        compute,
        loss=products / (machine.peak_logits * machine.utilisation),
        gather=2 * ring * features / link + 2 * hops,
        reduce=max(average - 2 / 3 * compute, bucket * average),
        feed=b / (machine.cores * machine.samples_per_core),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("tests.benchmarks.cost", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="ViT-B-32", help="an open_clip model")
    parser.add_argument("--batch-per-gpu", type=int, default=1024)
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 8, 16, 64, 256, 1024])
    for name, value in vars(Machine()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args(arguments)
    model = _model(args.model)
    machine = Machine(**{name: getattr(args, name) for name in vars(Machine())})
    alone = estimate(model, machine, 1, args.batch_per_gpu).samples_per_s
    lines = [
        f"{args.model}: {model.parameters / 1e6:.0f} M parameters, {model.forward_flops / 1e9:.1f} GFLOPs a sample",
        f"{'GPUs':>6}{'batch':>10}{'samples/s':>12}{'each':>6}   ms: compute, loss, gather, reduce | feed",
    ]
    for gpus in args.gpus:
        step = estimate(model, machine, gpus, args.batch_per_gpu)
        parts = ", ".join(f"{1000 * part:.1f}" for part in (step.compute, step.loss, step.gather, step.reduce))
        share = step.samples_per_s / gpus / alone
        lines.append(
            f"{gpus:6}{step.batch:10,}{step.samples_per_s:12,.0f}{share:6.0%}   {parts} | {1000 * step.feed:.1f}"
        )
    sys.stdout.write("\n".join([*lines, ""]))


def _model(name: str) -> Model:
    from training.distributed.world import World
    from training.model.build import build
    from training.model.flops import forward_flops

    built = build(name, 0, World())
    width = int(built.description["model_cfg"]["embed_dim"])
    return Model(sum(weight.numel() for weight in built.model.parameters()), forward_flops(built), width)


if __name__ == "__main__":
    main()
