"""A hundred kills, of anything at any time, on a cluster of two nodes with an S3 root: runs end as if undisturbed.

SOAK_KILLS=100 SOAK_SEED=0 pytest -s -m slow tests/faults/cluster/test_soak.py
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from infra.store import Store, open_store
from tests.faults.cluster.services import Service
from tests.faults.processes import workers
from tests.faults.trials import images, tracked

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RECIPE = Path(__file__).parents[1] / "crash_recipe.py"
PIECES, PAUSE_S = 60, 0.4
VICTIMS = {"driver": 3, "worker": 3, "raylet": 1, "mlflow": 1, "s3": 2}
WORKING = ("ray::_batch_task", "ray::clipline:", "ray::run_attempt", "ray::_Mailbox")
KILLS, SEED = int(os.environ.get("SOAK_KILLS", "100")), int(os.environ.get("SOAK_SEED", "0"))
# A run that cannot go on says so: a stage that failed too often, a store that did not answer.
GAVE_UP = {1, 74, 75}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class World:
    """The cluster with its two nodes, the services, and who is to die next."""

    def __init__(self, folder: Path, s3_server: str) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.draw, self.kills = folder, random.Random(SEED), Counter[str]()
        self.s3 = Service("proxy", s3_server.rpartition(":")[2], log=folder / "s3.log")
        self.mlflow = Service("mlflow", str(folder / "mlflow.db"), log=folder / "mlflow.log")
        self.mlflow.wait()
        self.s3.wait()
        os.environ["AWS_ENDPOINT_URL"] = self.s3.url
        self.images = images(folder / "images")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets to the collector
            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
            self._node = self.cluster.add_node(num_cpus=2)
            gc.collect()

    def close(self) -> None:
        self.cluster.shutdown()
        self.s3.kill()
        self.mlflow.kill()

    def kill(self, driver: subprocess.Popen[bytes]) -> None:
        """Kill somebody, who comes again as soon as he can."""
        victim = self.draw.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        if victim == "worker" and not (found := workers(*WORKING)):
            victim = "driver"
        say(f"{sum(self.kills.values()):4} {victim}")
        self.kills[victim] += 1
        if victim == "driver":
            driver.kill()
        elif victim == "worker":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.draw.choice(found), signal.SIGKILL)
        elif victim == "raylet":
            self.cluster.remove_node(self._node, allow_graceful=False)
            time.sleep(self.draw.uniform(0, 2))
            self._node = self.cluster.add_node(num_cpus=2)
        else:
            service = self.s3 if victim == "s3" else self.mlflow
            service.kill()
            time.sleep(self.draw.uniform(0, 3))
            service.start()


class Round:
    """One run below a root of its own, begun anew as often as it takes."""

    def __init__(self, world: World, root: str, number: int) -> None:
        self.world, self.root, self.folder = world, open_store(root), world.folder / f"round{number}"
        self.folder.mkdir()
        self.codes: list[int] = []
        self._env = {
            **os.environ,
            "RAY_ADDRESS": world.cluster.address,
            "CLIPLINE_ROOT": root,
            "MLFLOW_TRACKING_URI": world.mlflow.url,
            "CRASH_IMAGES": str(world.images),
            "CRASH_DIARY": str(self.folder / "diary"),
        }

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "workflows.cli", *words], env=self._env, stdout=log, stderr=log
            )

    def run(self, kills: int) -> None:
        """Run until it is done, with at most so many kills."""
        before = sum(self.world.kills.values())
        words = ("run", str(RECIPE), "--set", f"pieces={PIECES}", "--set", f"pause_s={PAUSE_S}")
        while not self.codes or self.codes[-1] != 0:
            assert len(self.codes) < 60, self.log()
            driver = self.start(*words)
            while driver.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(self.world.draw.uniform(1, 6))
                if driver.poll() is None and sum(self.world.kills.values()) - before < kills:
                    self.world.kill(driver)
            self.codes.append(driver.returncode)
        self.world.mlflow.wait()
        self.world.s3.wait()
        assert self.start("sync").wait() == 0, self.log()  # what was sent while MLflow was away

    def log(self) -> str:
        return f"{self.codes}\n{(self.folder / 'log').read_text()[-6000:]}"

    def found(self) -> dict[str, Any]:
        """Manifests, files, and what MLflow has."""
        return {
            "manifests": files_of(self.root, "manifest.json", whole=True),
            "data": files_of(self.root, "data/"),
            "tracked": tracked_and_forgotten(self.world.mlflow.url),
        }

    def wrong(self, undisturbed: dict[str, Any]) -> list[str]:
        found = self.found()
        wrong = [
            f"{part} differ: {found[part]} {undisturbed[part]}"
            for part in undisturbed
            if found[part] != undisturbed[part]
        ]
        if "again" in (self.folder / "diary").read_text():
            wrong.append("a committed shard was worked on again")
        if odd := set(self.codes) - {0, -signal.SIGKILL} - GAVE_UP:
            wrong.append(f"exit codes {odd}")
        return [*wrong, self.log()] if wrong else []


def files_of(root: Store, part: str, *, whole: bool = False) -> dict[str, Any]:
    """Of the artifacts' files at ``part`` the bytes or their digests."""
    paths = [path for path in root.paths("artifacts") if path.split("/", 3)[3].startswith(part)]
    return {
        path: data if whole else hashlib.sha256(data).hexdigest()
        for path, data in zip(paths, root.read_all(paths), strict=True)
    }


def tracked_and_forgotten(uri: str) -> dict[str, Any]:
    """What MLflow has of a round, whose experiment is deleted for good: the next has the same name."""
    from mlflow import MlflowClient

    found = tracked(uri)
    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("crash").experiment_id
    client.rename_experiment(experiment, f"crash {time.monotonic_ns()}")
    client.delete_registered_model("crash")
    return found


@pytest.mark.timeout(4 * 3600)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_hundred_kills(tmp_path, s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    for name, value in {"health_check_period_ms": "1000", "health_check_failure_threshold": "5"}.items():
        monkeypatch.setenv(f"RAY_{name}", value)
    world = World(tmp_path, s3_server)
    try:
        say(f"\nseed {SEED}")
        first = Round(world, f"s3://clipline/soak-{SEED}-0", 0)
        first.run(0)
        undisturbed, wrong, number = first.found(), {}, 0
        while (left := KILLS - sum(world.kills.values())) > 0:
            number += 1
            one = Round(world, f"s3://clipline/soak-{SEED}-{number}", number)
            one.run(left)
            if found := one.wrong(undisturbed):
                wrong[number] = found
            say(f"round {number}: {sum(world.kills.values())} kills, exit codes {one.codes}, {len(found)} wrong")
        say(f"{dict(world.kills)}")
        assert not wrong, "\n".join(f"round {number}: {line}" for number, lines in wrong.items() for line in lines)
    finally:
        world.close()
