"""Whole training: ours and open_clip_train's samples per second on the same shards, at the same settings.

    python -m tests.benchmarks.whole_training                                  # a tiny model on two cores
    python -m tests.benchmarks.whole_training --model ViT-B-32 --precision amp_bf16 --batch 2048 --samples 100000 400000

Both start from random weights and read WebDataset shards, tokenise, decode, crop and train in fp32 or bf16 with AdamW,
warm-up and cosine. Each program runs at two lengths; the slope between them leaves start-up out. The captions are 5 to
18 words long, as on the web, in a context of 77 tokens. On the CPU both get one thread for tensors and one for data;
on GPUs one process per GPU (``--gpus``) and as many data workers as there are cores for it. MFU is printed where the
GPU's peak is known: 3 x forward FLOPs of the whole model x samples/s / peak.

The losses over the last quarter of the longer run are printed side by side: the weights are drawn and the samples
shuffled differently, so they agree within what a seed makes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from infra.formats.shards import TarWriter
from tests.benchmarks.served import picture
from tests.benchmarks.trainers import run_ours, run_theirs

TINY = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 192, "layers": 4, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 4},
}
COLOURS = {
    "red": (200, 30, 30), "green": (30, 150, 50), "blue": (30, 60, 210), "yellow": (240, 210, 10),
    "white": (240, 240, 240), "black": (15, 15, 15), "purple": (120, 40, 150), "orange": (240, 130, 20),
}  # fmt: skip
PLACES = ("top left", "top right", "bottom left", "bottom right")
WORDS = ("harbour", "evening", "light", "kitchen", "table", "market", "portrait", "woman", "lake", "bridge", "garden")


def make_shards(folder: Path, count: int, side: int, per_shard: int = 1000) -> None:
    """``count`` JPEGs, their shorter side ``side`` px or a little more, of coloured places named in the captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, per_shard):
        path = folder / f"{start // per_shard:05d}.tar"
        if path.exists():
            continue
        sink = io.BytesIO()
        with TarWriter(sink) as tar:
            for number in range(start, min(start + per_shard, count)):
                data, caption = sample(np.random.default_rng(number), side)
                tar.add(f"{number:08d}.jpg", data)
                tar.add(f"{number:08d}.txt", caption.encode())
        path.write_bytes(sink.getvalue())


