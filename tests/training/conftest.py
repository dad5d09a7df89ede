"""Small shards of pictures that can be told apart, and a model small enough for a test."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

COLOURS = {"red": (208, 32, 36), "green": (24, 148, 52), "blue": (24, 76, 214), "yellow": (250, 212, 0)}
SHAPES = ("disc", "box", "bar")

MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def draw(number: int, side: int = 24) -> tuple[np.ndarray, str]:
    """A picture (side, side, 3) and its caption."""
    rng = np.random.default_rng(number)
    colour, shape = list(COLOURS)[number % 4], SHAPES[number // 4 % 3]
    image = np.full((side, side, 3), 160, np.uint8) + rng.integers(0, 30, (side, side, 3), np.uint8)
    centre, size = rng.integers(side // 3, 2 * side // 3, 2).tolist(), side // 4
    match shape:
        case "disc":
            cv2.circle(image, centre, size, COLOURS[colour], -1)
        case "box":
            cv2.rectangle(image, [c - size for c in centre], [c + size for c in centre], COLOURS[colour], -1)
        case "bar":
            cv2.rectangle(image, (0, centre[1] - 2), (side, centre[1] + 2), COLOURS[colour], -1)
    return image, f"a {colour} {shape}"


def encode(image: np.ndarray, extension: str = "png") -> bytes:
    return cv2.imencode(f".{extension}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


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


class Ranks:
    """Runs a function in several processes that form a gloo group.

    A forkserver that has already imported the heavy modules makes a rank cost milliseconds instead of ten seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["training.loop", "open_clip", "torch._dynamo"])

    def __call__(self, size: int, function: Callable[..., Any], *arguments: Any, dies: bool = False) -> list[Any]:
        """What ``function(*arguments)`` returned on each rank; with ``dies`` the exit codes instead."""
        self.count += 1
        meeting = self.folder / f"meeting-{self.count}"
        pipes = [self.context.Pipe(duplex=False) for _ in range(size)]
        processes = [
            self.context.Process(target=_rank, args=(rank, size, str(meeting), sender, function, arguments))
            for rank, (_, sender) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()
        results = []
        for receiver, _ in pipes:
            try:
                results.append(receiver.recv())
            except EOFError:
                results.append(None)
        for process in processes:
            process.join()
        codes = [process.exitcode for process in processes]
        if dies:
            return codes
        assert codes == [0] * size, codes
        return results


def _rank(rank: int, size: int, meeting: str, sender: Any, function: Callable[..., Any], arguments: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    sender.send(function(*arguments))
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("ranks"))
