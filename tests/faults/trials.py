"""Runs of ``crash_recipe`` that die at a crash point, and what a run must have left when it was continued."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.formats.shards import TarWriter

HERE = Path(__file__).parent
KILLED = -9


class Trial:
    """One root with its MLflow database and its diary."""

    def __init__(self, folder: Path, driver: subprocess.Popen[str], images: Path) -> None:
        self.folder, self.root, self._driver, self._images = folder, folder / "root", driver, images

    def run(self) -> int:
        """Be told to run; the exit code."""
        environment = {
            "CLIPLINE_ROOT": str(self.root),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db",
            "CRASH_IMAGES": str(self._images),
            "CRASH_DIARY": str(self.folder / "diary"),
        }
        line = json.dumps([environment, ["run", str(HERE / "crash_recipe.py")]])
        assert self._driver.stdin and self._driver.stdout
        self._driver.stdin.write(f"{line}\n")
        self._driver.stdin.flush()
        return int(self._driver.stdout.readline())

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def manifests(self) -> dict[str, bytes]:
        return {path.parent.parent.name: path.read_bytes() for path in self.root.glob("artifacts/*/*/manifest.json")}

    def files(self) -> dict[str, str]:
        """The digest of each data file of each artifact."""
        paths = [path for path in self.root.glob("artifacts/*/*/data/**/*") if path.is_file()]
        return {str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def tracked(self) -> dict[str, Any]:
        return tracked(f"sqlite:///{self.folder}/mlflow.db")


def tracked(uri: str) -> dict[str, Any]:
    """What MLflow has: of each run its state and curves, and the models. Not how long anything took."""
    from mlflow import MlflowClient

    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("crash").experiment_id
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment]):
        stage = run.data.tags["clipline.stage"]
        assert stage not in found, f"two MLflow runs of {stage or 'the run'}"
        curves = {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
            if name != "seconds"
        }
        inputs = sorted(one.dataset.name for one in run.inputs.dataset_inputs)
        outputs = len(run.outputs.model_outputs) if run.outputs else 0
        images = {file.path.split("+")[0] for file in client.list_artifacts(run.info.run_id, "images")}
        found[stage] = (run.info.status, curves, dict(run.data.params), inputs, outputs, images)
    found["logged models"] = len(client.search_logged_models([experiment]))
    found["versions"] = [sorted(one.aliases) for one in client.search_model_versions()]
    return found


class Trials:
    """A cluster and a driver whose processes all know the crash points; ``folder`` is theirs."""

    def __init__(self, folder: Path, driver: subprocess.Popen[str], images: Path) -> None:
        self._folder, self._driver, self._images, self._count = folder, driver, images, 0

    def new(self, **kill: str | int) -> Trial:
        """A trial in which a process dies at the point; of none, nobody does."""
        self._count += 1
        folder = self._folder / f"trial{self._count}"
        folder.mkdir()
        (self._folder / "passed.jsonl").write_text("")
        self.kill_order.unlink(missing_ok=True)
        if kill:
            self.kill_order.write_text(json.dumps(kill))
        shutil.copy(self._folder / "mlflow.db", folder)
        return Trial(folder, self._driver, self._images)

    @property
    def kill_order(self) -> Path:
        return self._folder / "kill.json"

    def passed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self._folder / "passed.jsonl").read_text().splitlines()]

    def points(self) -> Counter[str]:
        """How often each point was passed."""
        return Counter(line["point"] for line in self.passed() if "point" in line)

    def committed(self) -> Counter[str]:
        """How often each shard and each manifest was committed."""
        done = [line["done"][-1] for line in self.passed() if line.get("done", [""])[0] in ("replace", "link")]
        return Counter(path for path in done if "/ledger/" in path or path.endswith("/manifest.json"))


@contextmanager
def serving(folder: Path) -> Iterator[Trials]:
    """Trials below ``folder``, on a cluster of two CPUs."""
    from ray.cluster_utils import Cluster

    (folder / "kept").mkdir(parents=True)
    paths = (str(HERE / "everywhere"), str(HERE), os.environ.get("PYTHONPATH", ""))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets to the collector
        patch.setenv("CRASH_POINTS", str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        gc.collect()
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, str(HERE / "crash_driver.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        driver = subprocess.Popen(command, env=environment, text=True, **pipes)
        assert driver.stdout.readline() == "ready\n"
    try:
        yield Trials(folder, driver, images(folder / "images"))
    finally:
        driver.communicate()
        cluster.shutdown()


def images(folder: Path) -> Path:
    """Two shards of img2dataset's with a copy, a bad caption and a failure."""
    folder.mkdir()
    for shard in range(2):
        records = []
        with (folder / f"{shard:05d}.tar").open("wb") as sink, TarWriter(sink) as out:
            for number in range(10):
                key, seed = f"{shard:05d}{number:04d}", 10 * shard + max(number, 1)
                data = None if number == 9 else image(seed)
                caption = "IMG_2041.jpg" if number == 8 else f"an old castle by the river, view {key}"
                if data is not None:
                    out.add(f"{key}.jpg", data)
                    out.add(f"{key}.txt", caption.encode())
                side = 64 if data else None
                records.append({
                    "url": f"https://img.example/{key}.jpg", "key": key, "caption": caption,
                    "status": "success" if data else "failed_to_download", "error_message": None if data else "timeout",
                    "width": side, "height": side, "original_width": side, "original_height": side,
                    "exif": "{}", "sha256": hashlib.sha256(data).hexdigest() if data else None,
                })  # fmt: skip
        pq.write_table(pa.Table.from_pylist(records), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def image(seed: int) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()
