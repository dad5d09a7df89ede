"""Feeding a model: samples per second and core, ours and open_clip's own loader on the same shards.

Pictures like photographs with a shorter side of 256 pixels and captions of the web's lengths; the training transform
of CLIP at 224 pixels (random crop of 0.9 to 1 of the area) and CLIP's tokenizer. Each loader runs in a process of its
own on one core, and CPU seconds are counted, so other work on the machine disturbs little. open_clip's runs without
worker processes, which spares it sending batches between them::

    python -m tests.benchmarks.loader --samples 2048 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from tests.benchmarks.served import picture

SIDE, BATCH, SHARDS = 224, 256, 8
TALK = (
    "a the of in with and for on at by from new old red blue green white black vintage modern photo picture "
    "image view house garden street city beach mountain lake river sunset morning night winter summer woman "
    "man child dog cat horse bird car train boat bicycle kitchen table chair lamp window door wooden handmade "
    "leather cotton dress shirt shoes bag watch ring necklace print poster canvas wall art design "
    "illustration vector stock background isolated free shipping sale size large small pack set piece 2019 "
    "2021 100% Lisbon Kyoto Oslo Marrakesh women's men's children's stainless ceramic glass festival concert "
    "wedding birthday cake chocolate coffee breakfast recipe homemade healthy "
)
WORDS = TALK.split()


def caption(rng: np.random.Generator) -> str:
    """4 to 30 words, most often a dozen, with a number or a word nobody else uses in every other one."""
    count = int(np.clip(rng.lognormal(2.3, 0.45), 4, 30))
    words = [WORDS[int(number)] for number in rng.zipf(1.3, count) % len(WORDS)]
    if rng.random() < 0.5:
        words.insert(int(rng.integers(count)), f"{rng.choice(list('ABXZ'))}{rng.integers(10_000)}")
    if rng.random() < 0.15:
        words.append("– Étagère")
    return " ".join(words).capitalize()


def make(folder: Path, samples: int) -> None:
    """``SHARDS`` WebDataset tars, the same for the same number."""
    from infra.formats.shards import TarWriter

    folder.mkdir(parents=True, exist_ok=True)
    for shard, numbers in enumerate(np.array_split(np.arange(samples), SHARDS)):
        path = folder / f"{shard:05d}.tar"
        if path.exists():
            continue
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as sink, TarWriter(sink) as tar:
            for number in numbers.tolist():
                rng = np.random.default_rng([number, 7])
                longer = round(256 / rng.uniform(0.6, 1))
                size = (longer, 256) if rng.random() < 0.6 else (256, longer)
                quality = [cv2.IMWRITE_JPEG_QUALITY, 95]  # img2dataset's
                tar.add(f"{number:09d}.jpg", cv2.imencode(".jpg", picture(rng, *size), quality)[1].tobytes())
                tar.add(f"{number:09d}.txt", caption(rng).encode())
        temporary.rename(path)


def theirs(folder: Path, samples: int) -> dict[str, float]:
    """CPU seconds of an epoch of open_clip's loader."""
    import open_clip
    from open_clip_train.data import get_wds_dataset

    args = SimpleNamespace(
        train_data=f"{folder}/{{00000..{SHARDS - 1:05d}}}.tar",
        train_num_samples=samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=BATCH,
        workers=0,
        world_size=1,
        seed=0,
    )
    transform = open_clip.image_transform(SIDE, is_train=True)
    data = get_wds_dataset(args, transform, is_train=True, floor=True, tokenizer=open_clip.get_tokenizer("ViT-B-32"))
    started, seen = time.process_time(), 0
    for images, texts in data.dataloader:
        assert images.shape[1:] == (3, SIDE, SIDE)
        assert texts.shape[1] == 77
        seen += len(images)
    return {"open_clip": (time.process_time() - started) / seen}


