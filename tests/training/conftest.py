"""Small shards of pictures that can be told apart, and several processes to train on them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rank_processes import Ranks
from small_data import draw, encode

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def make_shards() -> Callable[..., Path]:
    from infra.formats.shards import TarWriter

    def make(folder: Path, samples: int = 40, shards: int = 3, damaged: tuple[int, ...] = (), bare: int = 0) -> Path:
        """``samples`` samples in ``shards`` tars; images numbered in ``damaged`` are cut, ``bare`` more lack a text."""
        (folder / "data/train").mkdir(parents=True)
        numbers = np.array_split(np.arange(samples + bare), shards)
        for shard, own in enumerate(numbers):
            sink = io.BytesIO()
            with TarWriter(sink) as tar:
                for number in own.tolist():
                    image, caption = draw(number)
                    extension = ("png", "jpg", "webp")[number % 3]
                    data = encode(image, extension)
                    tar.add(f"{number:05d}.{extension}", data[:40] if number in damaged else data)
                    if number < samples:
                        tar.add(f"{number:05d}.txt", caption.encode())
                    tar.add(f"{number:05d}.json", json.dumps({"number": number}).encode())
            (folder / f"data/train/{shard:05d}.tar").write_bytes(sink.getvalue())
        return folder

    return make


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, make_shards: Callable[..., Path]) -> Path:
    """40 samples in 3 tars; tests only read them."""
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def region_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Regions of 40 of the demo's images with captions, in 2 tars; tests only read them."""
    from infra.formats.shards import TarWriter
    from workflows.demo.compositions import pair
    from workflows.demo.regions import members

    folder = tmp_path_factory.mktemp("regions")
    images = [one for number in range(20) for one in pair("attribute", number)]
    for shard in range(2):
        with (folder / f"{shard:05d}.tar").open("wb") as sink, TarWriter(sink) as tar:
            for number, image in enumerate(images[20 * shard :][:20]):
                for extension, data in members(image).items():
                    tar.add(f"{number:05d}.{extension}", data)
                tar.add(f"{number:05d}.txt", image.caption.encode())
    return folder


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("ranks"))