def sample(rng: np.random.Generator, side: int) -> tuple[bytes, str]:
    width, height = rng.integers(side, side * 4 // 3, 2).tolist()
    image = picture(rng, width, height)
    places = rng.permutation(4)[: int(rng.integers(1, 5))]
    said = []
    for place in places.tolist():
        name = list(COLOURS)[int(rng.integers(8))]
        centre = (width * (1 + 2 * (place % 2)) // 4, height * (1 + 2 * (place // 2)) // 4)
        cv2.circle(image, centre, min(width, height) // 6, COLOURS[name][::-1], -1, cv2.LINE_AA)
        said.append(f"{name} {PLACES[place]}")
    words = " ".join(rng.choice(WORDS, int(rng.integers(1, 8))))
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes(), f"{words}, {', '.join(said)}"


@dataclass
class Run:
    """Of a whole command: seconds, CPU seconds of it and its children, and its loss by samples seen."""

    seconds: float
    cpu_s: float
    losses: list[tuple[int, float]]

    def last_quarter(self) -> float:
        late = [loss for samples, loss in self.losses if samples > 0.75 * self.losses[-1][0]]
        return sum(late) / len(late)


def clipline(args: argparse.Namespace, model: object, shards: Path, samples: int, folder: Path) -> Run:
    config = {
        "model": model, "batch_size": args.batch, "samples": samples, "precision": args.precision,
        "log_every": 5 * args.batch, "optimizer": {"lr": args.lr}, "schedule": {"warmup": 10 * args.batch},
        "checkpoint": {"every": 10**12}, "cluster": {"workers": max(1, args.gpus)},
        "loading": {"threads": args.loaders, "memory_cache_mb": 0}, **json.loads(args.options),
    }  # fmt: skip
    seconds, cpu = run_ours(config, shards, folder, args.gpus)
    lines = (folder / "out/data/history.jsonl").read_text().splitlines()
    return Run(seconds, cpu, [(line["samples"], line["loss"]) for line in map(json.loads, lines)])


def open_clip(args: argparse.Namespace, model: Any, shards: Path, samples: int, folder: Path) -> Run:
    options = {
        "train-num-samples": samples, "batch-size": args.batch // max(1, args.gpus), "lr": args.lr, "warmup": 10,
        "precision": args.precision, "workers": args.loaders, "log-every-n-steps": 5,
    }  # fmt: skip
    seconds, cpu = run_theirs(model, options, shards, folder, args.gpus)
    found = re.findall(r"Train Epoch: 0 \[\s*(\d+)/.*?Contrastive_loss: ([\d.]+)", (folder / "log").read_text())
    return Run(seconds, cpu, [(int(samples), float(loss)) for samples, loss in found])


def mfu(model: Any, rate: float, args: argparse.Namespace) -> str:
    """Of one GPU, as text; empty where the peak is not known."""
    if not args.gpus:
        return ""
    import torch

    from training.distributed.world import World
    from training.model import flops
    from training.model.build import build

    most = flops.peak(torch.device("cuda"), args.precision)
    if most is None:
        return ""
    return f", MFU {flops.mfu(flops.forward_flops(build(model, 0, World())), rate, most, args.gpus):.1%} of {most}"


def main(arguments: list[str] | None = None) -> float:
    """Print the table; the ratio of samples per second, ours to open_clip's."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="tiny, or an open_clip model")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "amp_bf16"])
    parser.add_argument("--batch", type=int, default=128, help="global batch")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--samples", type=int, nargs=2, default=(1280, 5120), help="lengths of the two runs")
    parser.add_argument("--images", type=int, default=4000, help="different samples in the shards")
    parser.add_argument("--repeats", type=int, default=1, help="the fastest run of each length counts")
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count())
    parser.add_argument("--loaders", type=int, help="data threads or processes of each rank; default by cores")
    parser.add_argument("--options", default="{}", help="further fields of our configuration, JSON")
    parser.add_argument("--folder", type=Path, help="where the shards are kept for the next time")
    parser.add_argument("--alone", action="store_true", help="leave open_clip out")
    args = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    args.loaders = args.loaders or (max(1, (cores - args.gpus) // args.gpus) if args.gpus else 1)
    model: object = TINY if args.model == "tiny" else args.model
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        side = 96 if args.model == "tiny" else 256
        shards = (args.folder or work) / f"shards-{args.images}-{side}"
        make_shards(shards, args.images, side)
        print(
            f"{args.model}, batch {args.batch}, {args.precision}, {args.gpus or 'no'} GPUs, {cores} cores", flush=True
        )
        rates, late = {}, {}
        for name, run in {"clipline": clipline, "open_clip_train": open_clip}.items():
            if args.alone and run is open_clip:
                continue
            runs: list[list[Run]] = [[], []]
            for turn, (length, samples) in product(range(args.repeats), enumerate(args.samples)):
                folder = work / f"{name}-{turn}-{samples}"
                folder.mkdir()
                runs[length].append(run(args, model, shards, samples, folder))
            short, long = (min(turns, key=lambda one: one.seconds) for turns in runs)
            more = args.samples[1] - args.samples[0]
            rates[name], late[name] = more / (long.seconds - short.seconds), long.last_quarter()
            print(
                f"{name:16} {rates[name]:9,.1f} samples/s, {more / (long.cpu_s - short.cpu_s):9,.1f} per CPU-s, "
                f"start {short.seconds - args.samples[0] / rates[name]:5.1f} s, "
                f"loss {late[name]:.3f}{mfu(model, rates[name], args)}",
                flush=True,
            )
    if args.alone:
        return float("nan")
    ratio = rates["clipline"] / rates["open_clip_train"]
    print(
        f"{ratio:.2f} x open_clip_train's samples/s (bar 1.5); losses apart by {abs(np.subtract(*late.values())):.3f}"
    )
    return ratio


if __name__ == "__main__":
    main()
