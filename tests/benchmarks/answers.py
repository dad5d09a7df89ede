"""Learning: questions about combinations never seen, by a fusion model and by what cannot compose.

    python -m tests.benchmarks.answers [vqa] [entailment] [pairs] [--objective albef] [--seeds 0 1 2]

The demo's questions, statements, or statements about two images, written as shards. A fusion model starts from the
towers of a dual encoder that saw questions by contrast, as the papers' start from trained towers; it is pretrained on
the questions, learns their answers, and then, if it is asked statements, to judge these: from statements alone it has
learnt nothing in as many samples. Another dual encoder sees as many questions by contrast as the model of the questions
has seen in all, and a linear probe answers from its frozen vectors of image and question and their product.
``vilbert`` reads no pixels but the regions of a made-up detector, whose boxes are exact and whose features are not, and
starts from nothing. All answer the split ``unseen``: two shapes in two colours that training never shows together.

Beside them, exactly, stands the most that any model gets that reads the words alone (``blind``), sees the images alone
(``unread``), or has the words and knows which shapes and colours the image shows, but not which belongs to which
(``bag``). Differences are paired, with 95% intervals that have the noise of groups of images that are asked the same,
and of the seeds. The bar of ``vqa``: 15 points above ``blind``, and above the probe.

Sets that are named together share what their trainings share: the model of the questions is trained once for a seed.
With ``--work`` models stay in a folder, and what an earlier run with the same options has trained is taken from there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.compare.differences import Estimate, difference
from evaluation.tasks.work.vqa import best_constant
from infra.encoder.open_clip import load_encoder
from infra.formats.regions import read_regions
from infra.fusion.config import FOLDER
from infra.fusion.encoder import FusionEncoder, read_fusion
from infra.store import LocalStore
from tests.benchmarks.trainers import trained, write_shards
from workflows.demo import drawing, regions
from workflows.demo.compositions import Composition
from workflows.demo.pairs import KINDS, Compared, compare
from workflows.demo.questions import QUESTIONS, STATEMENTS, ask
from workflows.demo.scenes import COMBINATIONS

SIDE = 48
MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIDE, "patch_size": 16, "width": 96, "layers": 3, "head_width": 24},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 2},
}
LEARN, TEST = 7_000_000, 6_000_000  # first seeds: no group is in two splits
SETS = {"vqa": tuple(QUESTIONS), "entailment": tuple(STATEMENTS), "pairs": tuple(KINDS)}
GROUPS = {"vqa": 3_000, "entailment": 16_000, "pairs": 10_000}
SAMPLES = {"entailment": 128_000, "pairs": 224_000}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "vilt": {"kind": "vilt"},
    "albef": {"kind": "albef", "fusion_layers": 2, "queue_size": 1024, "alpha_warmup": 20_000},
    "vilbert": {
        "kind": "vilbert",
        "layers": 2,
        "most_regions": 8,
        "features": regions.FEATURES,
        "classes": len(COMBINATIONS),
    },
}


@dataclass(frozen=True)
class Asked:
    """An image, (side, side, 3) or two of them side by side, what is asked of it and the right answer."""

    scene: Composition | Compared
    pixels: NDArray[np.uint8]
    question: str
    answer: str
    kind: str
    group: str  # of images that are asked the same
    shows: str  # its shapes and colours, without which belongs to which


def asked(kinds: Sequence[str], split: str, groups: int) -> list[Asked]:
    """The questions of a split, the kinds in turn, those of a group together."""
    first = LEARN if split == "train" else TEST
    return [
        one
        for number in range(first, first + groups)
        for kind in kinds
        for one in (_of_pairs if kind in KINDS else _of_images)(kind, number, split == "unseen")
    ]


def _of_images(kind: str, seed: int, unseen: bool) -> list[Asked]:
    return [
        Asked(
            one.image,
            drawing.render_composition(one.image, SIDE),
            one.image.caption,
            one.answer,
            kind,
            f"{kind} {seed}",
            _shown(one.image.items),
        )
        for one in ask(kind, seed, unseen=unseen)
    ]


def _of_pairs(kind: str, seed: int, unseen: bool) -> list[Asked]:
    found = []
    for one in compare(kind, seed, unseen=unseen):
        pixels = drawing.render_side_by_side((one.left, one.right), SIDE)
        shows = _shown(one.left.items + one.right.items)
        for statement, answer in zip(one.statements, one.answers, strict=True):
            found.append(Asked(one, pixels, statement, answer, kind, f"{kind} {seed}", shows))
    return found


def _shown(items: Sequence[Any]) -> str:
    return " ".join(sorted({item.shape for item in items} | {item.colour for item in items}))


def write(folder: Path, learnt: Sequence[Asked]) -> None:
    """Shards of images and their regions, each with its question and the answer behind it."""
    write_shards(
        folder,
        len(learnt),
        lambda n: (learnt[n].pixels, f"{learnt[n].question} {learnt[n].answer}"),
        members=lambda n: regions.members(learnt[n].scene),
    )


def train(
    folder: Path, shards: Path, settings: dict[str, Any], pretrained: Path | None = None, context: int = 16
) -> Path:
    """The model that a training leaves; it reads ``context`` tokens of a text."""
    model = MODEL | {"text_cfg": {**MODEL["text_cfg"], "context_length": context}}
    return trained({"model": model, **settings}, shards, folder, pretrained)


def load_fused(model: Path) -> FusionEncoder:
    """The fusion model of a folder."""
    encoder = load_encoder(model)
    return FusionEncoder(encoder, *read_fusion(encoder.model, LocalStore(model), FOLDER))


def fused(model: Path, told: Sequence[Asked]) -> NDArray[np.bool_]:
    """Which questions the fusion model of a folder answers right."""
    reader = load_fused(model)
    seen = [
        Image.fromarray(one.pixels) if reader.regions is None else read_regions(regions.members(one.scene))
        for one in told
    ]
    given = reader.answer(seen, [[one.question] for one in told]).argmax(axis=1)
    return np.array([reader.answers[number] == one.answer for number, one in zip(given, told, strict=True)])


def ranked(model: Path, told: Sequence[Asked], answers: Sequence[str]) -> NDArray[np.bool_]:
    """Which questions the language head of a pretrained fusion model answers right, as it ranks the ``answers``."""
    scores = load_fused(model).rank_answers(
        [Image.fromarray(one.pixels) for one in told], [[one.question] for one in told], answers
    )
    return np.array([answers[best] == one.answer for best, one in zip(scores.argmax(axis=1), told, strict=True)])


def probed(model: Path, learnt: Sequence[Asked], told: Sequence[Asked]) -> NDArray[np.bool_]:
    """Which questions a linear probe answers right that is fitted on the dual encoder's vectors of ``learnt``."""
    from sklearn.linear_model import LogisticRegression

    encoder = load_encoder(model)

    def seen(rows: Sequence[Asked]) -> NDArray[np.float32]:
        text = encoder.encode_texts([one.question for one in rows])
        vectors = [text]
        for side in range(rows[0].pixels.shape[1] // SIDE):
            part = [Image.fromarray(one.pixels[:, side * SIDE : (side + 1) * SIDE]) for one in rows]
            image = encoder.encode_images(part)
            vectors += [image, image * text * np.sqrt(image.shape[1])]
        return np.concatenate(vectors, axis=1)

    probe = LogisticRegression(C=100, max_iter=1000).fit(seen(learnt), [one.answer for one in learnt])
    return np.array(probe.predict(seen(told)) == [one.answer for one in told])


def baselines(told: Sequence[Asked]) -> dict[str, NDArray[np.bool_]]:
    """What is right of the most that any model without the images, the words or the bindings has."""
    answers = [one.answer for one in told]
    found = {
        "blind": best_constant([one.question for one in told], answers),
        "bag": best_constant([f"{one.question} {one.shows}" for one in told], answers),
    }
    images_asked = [one.pixels.tobytes().hex() for one in told]
    if len(set(images_asked)) < len(told):
        found["unread"] = best_constant(images_asked, answers)
    return found


def estimate(right: Sequence[NDArray[np.bool_]], told: Sequence[Asked]) -> Estimate:
    """The share of right answers by seed, on resamples of the groups of images that are asked the same."""
    _, group = np.unique([one.group for one in told], return_inverse=True)
    sums, sizes = np.stack([np.bincount(group, weights=one) for one in right]), np.bincount(group)
    chosen = np.random.default_rng(0).integers(len(sizes), size=(2000, len(sizes)))
    resampled = sums[:, chosen].sum(axis=2) / sizes[chosen].sum(axis=1)
    return Estimate(np.mean(right, axis=1), resampled, len(told))


def report(name: str, found: dict[str, list[NDArray[np.bool_]]], told: Sequence[Asked]) -> None:
    """Print each model's share of right answers, by kind, and what the fusion model is above."""
    kinds = np.array([one.kind for one in told])
    for model, right in found.items():
        mean = np.mean(right, axis=0)
        by_kind = ", ".join(f"{kind} {mean[kinds == kind].mean():.2f}" for kind in dict.fromkeys(kinds.tolist()))
        print(f"{name}: {model} {mean.mean():.3f} ({by_kind})")
    fusion = estimate(found["fusion"], told)
    for model in [model for model in found if model != "fusion"]:
        above = difference(estimate(found[model], told), fusion, confidence=0.95, seed=0)
        print(f"{name}: above {model} {100 * above.value:.1f} points [{100 * above.low:.1f}, {100 * above.high:.1f}]")
    sys.stdout.flush()


def settings(seed: int, objective: dict[str, Any], samples: int, lr: float = 1e-3) -> dict[str, Any]:
    """A run's configuration, without augmentation: where things are and which colour they have is asked."""
    return {
        "seed": seed, "batch_size": 64, "log_every": 3200, "augment": {"crop_scale": [1.0, 1.0]},
        "optimizer": {"lr": lr}, "schedule": {"warmup": samples // 20}, "objective": objective, "samples": samples,
    }  # fmt: skip


def answering(learnt: Sequence[Asked], images: int = 1) -> dict[str, Any]:
    """The objective of learning to answer."""
    return {"kind": "vqa", "answers": sorted({one.answer for one in learnt}), "images": images}


class Answers:
    """Trainings of the models that answer, in a folder; sets are written when they are first asked for."""

    def __init__(self, work: Path, args: argparse.Namespace) -> None:
        self.work, self.args = work, args
        self._learnt: dict[str, list[Asked]] = {}

    def learnt(self, name: str) -> list[Asked]:
        """What a set has to learn from."""
        args = self.args
        if name not in self._learnt:
            self._learnt[name] = asked(args.kinds or SETS[name], "train", args.groups or GROUPS[name])
        return self._learnt[name]

    def told(self, name: str) -> list[Asked]:
        """What is asked of unseen combinations."""
        return asked(self.args.kinds or SETS[name], "unseen", self.args.tested)

    def shards(self, name: str) -> Path:
        """The folder of a set's shards."""
        folder = self.work / f"shards-{name}"
        if not folder.exists():
            shutil.rmtree(partial := self.work / f"{folder.name}.partial", ignore_errors=True)
            write(partial, self.learnt(name))
            partial.rename(folder)
        return folder

    def fusion(self, name: str, seed: int) -> Path:
        """A fusion model that has learnt the answers of a set; those of statements it learns after the questions."""
        args, learnt, shards = self.args, self.learnt(name), self.shards(name)
        if name == "vqa":
            model = self.pretrained(seed)
            last = settings(seed, answering(learnt), args.questions, args.lr)
        else:
            model = self.fusion("vqa", seed)
            samples = args.samples or SAMPLES[name]
            last = settings(seed, answering(learnt, 1 + (name == "pairs")), samples, args.lr)
        return train(self.work / f"{args.objective}-{name}{seed}", shards, last, model)

    def pretrained(self, seed: int) -> Path:
        """The fusion model before it learns answers."""
        first = settings(seed, OBJECTIVES[self.args.objective], self.args.pretrain)
        towers = self.dual(seed, contrast) if (contrast := self.contrast()) else None
        return train(self.work / f"{self.args.objective}{seed}", self.shards("vqa"), first, towers)

    def contrast(self) -> int:
        """Samples of the dual encoder that the fusion model starts from; one that reads no pixels starts from none."""
        return 0 if self.args.objective == "vilbert" else int(self.args.contrast)

    def dual(self, seed: int, samples: int) -> Path:
        """A dual encoder that has seen so many samples of the questions."""
        contrastive = settings(seed, {"kind": "infonce"}, samples)
        return train(self.work / f"dual{seed}-{samples}", self.shards("vqa"), contrastive)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", choices=tuple(SETS), metavar="set", help=", ".join(SETS))
    parser.add_argument("--objective", choices=tuple(OBJECTIVES), default="albef")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=tuple(kind for kinds in SETS.values() for kind in kinds))
    parser.add_argument("--groups", type=int, help="of each kind, to learn from; by default GROUPS")
    parser.add_argument("--tested", type=int, default=150, help="groups of each kind")
    parser.add_argument("--contrast", type=int, default=224_000, help="samples of the towers, before they are fused")
    parser.add_argument("--pretrain", type=int, default=3_200, help="samples of the fusion model, before the answers")
    parser.add_argument("--questions", type=int, default=224_000, help="samples of learning to answer questions")
    parser.add_argument("--samples", type=int, help="samples of learning to judge statements; by default SAMPLES")
    parser.add_argument("--lr", type=float, default=5e-4, help="learning rate of the answers; before them it is .001")
    parser.add_argument("--without-probe", action="store_true")
    parser.add_argument("--ranked", action="store_true", help="answers by ranking beside it, of what --pretrain left")
    parser.add_argument("--work", type=Path, help="folder for models and shards, by default a temporary one")
    args = parser.parse_args(arguments)
    found: dict[str, dict[str, list[NDArray[np.bool_]]]] = {}
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = args.work or Path(scratch)
        work.mkdir(exist_ok=True)
        models = Answers(work, args)
        told = {name: models.told(name) for name in args.sets}
        for name in args.sets:
            found[name] = {"fusion": []} | {one: [right] for one, right in baselines(told[name]).items()}
        for seed in args.seeds:
            for name in args.sets:
                rights = found[name]
                rights["fusion"].append(fused(models.fusion(name, seed), told[name]))
                if name == "vqa" and args.ranked:
                    answers = sorted({one.answer for one in told[name]})
                    rights.setdefault("ranked", []).append(ranked(models.pretrained(seed), told[name], answers))
                if name == "vqa" and not args.without_probe:
                    fitted = models.learnt(name)[: 20 * args.tested]
                    dual = models.dual(seed, models.contrast() + args.pretrain + args.questions)
                    rights.setdefault("probe", []).append(probed(dual, fitted, told[name]))
                now = {model: right[-1:] for model, right in rights.items()}
                report(f"{name}, seed {seed}", now, told[name])
    if len(args.seeds) > 1:
        for name in args.sets:
            report(f"{name}, all seeds", found[name], told[name])


if __name__ == "__main__":
    main()
