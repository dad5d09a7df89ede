"""Learning: the objectives of two encoders on the same scenes, asked by every task that such a model can be asked.

    python -m tests.benchmarks.objectives [infonce siglip ...] [--seeds 0 1 2]

A small model learns captions of the demo's scenes, of two shapes that need composing, questions with their answers, and
answers with their reasons, once with each objective and for as many samples. ``distill`` has the model of ``infonce``
as its teacher. Then ``clipline run`` of this file, a recipe as well, asks it each task on the demo's test sets,
none of whose images any training shows.

Each figure stands before what who knows nothing gets, in brackets: guessing, the image without the word, or the right
words beside another image.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.tasks import (
    Analogies,
    FewShot,
    ImageCaptionSelection,
    LinearProbe,
    MultipleChoice,
    NearestNeighbours,
    Retrieval,
    Task,
    ZeroShot,
)
from infra.run.context import Context
from infra.run.manifest import Manifest
from pipelines import adopt
from tests.benchmarks.trainers import trained, write_shards
from workflows.demo import drawing, testset
from workflows.demo.compositions import CATEGORIES, pair
from workflows.demo.questions import QUESTIONS, ask
from workflows.demo.reasons import reason
from workflows.demo.scenes import captions, compose, full_captions
from workflows.recipes._common import scored, with_inputs
from workflows.stage import Stage, Workflow

SIDE = 48
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 2}
MODEL = {"embed_dim": 64, "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16}, "text_cfg": TEXT}
"""A ViT of this size tells no shapes after as many samples."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    "infonce": {"kind": "infonce"},
    "siglip": {"kind": "siglip"},
    "vsepp": {"kind": "vsepp", "warmup": 50_000},  # on the hardest negative from the start the towers collapse
    "distill": {"kind": "distill"},
}
LEARN = 11_000_000  # the first seed; test sets take theirs from 1,000,000 to 10,000,000
TASKS: dict[str, Task] = {
    "zeroshot": ZeroShot(dataset="seen"),
    "zeroshot_unseen": ZeroShot(dataset="unseen"),
    "retrieval": Retrieval(dataset="captions"),
    "linear_probe": LinearProbe(dataset="seen"),
    "few_shot": FewShot(dataset="seen", shots=4),
    "knn": NearestNeighbours(dataset="seen"),
    "compositions": ImageCaptionSelection(dataset="compositions"),
    "choices": ImageCaptionSelection(dataset="choices"),
    "analogies": Analogies(dataset="analogies"),
    "reasons": MultipleChoice(dataset="reasons"),
}


def workflow(
    model: str,  # folder of a model
    tests: str,  # folder of the demo's test sets
) -> Workflow:
    """Every task for a model."""
    sets = tuple(dict.fromkeys(task.dataset for task in TASKS.values()))
    splits = tuple(dict.fromkeys(split for task in TASKS.values() for split in task.splits()))
    given = {
        "dataset": Stage(
            "tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets(sets=sets, splits=splits))
        ),
        "model": Stage("model", adopt.run, adopt.Config(path=model, contents=adopt.Model())),
    }
    return Workflow("objectives", with_inputs(*given.values(), *scored(TASKS, given)))


Shown = tuple[NDArray[np.uint8], list[str]]


def learnt(scenes: int, pairs: int, groups: int) -> list[Shown]:
    """What there is to learn from: images, each with its captions.

    ``scenes`` of one shape, ``pairs`` of images of each category of compositions, and ``groups`` of images of each kind
    of question, as many of which have reasons.
    """
    alone = [compose(LEARN + number) for number in range(scenes)]
    composed = [one for number in range(pairs) for name in CATEGORIES for one in pair(name, LEARN + number)]
    asked = [one for number in range(groups) for kind in QUESTIONS for one in ask(kind, LEARN + number)]
    reasoned = [one for number in range(groups) for one in reason(LEARN + number)]
    return [
        *((drawing.render(one, SIDE), captions(one) + full_captions(one)) for one in alone),
        *((drawing.render_composition(one, SIDE), [one.caption]) for one in composed),
        *((drawing.render_composition(one.image, SIDE), [f"{one.image.caption} {one.answer}"]) for one in asked),
        *((drawing.render_composition(one.image, SIDE), [one.answers[0], one.reasons[0]]) for one in reasoned),
    ]


