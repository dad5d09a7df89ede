"""Learning: questions about scenes with combinations never seen, by a fusion model and by what cannot compose.

    python -m tests.benchmarks.answers [--seeds 1] [--objective vilt]

The demo's questions, written as shards and as a test set. A fusion model is pretrained on them and then learns answers;
a dual encoder sees as many samples of the same shards by contrast, and a linear probe answers from its vectors of image
and question and their product. Both answer the split ``unseen``. Beside them stands the most that any model gets
without the images. The bar is 15 points above the blind one, and a paired interval above the probe that is clear of 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from evaluation.tasks.work.vqa import best_blind
from infra.formats.shards import TarWriter
from infra.fusion.build import build_fusion
from infra.fusion.encoder import FOLDER, FusionEncoder
from infra.open_clip_encoder import load_encoder
from tests.benchmarks.trainers import measure
from workflows.demo import drawing, images
from workflows.demo.questions import QUESTIONS, Asked, ask

SIDE = 32
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": 96, "layers": 3, "head_width": 24},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 2},
}
LEARN, TEST = 7_000_000, 6_000_000  # first seeds: no group is in two splits


def asked(split: str, groups: int, kinds: Sequence[str]) -> list[Asked]:
    """The images of a split, the kinds of question in turn."""
    first = LEARN if split == "train" else TEST
    rows = (ask(kind, first + number, unseen=split == "unseen") for number in range(groups) for kind in kinds)
    return list(chain.from_iterable(rows))


def write(folder: Path, learnt: Sequence[Asked]) -> None:
    """Shards of images, each with its question and the answer behind it."""
    folder.mkdir()
    for shard, rows in enumerate(np.array_split(np.arange(len(learnt)), 4)):
        with (folder / f"{shard:05d}.tar").open("wb") as sink, TarWriter(sink) as tar:
            for number in rows.tolist():
                one = learnt[number]
                tar.add(f"{number:06d}.jpg", images.encode(drawing.render_composition(one.image, SIDE), "jpeg"))
                tar.add(f"{number:06d}.txt", f"{one.image.caption} {one.answer}".encode())


def train(folder: Path, shards: Path, settings: dict[str, Any], pretrained: Path | None = None) -> Path:
    """The model that the training command leaves."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": MODEL, "checkpoint": {"every": 10**9}, **settings}))
    command: list[object] = [sys.executable, "-m", "training.cli", "--config", folder / "config.json"]
    command += ["--shards", shards, "--output", folder / "out"]
    if pretrained:
        command += ["--pretrained", pretrained]
    seconds, cpu = measure(command, folder / "log")
    print(f"{folder.name:8} {settings['samples']} samples in {seconds:.0f} s, {cpu:.0f} s of CPU", flush=True)
    return folder / "out/data"


def fused(model: Path, told: Sequence[Asked]) -> NDArray[np.bool_]:
    """Which questions the fusion model of a folder answers right."""
    encoder = load_encoder(model)
    described = json.loads((model / FOLDER / "config.json").read_bytes())
    fusion = build_fusion(encoder.model, described)
    fusion.load_state_dict(load_file(model / FOLDER / "model.safetensors"))
    reader = FusionEncoder(encoder, fusion, described["answers"])
    given = reader.answer(pictures(told), [[one.image.caption] for one in told]).argmax(axis=1)
    return np.array([reader.answers[number] == one.answer for number, one in zip(given, told, strict=True)])


def probed(model: Path, learnt: Sequence[Asked], told: Sequence[Asked]) -> NDArray[np.bool_]:
    """Which questions a linear probe answers right that is fitted on the dual encoder's vectors of ``learnt``."""
    from sklearn.linear_model import LogisticRegression

    encoder = load_encoder(model)

    def seen(rows: Sequence[Asked]) -> NDArray[np.float32]:
        image, text = encoder.encode_images(pictures(rows)), encoder.encode_texts([one.image.caption for one in rows])
        scaled = image * text * np.sqrt(image.shape[1])
        return np.concatenate([image, text, scaled], axis=1)

    probe = LogisticRegression(C=100, max_iter=1000).fit(seen(learnt), [one.answer for one in learnt])
    return np.array(probe.predict(seen(told)) == [one.answer for one in told])


def pictures(rows: Sequence[Asked]) -> list[Image.Image]:
    return [Image.fromarray(drawing.render_composition(one.image, SIDE)) for one in rows]


def above(better: NDArray[np.bool_], worse: NDArray[np.bool_], group: int = 2) -> tuple[float, float, float]:
    """The mean of a paired difference and its 95% interval; images of one group are drawn together."""
    differences = (better.astype(float) - worse).reshape(-1, group).mean(axis=1)
    draws = np.random.default_rng(0).integers(len(differences), size=(2000, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--objective", choices=("vilt", "albef"), default="vilt")
    parser.add_argument("--kinds", nargs="+", choices=tuple(QUESTIONS), default=list(QUESTIONS))
    parser.add_argument("--groups", type=int, default=6000, help="of each kind, to learn from")
    parser.add_argument("--tested", type=int, default=150, help="groups of each kind")
    parser.add_argument("--pretrain", type=int, default=32_000, help="samples of the fusion model, before the answers")
    parser.add_argument("--samples", type=int, default=160_000, help="samples of learning the answers")
    args = parser.parse_args(arguments)
    learnt, told = asked("train", args.groups, args.kinds), asked("unseen", args.tested, args.kinds)
    answers = sorted({one.answer for one in learnt})
    blind = best_blind([one.image.caption for one in told], [one.answer for one in told])
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        write(work / "shards", learnt)
        print(f"{len(learnt)} questions to learn from, {len(told)} of unseen combinations", flush=True)
        for seed in range(args.seeds):
            run = {"seed": seed, "batch_size": 32, "log_every": 3200, "augment": {"crop_scale": [1.0, 1.0]}}

            def settings(objective: dict[str, Any], samples: int, run: dict[str, Any] = run) -> dict[str, Any]:
                schedule = {"optimizer": {"lr": 1e-3}, "schedule": {"warmup": samples // 20}}
                return {**run, **schedule, "objective": objective, "samples": samples}

            start = train(
                work / f"{args.objective}{seed}", work / "shards", settings({"kind": args.objective}, args.pretrain)
            )
            model = train(
                work / f"vqa{seed}", work / "shards", settings({"kind": "vqa", "answers": answers}, args.samples), start
            )
            dual = train(
                work / f"dual{seed}", work / "shards", settings({"kind": "infonce"}, args.pretrain + args.samples)
            )
            right, probe = fused(model, told), probed(dual, learnt[: 20 * args.tested], told)
            print(f"seed {seed}: fusion {right.mean():.3f}, probe {probe.mean():.3f}, blind {blind.mean():.3f}")
            for name, other in (("blind", blind), ("probe", probe)):
                mean, low, high = above(right, other)
                print(f"above {name}: {100 * mean:.1f} points [{100 * low:.1f}, {100 * high:.1f}]")


if __name__ == "__main__":
    main()
