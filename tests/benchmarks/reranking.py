"""Does matching help? ALBEF's retrieval by its two encoders, and re-ranked by its fusion encoder.

    python -m tests.benchmarks.reranking [--seeds 0 1 2]

Scenes of the demo, each with a caption that names all six attributes; no two of the tested ones share all six. ALBEF
learns from other scenes of the same kinds. The fusion encoder ranks the first ``--rerank`` answers of every query anew,
as ``Retrieval(rerank=...)`` does. Recall@1 of both directions; the gain is paired by image and by model, since one
model ranks both times. Its interval has the noise of the models' gains and that of the images.

Of each model stands beside it what ``Matching`` measures: pairs told from the likeliest wrong ones, and masked words,
also of captions beside another image.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from evaluation.compare.differences import Estimate, difference
from evaluation.embedded import Embedded
from evaluation.reranking import reranked
from evaluation.tasks import Matching
from infra import ranking
from infra.measures import Metric
from tests.benchmarks.answers import SIDE, load_fused, settings, train
from tests.benchmarks.trainers import write_shards
from workflows.demo import drawing
from workflows.demo.scenes import Scene, compose, full_captions
from workflows.demo.testset import distinct

LEARN, TEST = 7_000_000, 3_000_000  # first seeds
OBJECTIVE = {"kind": "albef", "fusion_layers": 2, "queue_size": 1024, "alpha_warmup": 20_000, "negatives_among": 32}
MEASURES = ("image_retrieval_recall@1", "text_retrieval_recall@1", "mean_recall@1")


def write(folder: Path, scenes: Sequence[Scene]) -> None:
    """Shards of scenes, each with one of its captions."""
    write_shards(folder, len(scenes), lambda n: (drawing.render(scenes[n], SIDE), full_captions(scenes[n])[n % 5]))


class Pictures(list[Any]):
    """Samples of a set with captions."""

    retrieval = True


def measured(
    model: Path, scenes: Sequence[Scene], most: int
) -> tuple[dict[str, Metric], dict[str, Metric], Mapping[str, Metric]]:
    """Recall@1 by the encoders, and re-ranked; and the metrics of ``Matching``."""
    reader = load_fused(model)
    pictures = [Image.fromarray(drawing.render(scene, SIDE)) for scene in scenes]
    captions = [full_captions(scene)[scene.seed % 5] for scene in scenes]
    own = np.arange(len(scenes))
    fields: dict[str, Any] = {
        "examples": Pictures(SimpleNamespace(image=picture) for picture in pictures),
        "keys": [str(number) for number in own],
        "image_vectors": reader.encoder.encode_images(pictures), "texts": reader.encoder.encode_texts(captions),
        "captions": captions, "text_of": own, "image_of": own, "labels": own, "metadata": [], "logit_scale": 1.0,
        "source": None, "encoder": lambda: reader.encoder, "matcher": lambda: reader,
    }  # fmt: skip
    data = Embedded(**fields)
    retrieved = ranking.retrieve(data.images, data.texts, data.text_of, data.image_of)
    matching = Matching(dataset="scenes").evaluate(data).metrics
    return retrieved.metrics((1,)), reranked(data, retrieved, most).metrics((1,)), matching


def estimate(metrics: Sequence[Metric]) -> Estimate:
    """A metric by seed, on all images and on resamples of them, the same for every model."""
    count = metrics[0].images
    counts = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=2000).astype(float)
    return Estimate(np.array([one.value for one in metrics]), np.stack([one.resampled(counts) for one in metrics]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=20_000, help="to learn from")
    parser.add_argument("--tested", type=int, default=500)
    parser.add_argument("--samples", type=int, default=32_000, help="seen in training")
    parser.add_argument("--rerank", type=int, default=16)
    args = parser.parse_args(arguments)
    tested = distinct(args.tested, TEST)
    found: list[tuple[dict[str, Metric], dict[str, Metric], Mapping[str, Metric]]] = []
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        write(work / "shards", [compose(LEARN + number) for number in range(args.scenes)])
        for seed in args.seeds:
            model = train(work / f"albef{seed}", work / "shards", settings(seed, OBJECTIVE, args.samples), context=32)
            found.append(measured(model, tested, args.rerank))
            print(
                f"seed {seed}:",
                *(f"{name} {found[-1][0][name].value:.3f} -> {found[-1][1][name].value:.3f}" for name in MEASURES),
                *(f"{name} {metric.value:.3f}" for name, metric in found[-1][2].items()),
                flush=True,
            )
    for name in MEASURES:
        before, after = (estimate([one[side][name] for one in found]) for side in (0, 1))
        gain = difference(before, after, confidence=0.95, seed=0, same_models=True)
        print(f"{name}: {before.mean:.3f} -> {after.mean:.3f}, {gain}")


if __name__ == "__main__":
    main()
