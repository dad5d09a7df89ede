"""Grounding: does a text tower that learnt with images know words better than from the texts alone?

    python -m tests.benchmarks.grounded_text [--seeds 0 1 2]

Captions of the demo's scenes, of which half call "a red circle" by a made-up name, "a bek", another for each colour and
shape: no caption has a name beside a colour or a shape, and all names stand in the same places, so texts tell nothing
of what they mean. Nor do they tell that small means tiny and not huge. The text tower is asked alone:

size, texture, position
          how alike two wordings are that share no beginning of a word (the demo's word_pairs)
names     how alike two names are, by the colours and shapes that what they name shares
called    how alike a name and a phrase are, "bek" and "red circle"
phrases   analogies of phrases, which a tower that adds words up knows without an image (the demo's word_analogies)
of names  the same analogies of names; (c alone): by the word nearest to the third

Beside CLIP: the tower before training; the tower after data2vec on the captions alone; and CLIP on the same captions
and images, shuffled, which saw images and learnt nothing from them. Equal samples for all. Spearman's correlation or
the share of analogies by 3CosAdd; differences are paired by pair or asked pair, their intervals have the seeds' noise,
too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.compare.differences import difference
from evaluation.embedded import Embedded
from evaluation.tasks import Task, WordAnalogies, WordSimilarity
from infra.encoder.open_clip import OpenClipEncoder, load_encoder
from infra.formats.testset import EvalSet
from infra.measures import Metric
from infra.store import LocalStore
from tests.benchmarks.reranking import estimate
from tests.benchmarks.trainers import trained, write_shards
from workflows.demo import drawing
from workflows.demo.scenes import COMBINATIONS, captions, compose, label, name
from workflows.demo.words import analogies, rated_pairs

LEARN = 11_000_000  # first seed
SIDE = 48
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
_SYLLABLES = (
    *("bek", "rok", "sak", "tuk", "zon", "lup", "mib", "gop", "dak", "fod", "kaz", "pov"),
    *("vot", "saz", "zar", "mep", "ral", "luk", "pom", "gup", "nis", "sif", "tam", "lim"),
    *("dok", "gar", "vas", "nuk", "kas", "tig", "bul", "sof", "ket", "pel", "lar", "zan"),
)
NAMES = {name(*kind): made_up for kind, made_up in zip(COMBINATIONS, _SYLLABLES, strict=True)}
"""A made-up name, one token of CLIP's, for each colour and shape."""


