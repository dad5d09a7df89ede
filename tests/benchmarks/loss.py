"""InfoNCE forward and backward, ours and open_clip's ``ClipLoss`` on the same features: time and extra memory.

    python -m tests.benchmarks.loss                  # CPU: 4k, 8k, 16k, 32k x 512
    python -m tests.benchmarks.loss --device cuda    # 16k, 32k, 64k, 128k
    python -m tests.benchmarks.loss --ranks 4        # the same batches divided among four processes or GPUs

Each loss of each batch runs in a process of its own. Memory is the peak while it runs over what was there before: a
small batch has loaded all libraries by then, but the features' gradients count, which both have to make. Where the peer
would need more than ``--limit`` GB it is not run; its memory is computed from its largest batch that was, as it is
quadratic. On the CPU, time is CPU time, so that neighbours on the machine do not count; the fastest of several runs.
Of several ranks the first one's figures are given; the peer has ``--local-loss --gather-with-grad``, its leanest mode
that is right.

On a GPU the features are those of bf16 towers, and the peer is run twice: with fp32 logits like ours, and under
autocast as open_clip's training has it, where logits are rounded to 8 bits. ``--tf32`` lets fp32 matrices be multiplied
in TF32, for both.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

BATCHES = {"cpu": (4096, 8192, 16384, 32768), "cuda": (16384, 32768, 65536, 131072)}
PEER = "open_clip"


def features(batch: int, width: int, device: str, rank: int = 0, size: int = 1) -> list[Tensor]:
    """A rank's images, texts a little like them, and the scale of a trained model's logits."""
    generator = torch.Generator(device).manual_seed(rank)
    images, noise = (torch.randn(batch // size, width, device=device, generator=generator) for _ in range(2))
    pair = [F.normalize(x, dim=1) for x in (images, images + 8 * noise)]
    if device == "cuda":
        pair = [x.bfloat16().float() for x in pair]
    return [*(x.requires_grad_() for x in pair), torch.tensor(50.0, device=device, requires_grad=True)]


def losses(device: str, rank: int = 0, size: int = 1) -> dict[str, Callable[..., Tensor]]:
    from open_clip.loss import ClipLoss

    from training.objectives.infonce.objective import info_nce

    peer = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=size)

    def rounded(*inputs: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return peer(*inputs)

    both: dict[str, Callable[..., Tensor]] = {"clipline": info_nce, PEER: peer}
    return both | ({"open_clip bf16": rounded} if device == "cuda" else {})


def run(rank: int, name: str, batch: int, options: argparse.Namespace, meeting: str) -> None:
    """One measurement, in this process; the first rank prints seconds, GB and the loss."""
    torch.set_num_threads(options.threads)
    if options.tf32:
        torch.set_float32_matmul_precision("high")
    if options.device == "cuda":
        torch.cuda.set_device(rank)
    if options.ranks > 1:
        backend = "nccl" if options.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=options.ranks)
    loss = losses(options.device, rank, options.ranks)[name]
    loss(*features(256, options.width, options.device, rank, options.ranks)).backward()
    inputs = features(batch, options.width, options.device, rank, options.ranks)
    if options.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        clock = time.perf_counter
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = resident("VmRSS")
        clock = time.process_time
    start = clock()
    value = loss(*inputs)
    value.backward()
    if options.device == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - start
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else resident("VmHWM")
    if options.ranks > 1:
        dist.all_reduce(value := value.detach() / options.ranks)
        dist.destroy_process_group()
    if rank == 0:
        print(json.dumps({"seconds": seconds, "gb": (peak - before) / 1e9, "loss": value.item()}), flush=True)


def resident(field: str) -> int:
    """Bytes of this process's memory, from Linux's account of it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(name: str, batch: int, arguments: list[str]) -> dict[str, float]:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.loss", *arguments, "--one", name, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return result


def best(name: str, batch: int, repeats: int, arguments: list[str]) -> dict[str, float]:
    runs = [measure(name, batch, arguments) for _ in range(repeats)]
    return min(runs, key=lambda one: one["seconds"])


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Print the table; ours to the peer's in the same precision: time at its worst, memory at the largest batch."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", help="samples")
    parser.add_argument("--width", type=int, default=512, help="of the features")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each, of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share the batch")
    parser.add_argument("--limit", type=float, help="GB that the peer may use; 12, or nine tenths of the GPU's")
    parser.add_argument("--tf32", action="store_true", help="multiply fp32 matrices in TF32")
    parser.add_argument("--one", nargs=2, metavar=("LOSS", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            todo = options.one[0], int(options.one[1]), options, f"{folder}/meeting"
            torch.multiprocessing.spawn(run, todo, options.ranks)
        return 0.0, 0.0

    names = list(losses(options.device))
    limit = options.limit
    if limit is None:
        limit = 12.0 if options.device == "cpu" else 0.9 * torch.cuda.get_device_properties(0).total_memory / 1e9
    print(f"batch x {options.width}, forward and backward, {options.ranks} x {options.device}")
    print(f"{'batch':>8}  {'loss':16}{'seconds':>10}{'GB':>10}{'time':>8}{'memory':>10}{'value':>14}")
    slowest, smallest = 0.0, 0.0
    known: dict[str, tuple[int, float]] = {}  # the peer's largest batch and its GB
    for batch in options.batches or BATCHES[options.device]:
        ours = best("clipline", batch, options.repeats, arguments)
        print(f"{batch:8}  {'clipline':16}{ours['seconds']:10.3f}{ours['gb']:10.3f}{'':18}{ours['loss']:14.7f}")
        for name in names[1:]:
            size, gb = known.get(name, (batch, 0.0))
            if (need := gb * (batch / size) ** 2) > limit:
                print(f"{'':8}  {name:16}{'not run':>10}{need:10.3f}{'':8}{ours['gb'] / need:10.4f}")
                smallest = ours["gb"] / need if name == PEER else smallest
                continue
            theirs = best(name, batch, options.repeats, arguments)
            known[name] = batch, theirs["gb"]
            times, memories = ours["seconds"] / theirs["seconds"], ours["gb"] / theirs["gb"]
            figures = f"{theirs['seconds']:10.3f}{theirs['gb']:10.3f}{times:8.2f}{memories:10.4f}"
            print(f"{'':8}  {name:16}{figures}{theirs['loss']:14.7f}")
            if name == PEER:
                slowest, smallest = max(slowest, times), memories
                if not math.isclose(ours["loss"], theirs["loss"], rel_tol=1e-6):
                    raise SystemExit("the two losses differ")
    print(f"time at most {slowest:.2f} of open_clip's; memory at the largest batch 1/{1 / smallest:.0f}")
    return slowest, smallest


if __name__ == "__main__":
    main()
