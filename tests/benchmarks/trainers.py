"""The two programs that the training benchmarks compare, started as their users start them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.formats.shards import TarWriter
from workflows.demo import images

_PEER = """
import sys, torch, open_clip
if not torch.cuda.is_available():
    torch.set_num_threads(1)
open_clip.add_model_config(sys.argv[1])
from open_clip_train.main import main
main(sys.argv[2:])
"""


def write_shards(
    folder: Path,
    count: int,
    pair: Callable[[int], tuple[NDArray[np.uint8], str]],
    kind: str = "png",
    members: Callable[[int], Mapping[str, bytes]] = lambda _: {},
) -> None:
    """Write ``count`` pairs of pixels (h, w, 3) and caption, by their numbers, to four shards in a new ``folder``.

    ``members``: what each has beside these, by extension.
    """
    folder.mkdir()
    for shard, numbers in enumerate(np.array_split(np.arange(count), 4)):
        with (folder / f"{shard:05d}.tar").open("wb") as sink, TarWriter(sink) as tar:
            for number in numbers.tolist():
                pixels, caption = pair(number)
                tar.add(f"{number:06d}.{kind}", images.encode(pixels, kind))
                tar.add(f"{number:06d}.txt", caption.encode())
                for extension, data in members(number).items():
                    tar.add(f"{number:06d}.{extension}", data)


def trained(
    config: Mapping[str, Any], shards: Path, folder: Path, pretrained: Path | None = None, teacher: Path | None = None
) -> Path:
    """Train in ``folder`` without checkpoints, say what it took, and return the folder of the model.

    A model that an earlier call with this configuration left there, from a start and by a teacher that were trained
    likewise, is returned as it is.
    """
    config = {"checkpoint": {"every": 10**9}, **config}
    done = folder / "done.json"
    given = [(model.parent.parent / done.name).read_text() for model in (pretrained, teacher) if model is not None]
    asked = json.dumps(config) + "".join(given)
    if done.exists() and done.read_text() == asked:
        return folder / "out/data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    seconds, cpu = run_ours(config, shards, folder, pretrained=pretrained, teacher=teacher)
    print(f"{folder.name:8} {config['samples']} samples in {seconds:.0f} s, {cpu:.0f} s of CPU", flush=True)
    done.write_text(asked)
    return folder / "out/data"


def run_ours(
    config: Mapping[str, Any],
    shards: Path,
    folder: Path,
    gpus: int = 0,
    pretrained: Path | None = None,
    teacher: Path | None = None,
) -> tuple[float, float]:
    """Train to ``folder/out``, from ``pretrained`` and by ``teacher``; seconds, and CPU seconds of all processes."""
    (folder / "config.json").write_text(json.dumps(config))
    command = [*_launcher(gpus), "-m", "training.cli", "--config", folder / "config.json"]
    models = {"--pretrained": pretrained, "--teacher": teacher}
    given = chain.from_iterable(item for item in models.items() if item[1] is not None)
    return measure([*command, "--shards", shards, "--output", folder / "out", *given], folder / "log")


def run_theirs(
    model: str | Mapping[str, Any], options: Mapping[str, Any], shards: Path, folder: Path, gpus: int = 0
) -> tuple[float, float]:
    """The same of open_clip_train with ``options``; logs and checkpoints are below ``folder/logs``."""
    (folder / "models").mkdir()
    if not isinstance(model, str):
        (folder / "models/benchmarked.json").write_text(json.dumps(model))
    (folder / "peer.py").write_text(_PEER)
    tars = sorted(path.stem for path in shards.glob("*.tar"))
    given = {
        "model": model if isinstance(model, str) else "benchmarked", "dataset-type": "webdataset", "epochs": 1,
        "train-data": f"{shards}/{{{tars[0]}..{tars[-1]}}}.tar", "beta2": 0.98, "eps": 1e-6, "wd": 0.2,
        "logs": folder / "logs", "name": "run", **options,
    }  # fmt: skip
    command = [*_launcher(gpus), folder / "peer.py", folder / "models"]
    command += [part for name, value in given.items() for part in (f"--{name}", value)]
    # The gradients of the global batch in the memory of a rank's share, and samples drawn over all shards: their best.
    return measure([*command, "--dataset-resampled", "--local-loss", "--gather-with-grad"], folder / "log")


def measure(command: list[object], log: Path) -> tuple[float, float]:
    """Seconds and CPU seconds of a command and its children, which get one OpenMP thread each."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("wb") as out:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([str(part) for part in command], stdout=out, stderr=out, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"it failed: {' '.join(map(str, command[:4]))}\n{log.read_text()[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _launcher(gpus: int) -> list[object]:
    if gpus <= 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