def pair(order: Sequence[int], number: int) -> tuple[NDArray[np.uint8], str]:
    """The image of scene ``order[number]``, and a caption of scene ``number``: every other calls it by its name."""
    scene = compose(LEARN + number, COMBINATIONS)
    said = captions(scene)
    if number % 2:
        said = [text.replace(label(scene), NAMES[label(scene)]) for text in said if label(scene) in text]
    shown = compose(LEARN + order[number], COMBINATIONS)
    return drawing.render(shown, SIDE), said[number // 2 % len(said)]


def likeness(one: str, other: str) -> float:
    """The share of colour and shape that two phrases have in common."""
    return float(np.mean([mine == theirs for mine, theirs in zip(one.split(), other.split(), strict=True)]))


def write_sets(folder: Path) -> dict[str, Task]:
    """Write the five sets, and return the task for each."""
    named = [(NAMES[one], NAMES[other], likeness(one, other)) for one, other in combinations(NAMES, 2)]
    called = [(NAMES[one], other, likeness(one, other)) for one, other in product(NAMES, repeat=2)]
    rated: dict[str, list[tuple[str, str, float]]] = {"names": named, "called": called}
    for one, other, attribute, rating in rated_pairs():
        rated.setdefault(attribute, []).append((one, other, rating))
    for kind, rows in rated.items():
        lines = ["word1\tword2\trating", *(f"{one}\t{other}\t{rating}" for one, other, rating in rows)]
        (folder / kind).mkdir(parents=True)
        (folder / kind / "word_similarity.tsv").write_text("\n".join(lines))
    questions = [question for asked in analogies().values() for question in asked]
    asked = {"phrases": questions, "of names": [tuple(NAMES[phrase] for phrase in one) for one in questions]}
    for kind, four in asked.items():
        (folder / kind).mkdir(parents=True)
        (folder / kind / "word_analogies.txt").write_text("\n".join("\t".join(one) for one in four))
    return {
        **{kind: WordSimilarity(dataset=kind) for kind in rated},
        **{kind: WordAnalogies(dataset=kind) for kind in asked},
    }


def measured(model: Path, folder: Path, tasks: dict[str, Task]) -> dict[str, Metric]:
    """The main metric of each task by the text tower of a folder, and of analogies that of the third word alone."""
    encoder = load_encoder(model)
    found: dict[str, Metric] = {}
    for kind, task in tasks.items():
        metrics = task.evaluate(read(EvalSet.at(LocalStore(folder), kind, "test"), encoder)).metrics
        found[kind] = metrics[task.main]
        if "acc_only_c" in metrics:
            found[f"{kind} (c alone)"] = metrics["acc_only_c"]
    return found


def read(examples: EvalSet, encoder: OpenClipEncoder) -> Embedded:
    """A set of words by a model."""
    given = list(examples.packed(0))
    texts = [text for sample in given for text in sample.captions]
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    vectors = encoder.encode_texts(list(place))
    fields: dict[str, Any] = {
        "examples": examples, "keys": [sample.key for sample in given], "labels": np.full(len(given), -1),
        "image_vectors": np.zeros((len(given), 0), np.float32), "captions": list(place), "texts": vectors,
        "text_of": np.array([place[text] for text in texts]), "metadata": [sample.metadata for sample in given],
        "image_of": np.repeat(np.arange(len(given)), [len(sample.captions) for sample in given]),
        "logit_scale": 1.0, "source": None, "encoder": lambda: encoder,
    }  # fmt: skip
    return Embedded(**fields)


def untrained(folder: Path, seed: int) -> Path:
    """The model as training would begin with it."""
    import open_clip
    import safetensors.torch
    import torch

    torch.manual_seed(seed)
    weights = {name: tensor.contiguous() for name, tensor in open_clip.CLIP(**MODEL).state_dict().items()}
    folder.mkdir()
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
    return folder


def models(work: Path, seed: int, samples: int) -> dict[str, Path]:
    """The four models of a seed."""
    config: dict[str, Any] = {
        "model": MODEL, "batch_size": 64, "samples": samples, "seed": seed, "log_every": 6400,
        "augment": {"crop_scale": [0.8, 1.0], "crop_ratio": [1.0, 1.0]},
        "optimizer": {"lr": 3e-3, "text_lr": 1e-3, "weight_decay": 0.1, "grad_clip": 1.0},
        "schedule": {"warmup": samples // 10},
    }  # fmt: skip
    masked = {"kind": "data2vec", "modality": "text", "layers": 2, "mask_rate": 0.15, "momentum": 0.98,
              "final_momentum": 0.999, "momentum_warmup": samples}  # fmt: skip
    return {
        "untrained": untrained(work / f"untrained{seed}", seed),
        "texts": trained({**config, "objective": masked}, work / "paired", work / f"texts{seed}"),
        "shuffled": trained(config, work / "shuffled", work / f"shuffled{seed}"),
        "grounded": trained(config, work / "paired", work / f"grounded{seed}"),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=5_000, help="to learn from")
    parser.add_argument("--samples", type=int, default=12_800, help="seen in each training")
    args = parser.parse_args(arguments)
    found: dict[str, list[dict[str, Metric]]] = {}
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        tasks = write_sets(work / "tests")
        orders = {"paired": np.arange(args.scenes), "shuffled": np.random.default_rng(0).permutation(args.scenes)}
        for kind, order in orders.items():
            write_shards(work / kind, args.scenes, partial(pair, order.tolist()))
        for seed in args.seeds:
            for kind, model in models(work, seed, args.samples).items():
                found.setdefault(kind, []).append(measured(model, work / "tests", tasks))
                told = ", ".join(f"{task} {metric.value:.3f}" for task, metric in found[kind][-1].items())
                print(f"seed {seed} {kind:10} {told}", flush=True)
    for task in found["grounded"][0]:
        by_kind = {kind: estimate([one[task] for one in seeds]) for kind, seeds in found.items()}
        print(f"{task:20}", ", ".join(f"{kind} {one.mean:.3f}" for kind, one in by_kind.items()))
        for kind in ("untrained", "texts", "shuffled"):
            gap = difference(by_kind[kind], by_kind["grounded"], confidence=0.95, seed=0)
            print(f"{'':20} grounded above {kind:9} {gap}")


if __name__ == "__main__":
    main()
