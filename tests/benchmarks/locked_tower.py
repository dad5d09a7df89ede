"""Training with a network that learns nothing: samples per second with its features kept, and with it run each time.

    python -m tests.benchmarks.locked_tower [tower | teacher] [--samples 768] [--side 128] [--repeats 2]

``tower``: EfficientNet-Lite0 (random weights; they do not change the speed) with a projection that learns, and a text
tower of one layer: locked-image training of a real tower, as docs/evaluation.md's languages need it. ``teacher``: the
same model teaches a ViT of two layers by distillation. Each way runs in a process of
its own on one thread, in turn with the other, with glibc told to keep memory as workers are (infra.cluster.TENSORS).
Counted are the CPU seconds of the steps after the first epoch, reading and decoding included; losses must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.whole_training import make_shards

BATCH, EPOCHS = 64, 3
KEPT = {"run each time": 0, "its features kept": 4096}
"""MB of the cache, by way."""


def model(side: int) -> dict[str, object]:
    """The configuration in open_clip's form."""
    tower = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "", "timm_proj": "linear", "image_size": side}
    text = {"context_length": 32, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 1}
    return {"embed_dim": 256, "vision_cfg": {**tower, "timm_model_pretrained": False}, "text_cfg": text}


def student(side: int) -> dict[str, object]:
    """The configuration of the small model that is taught."""
    tower = {"image_size": side, "patch_size": side // 8, "width": 128, "layers": 2, "head_width": 64}
    return {**model(side), "vision_cfg": tower}


def write_teacher(folder: Path, side: int) -> None:
    """Write the large model with random weights as open_clip's folder."""
    from safetensors.torch import save_file

    from training.config import Model
    from training.distributed.world import World
    from training.model.build import build

    towers = build(Model(architecture=model(side)), 0, World())
    folder.mkdir()
    save_file(towers.model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model(side), "preprocess_cfg": {}}))


def settings(what: str, side: int) -> dict[str, object]:
    """Fields of the configuration that make it train against the locked tower, or the teacher."""
    if what == "tower":
        return {"model": {"architecture": model(side), "lock_image": 0}}
    return {"model": {"architecture": student(side)}, "objective": "distill"}


def measure(what: str, folder: Path, side: int, megabytes: int) -> None:
    """Train; print the samples of the later epochs, their seconds, CPU seconds, and the losses."""
    import torch

    from infra.run.context import Context
    from training.config import Config
    from training.distributed.world import World
    from training.inputs import Inputs
    from training.loop import Trainer

    with tempfile.TemporaryDirectory(dir=folder) as output:
        config = Config(
            **settings(what, side),
            batch_size=BATCH,
            epochs=EPOCHS,
            augment={"crop_scale": (1.0, 1.0)},
            checkpoint={"every": 10**12, "minutes": None},
            loading={"threads": 1, "memory_cache_mb": 0, "feature_cache_mb": megabytes, "cache_folder": output},
        )
        torch.set_num_threads(1)
        models = {"teacher": str(folder / "teacher")} if what == "teacher" else {}
        trainer = Trainer(config, Inputs.at([str(folder / "shards")], None, models), Context(output), World())
        clocks, step, epoch = [], trainer._step, len(trainer.samples)

        def timed(batch: object) -> object:
            if trainer.state.samples >= epoch:
                clocks.append((trainer.state.samples, time.perf_counter(), time.process_time()))
            return step(batch)

        trainer._step = timed
        trainer.run()
        trainer._close()
    samples, wall, cpu = (last - first for first, last in zip(clocks[0], clocks[-1], strict=True))
    print(json.dumps([samples, wall, cpu, [line["loss"] for line in trainer.state.history]]))


def main() -> None:
    from infra.cluster import TENSORS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("tower", "teacher"), default="tower")
    parser.add_argument("--samples", type=int, default=768)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.what, Path(args.measure[0]), args.side, int(args.measure[1]))
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder, "shards"), args.samples, args.side * 5 // 4)
        if args.what == "teacher":
            write_teacher(Path(folder, "teacher"), args.side)
        found: dict[str, list[float]] = {way: [] for way in KEPT}
        losses = {}
        for _ in range(args.repeats):
            for way, megabytes in KEPT.items():
                command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.locked_tower", args.what]
                command += ["--side", str(args.side), "--measure", folder, str(megabytes)]
                run = subprocess.run(command, env={**os.environ, **TENSORS}, check=True, stdout=subprocess.PIPE)
                samples, wall, cpu, losses[way] = json.loads(run.stdout.splitlines()[-1])
                found[way].append(samples / cpu)
                print(
                    f"{args.what}, {way}: {samples / cpu:,.0f} samples per CPU second, {samples / wall:,.0f} samples/s",
                    flush=True,
                )
    run_each, kept = (median(rates) for rates in found.values())
    apart = max(abs(a - b) / abs(a) for a, b in zip(*losses.values(), strict=True))
    whose = "a locked tower's" if args.what == "tower" else "a teacher's"
    print(f"{whose} features kept: {kept / run_each:.1f} x; losses at most {apart:.1e} apart")


if __name__ == "__main__":
    main()
