"""Learning: captions of scenes with exact truth, written by CoCa and from a frozen CLIP's features, and their speed.

    python -m tests.benchmarks.captions [--seeds 0 1 2] [--objective coca|clipcap] [--speed]

The demo's scenes with captions that name six attributes each become shards, and their words a vocabulary. A small CoCa
is trained on them, or a dual encoder and then, on its frozen features, a language model behind a prefix (ClipCap's
way). Captions of new scenes are read by the grammar that made the others: a caption that is none of its forms says
nothing. The bar is colour, shape and position all right in 90%. Beside it stands how often captions of other scenes are
right by chance.

``--speed`` compares the writing with open_clip's own ``generate`` of the same weights (needs transformers below 4.57):
are the tokens equal, and how many times as fast is ours?
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluation.intervals import wilson
from infra.captioning.captioner import ModelCaptioner, read_captioner
from infra.captioning.coca import CoCaDecoder
from infra.captioning.config import Beam, Decoding, Greedy
from infra.captioning.prefix import FOLDER
from infra.encoder.open_clip import load_encoder
from infra.store import LocalStore
from tests.benchmarks.trainers import trained, write_shards
from training.merges import learn_merges
from workflows.demo import drawing
from workflows.demo.reading import read
from workflows.demo.scenes import Scene, compose, full_captions
from workflows.demo.website import TEST_SEEDS

SIDE = 48
CONTEXT = 32
VISION = {"image_size": SIDE, "patch_size": 16, "width": 96, "layers": 3, "head_width": 24}
RESNET = {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16}
PLACED = {**VISION, "patch_size": 8, "pos_embed_type": "sin_cos_2d"}
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 2}
CLIP = {"embed_dim": 96, "vision_cfg": VISION, "text_cfg": TEXT}
COCA = {
    "custom_text": True,
    "embed_dim": 96,
    "vision_cfg": {**PLACED, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 2},
}  # fmt: skip
ASKED = ("colour", "shape", "position")


def write(folder: Path, scenes: Sequence[Scene]) -> None:
    """Shards of scenes with all their full captions, a line each."""
    write_shards(
        folder, len(scenes), lambda n: (drawing.render(scenes[n], SIDE), "\n".join(full_captions(scenes[n]))), "jpeg"
    )


def coca(work: Path, shards: Path, seed: int, samples: int, merges: Sequence[str]) -> Path:
    """A CoCa trained on the shards."""
    model = {"architecture": COCA, "merges": merges}
    return trained(_settings(model, seed, samples, {"kind": "coca"}, batch=16), shards, work / f"coca{seed}")


def clip(
    work: Path,
    shards: Path,
    seed: int,
    samples: int,
    vision: Mapping[str, Any] = VISION,
    merges: Sequence[str] | None = None,
) -> Path:
    """A dual encoder trained on the shards."""
    model = {"architecture": {**CLIP, "vision_cfg": {**vision}}, "merges": merges}
    settings = _settings(model, seed, samples, {"kind": "infonce"})
    if vision is RESNET:
        settings |= {"batch_size": 64, "optimizer": {"lr": 3e-3, "text_lr": 3e-4, "grad_clip": 1.0}}
    return trained(settings, shards, work / f"clip{seed}")


def clipcap(work: Path, shards: Path, seed: int, samples: int, merges: Sequence[str]) -> Path:
    """A dual encoder trained on the shards, and behind its features a language model."""
    start = clip(work, shards, seed, samples, RESNET, merges)
    writer = {"kind": "clipcap", "prefix": 4, "width": 96, "layers": 2, "heads": 4}
    model = {"architecture": f"local-dir:{start}"}
    return trained(_settings(model, seed, samples, writer, batch=16), shards, work / f"clipcap{seed}", start)


def _settings(
    model: dict[str, Any], seed: int, samples: int, objective: dict[str, Any], batch: int = 32
) -> dict[str, Any]:
    return {
        "model": model, "data": {"caption_key": "txt:lines"}, "seed": seed, "batch_size": batch,
        "samples": samples, "log_every": 3200, "augment": {"crop_scale": [1.0, 1.0]},
        "optimizer": {"lr": 1e-3}, "schedule": {"warmup": samples // 20}, "objective": objective,
    }  # fmt: skip


def right(captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, NDArray[np.bool_]]:
    """Masks of captions whose colour, shape and position are right, of those with all three, of those that are read."""
    said = [read(caption) or {} for caption in captions]
    found = {
        name: np.array([one.get(name) == getattr(scene, name) for one, scene in zip(said, scenes, strict=True)])
        for name in ASKED
    }
    return {
        **found,
        "all three": np.logical_and.reduce([*found.values()]),
        "a form of ours": np.array([*map(bool, said)]),
    }


def opened(model: Path) -> ModelCaptioner:
    """The writer of a folder."""
    return read_captioner(load_encoder(model), LocalStore(model), FOLDER)


def compare_speed(images_at_once: int = 8, context: int = 32) -> None:
    """Write captions of noise with a random CoCa of ViT-S's size by open_clip's ``generate`` and by ours."""
    model = _random_coca(context)
    noise = torch.randn(images_at_once, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ends = (49406, 49407)
    ways: dict[str, tuple[dict[str, Any], Decoding]] = {
        "greedy": ({"generation_type": "top_k", "top_k": 1}, Greedy(longest=context)),
        "beam 5": ({"num_beams": 5, "num_beam_groups": 1}, Beam(beams=5, longest=context)),
    }
    limits = {"seq_len": context, "max_seq_len": context, "min_seq_len": 0, "pad_token_id": 0}
    for name, (options, decoding) in ways.items():
        with torch.inference_mode():
            begin = time.perf_counter()
            theirs = model.generate(noise, **limits, **options)
            between = time.perf_counter()
            ours = decoding.search(CoCaDecoder(model, noise, ends, range(images_at_once)))
            seconds = time.perf_counter() - between
        equal = sum(_before(mine, ends[1]) == _before(other, ends[1]) for mine, other in zip(ours, theirs, strict=True))
        rate, peer = images_at_once / seconds, images_at_once / (between - begin)
        print(f"{name}: {rate:.1f} captions/s, open_clip {peer:.1f}: {rate / peer:.1f} x, {equal} of {len(ours)} equal")


def _before(row: torch.Tensor, end: int) -> list[int]:
    tokens: list[int] = row.tolist()
    return tokens[1 : tokens.index(end)] if end in tokens else tokens[1:-1]


def _random_coca(context: int) -> Any:
    """A random CoCa whose logits are log-probabilities without padding, which open_clip's beam search needs."""
    text = {"context_length": context, "vocab_size": 49408, "width": 384, "heads": 6, "layers": 6}
    vision = {
        "image_size": 64, "patch_size": 8, "width": 384, "layers": 6, "output_tokens": True,
        "attentional_pool": True, "attn_pooler_queries": 64, "attn_pooler_heads": 6,
    }  # fmt: skip

    class Normalised(open_clip.CoCa):  # type: ignore[misc]
        def forward(self, *arguments: Any, **options: Any) -> Any:
            out = super().forward(*arguments, **options)
            if "logits" in out:
                out["logits"][..., 0] = -1e9
                out["logits"] = out["logits"].log_softmax(-1)
            return out

    torch.manual_seed(0)
    model = Normalised(384, text, {**text, "embed_cls": True, "output_tokens": True}, vision).eval()
    torch.nn.init.normal_(model.text_decoder.text_projection, std=0.2)
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--objective", choices=("coca", "clipcap"), default="coca")
    parser.add_argument("--scenes", type=int, default=40_000, help="to learn from")
    parser.add_argument("--samples", type=int, default=200_000, help="seen in training, of each model")
    parser.add_argument("--tested", type=int, default=400)
    parser.add_argument("--speed", action="store_true", help="against open_clip's generate; trains nothing")
    args = parser.parse_args(arguments)
    if args.speed:
        return compare_speed()
    scenes = [compose(8 * TEST_SEEDS + number) for number in range(args.tested)]
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        shown = [compose(number) for number in range(args.scenes)]
        write(work / "shards", shown)
        merges = learn_merges(chain.from_iterable(map(full_captions, shown)), 1000)
        for seed in args.seeds:
            train = {"coca": coca, "clipcap": clipcap}[args.objective]
            model = train(work, work / "shards", seed, args.samples, merges)
            pictures = [Image.fromarray(drawing.render(scene, SIDE)) for scene in scenes]
            captions = opened(model).write(pictures, Greedy())
            found, turned = right(captions, scenes), right(captions, scenes[1:] + scenes[:1])
            for name, mask in found.items():
                low, high = wilson(share := float(mask.mean()), len(mask))
                by_chance = turned[name].mean()
                print(f"seed {seed}: {name} {share:.3f} [{low:.3f}, {high:.3f}], of another {by_chance:.3f}")
    return None


if __name__ == "__main__":
    main()