def ours(folder: Path, samples: int) -> dict[str, float]:
    """CPU seconds of ours: making the index with its tokens, an epoch, and an epoch that normalises, too."""
    import open_clip
    import torch

    from infra.store import LocalStore
    from training.config import Config
    from training.data.loader import Loader
    from training.data.samples import Samples, Shards
    from training.data.tokens import Tokenizer
    from training.distributed.world import World

    config = Config(batch_size=BATCH, loading={"threads": 1, "max_corrupt": 0})
    store = LocalStore(folder)
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    tokenize = Tokenizer(open_clip.get_tokenizer("ViT-B-32"))
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("index and tokens, once", "index and tokens, again"):
            started = time.process_time()
            source = Samples(shards, World(), tokenize=tokenize, min_side=237, folder=Path(cache))
            seconds[name] = (time.process_time() - started) / samples
        mean = 255 * torch.tensor(open_clip.OPENAI_DATASET_MEAN).repeat(SIDE)
        std = 255 * torch.tensor(open_clip.OPENAI_DATASET_STD).repeat(SIDE)
        pixels = torch.empty(SIDE, 3 * SIDE)
        for name in ("clipline", "clipline, normalised"):
            loader, seen, started = Loader(source, config, World(), (SIDE, SIDE)), 0, time.process_time()
            for batch in loader.batches(0, samples // BATCH * BATCH):
                if name.endswith("normalised"):
                    for image in batch.images:
                        torch.sub(image.flatten(1), mean, out=pixels).div_(std)
                seen += len(batch)
            seconds[name] = (time.process_time() - started) / seen
    return seconds


def scaling(folder: Path, samples: int) -> dict[str, float]:
    """Samples per second of wall time with one thread and with two, on as many cores."""
    import open_clip

    from infra.store import LocalStore
    from training.config import Config
    from training.data.loader import Loader
    from training.data.samples import Samples, Shards
    from training.data.tokens import Tokenizer
    from training.distributed.world import World

    store = LocalStore(folder)
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    rates = {}
    with tempfile.TemporaryDirectory() as cache:
        tokenize = Tokenizer(open_clip.get_tokenizer("ViT-B-32"))
        source = Samples(shards, World(), tokenize=tokenize, min_side=237, folder=Path(cache))
        for threads in (1, 2):
            config = Config(batch_size=BATCH, loading={"threads": threads, "max_corrupt": 0})
            loader, started = Loader(source, config, World(), (SIDE, SIDE)), time.perf_counter()
            seen = sum(len(batch) for batch in loader.batches(0, samples // BATCH * BATCH))
            rates[f"{threads} threads"] = (time.perf_counter() - started) / seen
    return rates


def measure(function: str, folder: Path, samples: int, cores: int) -> dict[str, float]:
    """What ``function`` of this module returns in a fresh process that may use ``cores`` cores."""
    command = [sys.executable, "-m", "tests.benchmarks.loader", "--only", function, "--samples", str(samples)]
    command += ["--folder", str(folder), "--cores", str(cores)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> float | None:
    """Print the table; the ratio of the best runs, ours with making index and tokens to open_clip's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "clipline-loader-benchmark"))
    parser.add_argument("--only", choices=["theirs", "ours", "scaling"], help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        import torch

        torch.set_num_threads(1)
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
        print(json.dumps(globals()[options.only](options.folder, options.samples)))
        return None

    folder = options.folder / str(options.samples)
    make(folder, options.samples)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{options.samples:,} samples in {SHARDS} shards, {size / options.samples / 1000:.1f} kB each; one core")
    runs: dict[str, list[float]] = {}
    for _ in range(options.repeats):  # in turn, so that a busy minute meets both
        for found in (measure("theirs", folder, options.samples, 1), measure("ours", folder, options.samples, 1)):
            for name, seconds in found.items():
                runs.setdefault(name, []).append(seconds)
    print(f"{'':28}{'us/sample':>12}{'samples/s':>12}{'spread':>10}")
    for name, seconds in runs.items():
        best = min(seconds)
        print(f"{name:28}{best * 1e6:12.1f}{1 / best:12,.0f}{(max(seconds) / best - 1) * 100:9.0f}%")
    theirs_s, ours_s = min(runs["open_clip"]), min(runs["clipline"])
    first = ours_s + min(runs["index and tokens, once"])
    print(
        f"ratio {theirs_s / first:.2f} in the first epoch, index and tokens included; {theirs_s / ours_s:.2f} after it"
    )
    if len(os.sched_getaffinity(0)) > 1:
        rates = [measure("scaling", folder, options.samples, 2) for _ in range(options.repeats)]
        one, two = (min(rate[f"{threads} threads"] for rate in rates) for threads in (1, 2))
        print(f"two threads on two cores: {one / two:.2f} times one (wall time)")
    return theirs_s / first


if __name__ == "__main__":
    main()
