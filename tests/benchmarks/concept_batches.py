"""Do concept-aware batches help? The same training with batches of chance, ``spread`` and ``diverse``.

    python -m tests.benchmarks.concept_batches [--seeds 3]

Scenes of the demo, 32 px, with the 36 pairs of shape and colour as often as words are (by rank, Zipf); the concepts of
a sample are its shape, its colour and both together. Every training sees equally many samples. Zero-shot accuracy of
scenes with all pairs equally often; differences are paired by scene, their intervals have the seeds' noise and the
scenes'.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np

from evaluation.compare.differences import difference
from infra.formats.shards import TarWriter
from tests.benchmarks.digits import MODEL, classified
from tests.benchmarks.masked_pretraining import estimate, train
from workflows.demo.drawing import render
from workflows.demo.scenes import COMBINATIONS, Scene, captions, compose, name

SIDE, TRAINING, OF_A_CLASS = 32, 6000, 20
SMALL = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "image_size": SIDE, "patch_size": 8}}
VARIANTS = {"chance": None, "spread": {"kind": "spread"}, "diverse": {"kind": "diverse"}}


def write(folder: Path) -> None:
    """Shards and the test set below ``folder``."""
    rng = np.random.default_rng(0)
    ranked = [COMBINATIONS[place] for place in rng.permutation(len(COMBINATIONS))]
    often = 1 / np.arange(1, len(ranked) + 1)
    drawn = rng.choice(len(ranked), TRAINING, p=often / often.sum())
    (folder / "shards").mkdir()
    sink = io.BytesIO()
    with TarWriter(sink) as tar:
        for number, place in enumerate(drawn.tolist()):
            scene = compose(number, (ranked[place],))
            concepts = [scene.shape, scene.colour, name(scene.shape, scene.colour)]
            tar.add(f"{number:05d}.png", png(scene))
            tar.add(f"{number:05d}.txt", captions(scene)[int(rng.integers(12))].encode())
            tar.add(f"{number:05d}.json", json.dumps({"concepts": concepts}).encode())
    (folder / "shards/00000.tar").write_bytes(sink.getvalue())

    test = folder / "tests/digits"  # the name by which classified() finds it
    (test / "test").mkdir(parents=True)
    sink = io.BytesIO()
    with TarWriter(sink) as tar:
        for label, pair in enumerate(COMBINATIONS):
            for number in range(label * OF_A_CLASS, (label + 1) * OF_A_CLASS):
                tar.add(f"{number:05d}.png", png(compose(TRAINING + number, (pair,))))
                tar.add(f"{number:05d}.cls", str(label).encode())
    (test / "test/0.tar").write_bytes(sink.getvalue())
    (test / "test/nshards.txt").write_text("1")
    (test / "classnames.txt").write_text("\n".join(name(*pair) for pair in COMBINATIONS))
    (test / "zeroshot_classification_templates.txt").write_text("a picture of a {c}\na {c} on a grey background")


def png(scene: Scene) -> bytes:
    return cv2.imencode(".png", render(scene, SIDE)[:, :, ::-1])[1].tobytes()


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print the table; return the differences from batches of chance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=24_000, help="seen by each training")
    args = parser.parse_args(arguments)
    found: dict[str, list[np.ndarray]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        write(work)
        for seed in range(args.seeds):
            for variant, rule in VARIANTS.items():
                data = {} if rule is None else {"data": {"batches": {**rule, "column": "concepts"}}}
                model = train(work, variant, args.samples, seed, None, model=SMALL, **data)
                answers = classified(model, work / "tests")
                found[variant].append((answers.predicted == answers.labels).astype(np.float64))
                print(f"{variant:8} seed {seed}: acc1 {found[variant][-1].mean():.3f}", flush=True)
    chance, *others = (estimate(answers) for answers in found.values())
    gaps = {}
    for variant, one in zip(list(VARIANTS)[1:], others, strict=True):
        gap = difference(chance, one, confidence=0.95, seed=0)
        gaps[variant] = gap.value
        print(f"{variant}: {one.mean:.3f}, of chance {chance.mean:.3f}; difference {gap}")
    return gaps


if __name__ == "__main__":
    main()
