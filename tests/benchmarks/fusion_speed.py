"""Speed: a forward pass of an image with its text, by ViLT, ALBEF and a dual encoder of one width.

    python -m tests.benchmarks.fusion_speed [--width 384] [--layers 12]

ViLT's argument (Kim et al. 2021, table 1 and figure 1) is that of UNITER's 900 ms the transformer takes some 15 and a
detector that finds regions nearly all the rest; ViLT has none and takes 15 ms. So beside the three stands the same
transformer on 36 regions of 2,048 numbers as given input: what remains where somebody else has run the detector. All
are random models of equal width on the CPU; each figure is the best of several passes, which take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import open_clip
import torch

from infra.fusion.heads import Heads
from infra.fusion.network import Fusion, Layout
from infra.fusion.single_stream import SingleStream
from infra.fusion.towers import encode_images, encode_texts, lengths_of, token_widths

SIDE, PATCH, CONTEXT, WORDS = 224, 32, 32, 12
REGIONS, REGION = 36, 2048


def passes(width: int, layers: int, batch: int) -> dict[str, Callable[[], Any]]:
    """A forward pass of ``batch`` images with a text each, by name."""
    torch.manual_seed(0)
    vision = {"image_size": SIDE, "patch_size": PATCH, "width": width, "layers": layers, "head_width": 64}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": width, "heads": width // 64}
    # As in the paper ALBEF's text tower has half the layers, and the fusion encoder the other half.
    model, half = (open_clip.CLIP(width, vision, {**text, "layers": deep}).eval() for deep in (layers, layers // 2))
    images = torch.randn(batch, 3, SIDE, SIDE)
    texts = torch.zeros(batch, CONTEXT, dtype=torch.int64)
    texts[:, :WORDS] = torch.randint(1, 49000, (batch, WORDS))
    texts[:, 0], texts[:, WORDS - 1] = 49406, 49407
    lengths = lengths_of(texts)
    layout, own = Layout(lengths, images.device), torch.arange(batch)
    vilt = SingleStream(model, Heads(matching=True)).eval()
    albef = Fusion(token_widths(half), layers - layers // 2, Heads(matching=True)).eval()
    regions, entry = torch.randn(batch, REGIONS, REGION), torch.nn.Linear(REGION, width)

    def dual() -> Any:
        return encode_images(model, images)[0] @ encode_texts(model, texts, lengths)[0].T

    def by_vilt(seen: Callable[[], torch.Tensor]) -> Any:
        fused = vilt.fuse(model, vilt.read_texts(model, texts, lengths), layout, seen(), own)
        return vilt.match(fused, layout.ends)

    def by_albef() -> Any:
        words = encode_texts(half, texts, lengths)[1]
        return albef.match(albef.fuse(half, words, layout, encode_images(half, images)[1], own), layout.ends)

    return {
        "dual encoder": dual,
        "ALBEF": by_albef,
        "ViLT": lambda: by_vilt(lambda: vilt.read_images(model, images)),
        "regions given": lambda: by_vilt(lambda: entry(regions) + vilt.kinds[1]),
    }


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    every = passes(args.width, args.layers, args.batch)
    best = dict.fromkeys(every, float("inf"))
    for _ in range(args.repeats):
        for name, forward in every.items():
            begin = time.perf_counter()
            forward()
            best[name] = min(best[name], time.perf_counter() - begin)
    for name, seconds in best.items():
        each = 1000 * seconds / args.batch
        print(f"{name:14} {each:7.1f} ms a pair, {seconds / best['dual encoder']:.2f} x the dual encoder")


if __name__ == "__main__":
    main()
