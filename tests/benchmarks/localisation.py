"""Learning: where in an image is the red circle? A dual encoder's patches beside its text, on boxes with exact truth.

    python -m tests.benchmarks.localisation [--seeds 0 1 2]

A small dual encoder learns captions of the demo's scenes, each of one shape; its image is the mean of its patches,
since those of a model that learnt by a class token said little at this size. Then it is asked for either of the two
shapes of an image: is the centre of the patch most like "a red circle" inside the shape's box? Patches pass the last
block by attention, as in training, or by their own value (MaskCLIP). Beside it: the middle of the image, and the same
model asked for all phrases together. The bar is above both, by their own value, with intervals of the paired
differences clear of 0.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from evaluation.tasks import Localisation
from infra.encoder.open_clip import OpenClipEncoder, load_encoder
from infra.formats.testset import EvalSet
from infra.measures import Mean
from infra.run.context import Context
from infra.store import LocalStore
from tests.benchmarks import captions
from workflows.demo import testset as demo
from workflows.demo.scenes import compose

WAYS = ("value", "attention")
VISION = {**captions.VISION, "pool_type": "avg"}


def seen(folder: Path, encoder: OpenClipEncoder) -> Embedded:
    """The test set by a model, with vectors of its texts alone."""
    examples = EvalSet.at(LocalStore(folder), "boxes", "test")
    given = list(examples)
    texts = [caption for sample in given for caption in sample.captions]
    distinct = list(dict.fromkeys(texts))
    return Embedded(
        examples=examples,
        keys=[sample.key for sample in given],
        labels=np.full(len(given), -1),
        image_vectors=np.empty((len(given), 0), np.float32),
        captions=distinct,
        texts=encoder.encode_texts(distinct),
        text_of=np.array([distinct.index(text) for text in texts]),
        image_of=np.repeat(np.arange(len(given)), 2),
        metadata=[sample.metadata for sample in given],
        logit_scale=1.0,
        source=None,  # type: ignore[arg-type]
        encoder=lambda: encoder,
    )


def above(better: NDArray[np.float64], worse: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean of paired differences of images and its 95% interval."""
    draws = np.random.default_rng(0).integers(len(better), size=(2000, len(better)))
    low, high = np.quantile((better - worse)[draws].mean(axis=1), [0.025, 0.975])
    return float((better - worse).mean()), float(low), float(high)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--scenes", type=int, default=12_000, help="to learn from")
    parser.add_argument("--samples", type=int, default=60_000, help="seen in training")
    parser.add_argument("--tested", type=int, default=300, help="images of two shapes")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        demo.run(demo.Config(boxes=args.tested, image_size=96), {}, Context(str(work / "tests")))
        captions.write(work / "shards", [compose(number) for number in range(args.scenes)])
        for seed in args.seeds:
            model = captions.clip(work, work / "shards", seed, args.samples, VISION)
            data = seen(work / "tests/data", load_encoder(model))
            for way in WAYS:
                report(seed, way, data)


def report(seed: int, way: str, data: Embedded) -> None:
    """Print one way's accuracy beside the baselines."""
    found = Localisation(dataset="boxes", patches=way).evaluate(data).metrics
    shares = {metric: np.asarray(one.totals) / 2 for metric, one in found.items() if isinstance(one, Mean)}
    told = ", ".join(f"{metric} {one.value:.3f}" for metric, one in found.items())
    print(f"seed {seed}: by {way}: {told}", flush=True)
    for baseline in ("centre_acc", "blind_acc"):
        mean, low, high = above(shares["pointing_acc"], shares[baseline])
        print(f"  above {baseline}: {100 * mean:.1f} points [{100 * low:.1f}, {100 * high:.1f}]", flush=True)


if __name__ == "__main__":
    main()