class Objectives:
    """Trainings in a folder: one for each objective and seed, on the same shards."""

    def __init__(self, work: Path, samples: int) -> None:
        self.work, self.samples, self.shards = work, samples, work / "shards"

    def train(self, name: str, seed: int) -> Path:
        """The model that a training leaves."""
        settings = {
            "model": MODEL,
            "data": {"caption_key": "txt:lines"}, "augment": {"crop_scale": [1.0, 1.0]},
            "seed": seed, "samples": self.samples, "batch_size": 64, "log_every": 3200,
            "optimizer": {"lr": 3e-3, "text_lr": 3e-4, "grad_clip": 1.0},
            "schedule": {"warmup": self.samples // 10}, "objective": OBJECTIVES[name],
        }  # fmt: skip
        teacher = self.train("infonce", seed) if name == "distill" else None
        return trained(settings, self.shards, self.work / f"{name}{seed}", teacher=teacher)


def evaluated(model: Path, tests: Path, root: Path) -> dict[str, dict[str, float]]:
    """The metrics of every task, by clipline's own command."""
    shutil.rmtree(root, ignore_errors=True)  # of another model, where the work's folder is kept
    given = ["--set", f"model={model}", "--set", f"tests={tests}"]
    command = [sys.executable, "-m", "workflows.cli", "run", __file__, "--root", str(root), *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout)
    manifests = [Manifest.from_bytes(path.read_bytes()) for path in root.glob("artifacts/*/*/manifest.json")]
    return {one.stage: one.metrics for one in manifests if one.metrics}


FIGURES: dict[str, tuple[str, str, float | str]] = {
    "zero-shot, pairs of colour and shape it was shown": ("zeroshot", "acc1", 1 / 30),
    "zero-shot, pairs it was never shown": ("zeroshot_unseen", "acc1", 1 / 36),
    "retrieval, Recall@1 of both directions": ("retrieval", "mean_recall_at_1", 1 / 200),
    "linear probe": ("linear_probe", "lp_acc1", 1 / 30),
    "four images of each class": ("few_shot", "few_shot_acc1_at_4", 1 / 30),
    "nearest neighbours": ("knn", "knn_acc1", 1 / 30),
    "compositions, Winoground's group score": ("compositions", "acc", 1 / 6),
    "compositions, SugarCrepe's choice": ("choices", "acc", 1 / 2),
    "image analogies, Recall@1": ("analogies", "analogy_recall_at_1", "plain_recall_at_1"),
    "answers and reasons": ("reasons", "acc", "acc_other_image"),
}
"""What is printed: the stage, its metric, and what who knows nothing gets, or the metric that says so."""


def report(found: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """Print a table: the mean of an objective's models, and from which to which they go."""
    print(f"| | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for title, (stage, metric, baseline) in FIGURES.items():
        cells = []
        for models in found.values():
            scores = [one[stage][metric] for one in models]
            nothing = [one[stage][baseline] for one in models] if isinstance(baseline, str) else [baseline]
            spread = f", {min(scores):.2f} to {max(scores):.2f}" if len(scores) > 1 else ""
            cells.append(f"{np.mean(scores):.3f}{spread} ({np.mean(nothing):.3f})")
        print(f"| {title} | {' | '.join(cells)} |")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("objectives", nargs="*", metavar="objective", help=", ".join(OBJECTIVES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=100_000, help="seen in training, by each model")
    parser.add_argument("--work", type=Path, help="folder for models and scores, by default a temporary one")
    args = parser.parse_args(arguments)
    if unknown := set(args.objectives) - set(OBJECTIVES):
        parser.error(f"no objective {', '.join(sorted(unknown))}; there are {', '.join(OBJECTIVES)}")
    found: dict[str, list[dict[str, dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = args.work or Path(scratch)
        work.mkdir(exist_ok=True)
        if not (tests := work / "tests").exists():
            config = testset.Config(image_size=96, seen_to_learn=20, questions=40)
            testset.run(config, {}, Context(str(tests)))
            shown = learnt(scenes=20_000, pairs=2_500, groups=2_000)
            write_shards(work / "shards", len(shown), lambda n: (shown[n][0], "\n".join(shown[n][1])), "jpeg")
        models = Objectives(work, args.samples)
        for name in args.objectives or OBJECTIVES:
            for seed in args.seeds:
                root, model = work / f"root-{name}{seed}", models.train(name, seed)
                found.setdefault(name, []).append(evaluated(model, tests / "data", root))
    report(found)


if __name__ == "__main__":
    main()
