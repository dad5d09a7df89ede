"""Text towers with and without padding: captions through open_clip's encode_text and through ours, on one core.

    python -m tests.benchmarks.text_trim

Both give the same features and the same gradients, which is checked. The captions' lengths are those of the web:
log-normal, 12 tokens in the middle, cut at 77. Weights are random, the precision is fp32. What is measured is CPU time
of a forward and a backward pass; the best of several runs counts.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import open_clip
import torch
from torch import Tensor

from training.model.blocks import use_fast_blocks
from training.model.text import encode_text, pack

VISION = {"image_size": 32, "patch_size": 32, "width": 64, "layers": 1}  # no image is looked at
TOWERS = {
    "tiny (192 wide, 4 blocks)": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 4},
    "ViT-B-32's (512 wide, 12 blocks)": {
        "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12,
    },
}  # fmt: skip
START, END = 49406, 49407


def captions(count: int) -> tuple[Tensor, np.ndarray]:
    """Tokens (count, 77) and their lengths."""
    draw = np.random.default_rng(0)
    lengths = np.rint(draw.lognormal(np.log(12), 0.5, count)).clip(3, 77).astype(np.int64)
    texts = np.zeros((count, 77), np.int64)
    for text, length in zip(texts, lengths, strict=True):
        text[:length] = [START, *draw.integers(1, START, length - 2), END]
    return torch.from_numpy(texts), lengths


def measure(encode: Callable[[Tensor], Tensor], texts: Tensor, model: torch.nn.Module, repeats: int) -> tuple:
    """CPU seconds of the best run, the features, and the gradient of their sum with signs in each weight."""
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        model.zero_grad()
        start = time.process_time()
        features = encode(texts)
        (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
        best = min(best, time.process_time() - start)
    return best, features.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None]


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference, as a part of the largest value."""
    largest = max(float(value.abs().max()) for value in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / largest


def main(arguments: list[str] | None = None) -> float:
    """Print the table; the ratio of the last tower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="captions of a step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--towers", nargs="*", choices=list(TOWERS), default=list(TOWERS))
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)
    texts, lengths = captions(options.batch)
    used = lengths.sum() / pack(lengths, 77).source.size
    print(f"{options.batch} captions of {lengths.mean():.1f} tokens, the longest of {lengths.max()}")
    print(f"places that hold a token: padded {lengths.mean() / 77:.0%}, packed {used:.0%}")
    print(f"{'forward and backward, captions/s':40}{'open_clip':>12}{'clipline':>12}{'ratio':>8}{'difference':>14}")
    ratio = 0.0
    for name in options.towers:
        torch.manual_seed(0)
        theirs = open_clip.CLIP(512, VISION, TOWERS[name])
        ours = use_fast_blocks(copy.deepcopy(theirs))
        slow, *expected = measure(theirs.encode_text, texts, theirs, options.repeats)
        fast, *found = measure(lambda tokens, model=ours: encode_text(model, tokens), texts, ours, options.repeats)
        off = max(apart([found[0]], [expected[0]]), apart(found[1], expected[1]))
        if off > 1e-5:
            raise SystemExit(f"features or gradients are {off:.1e} apart")
        ratio = slow / fast
        print(f"{name:40}{options.batch / slow:12.0f}{options.batch / fast:12.0f}{ratio:8.2f}{off:14.1e}")
    return ratio


if __name__ == "__main__":
    main()
