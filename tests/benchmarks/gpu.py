"""All figures of training that want a GPU, in one call: loss, loader, ViT-B/32 and ViT-B/16 from shards in bf16.

    python -m tests.benchmarks.gpu               # some ten minutes on one H100 or H200
    python -m tests.benchmarks.gpu --small       # the same script at toy size, on whatever there is

It needs neither Ray nor MLflow. On a machine that cannot reach a package index, beside its own torch: open_clip_torch,
ftfy, wcwidth, regex, timm, safetensors, huggingface_hub, webdataset, braceexpand, simplejpeg, opencv-python-headless,
pydantic with pydantic-core, annotated-types and typing-inspection. What cannot run there says so, and the rest goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="toy sizes: is the script sound?")
    parser.add_argument("--folder", type=Path, help="where shards are kept for the next time")
    args = parser.parse_args()
    gpus = torch.cuda.device_count()
    names = {torch.cuda.get_device_name(number) for number in range(gpus)} or {"no GPU"}
    print(f"{gpus} x {', '.join(names)}; torch {torch.__version__}, Python {sys.version.split()[0]}", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="clipline-gpu-") as scratch:
        folder = str(args.folder or scratch)
        for title, module, arguments in parts(args.small, folder):
            print(f"\n== {title}", flush=True)
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{module}", *arguments], check=False)
            print(f"   ({time.perf_counter() - start:.0f} s)", flush=True)
            failed += done.returncode != 0
    return failed


def parts(small: bool, folder: str) -> list[tuple[str, str, list[str]]]:
    """What is run: title, module, arguments."""
    train = ["--folder", folder, "--precision", "amp_bf16"]
    if small:
        tiny = ["--samples", "256", "512", "--images", "600", "--batch", "64"]
        return [
            ("loss", "loss", ["--batches", "1024", "2048"]),
            ("training, tiny model", "whole_training", [*train, *tiny]),
        ]
    runs = {"ViT-B-32": ("2048", ["120000", "480000"]), "ViT-B-16": ("1024", ["60000", "240000"])}
    return [
        ("loss", "loss", ["--device", "cuda"]),
        ("loader", "loader", []),
        *(
            (
                f"training, {model}",
                "whole_training",
                [*train, "--model", model, "--batch", batch, "--samples", *samples],
            )
            for model, (batch, samples) in runs.items()
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
