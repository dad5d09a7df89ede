"""Two drivers of one run at once: the first was taken for dead, and was not. Only what the second does counts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from infra.events import Progress, StageStarted
from infra.run.manifest import Artifact
from infra.store import open_store
from workflows.run.journal import Journal

pytestmark = [
    pytest.mark.ray,
    # MLflow's own use of SQLAlchemy, deprecated since 2.1
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

RECIPE = Path(__file__).with_name("overlap_recipe.py")
FREE = 2  # shards before the one that is held
# clipline, which gives up who shows no sign of life after 3 s instead of 20: nobody does here but who is frozen.
IMPATIENT = "from infra.run.lease import Lease; Lease.TTL_S = 3.0; from workflows.cli import app; app.main()"


class Run:
    """Drivers of one run below ``root``, on one cluster."""

    def __init__(self, root: str, folder: Path, address: str) -> None:
        self.store, self.diary, self._drivers = open_store(root), folder / "diary", []
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self._env = {
            **os.environ,
            "RAY_ADDRESS": address,
            "CLIPLINE_ROOT": root,
            "MLFLOW_TRACKING_URI": self.uri,
            "OVERLAP_DIARY": str(self.diary),
        }
        # The workers of a cluster that stands already learn of a bucket as those of a submitted job do.
        bucket = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        if root.startswith("s3:"):
            self._env["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": {"env_vars": bucket}})
        self.diary.touch()

    def start(self, held: str) -> subprocess.Popen[str]:
        words = ["run", str(RECIPE), "--set", f"held={held}"]
        command = [sys.executable, "-c", IMPATIENT, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._drivers.append(subprocess.Popen(command, env=self._env, text=True, **pipes))
        return self._drivers[-1]

    def artifact(self, stage: str) -> Artifact | None:
        folders = self.store.folders(f"artifacts/{stage}")
        return Artifact.find(self.store.child(f"artifacts/{stage}/{folders[0]}")) if folders else None

    def paths(self, stage: str, folder: str) -> list[str]:
        return [path for path in self.store.paths(f"artifacts/{stage}") if f"/{folder}/" in path]

    def second_has_looked(self, stage: str) -> bool:
        """True once the second attempt at a stage knows which shards are done."""
        (name,) = self.store.folders("runs")
        events = [event for event in Journal(self.store.child(f"runs/{name}")).read()[0] if event.stage == stage]
        begun = [index for index, event in enumerate(events) if isinstance(event, StageStarted)]
        return len(begun) > 1 and any(isinstance(event, Progress) for event in events[begun[1] :])

    def go(self) -> None:
        Path(f"{self.diary}.go").touch()

    def wait_for(self, what) -> None:
        deadline = time.monotonic() + 120
        while not what():
            assert time.monotonic() < deadline, f"it never happened\n{self.diary.read_text()}"
            time.sleep(0.02)

    def end(self) -> None:
        for driver in self._drivers:
            with contextlib.suppress(ProcessLookupError):
                driver.kill()
            driver.communicate()


@pytest.fixture
def runs(tmp_path, ray_cluster):
    import ray

    found = []

    def make(root: str, name: str) -> Run:
        (tmp_path / name).mkdir()
        found.append(Run(root, tmp_path / name, ray.get_runtime_context().gcs_address))
        return found[-1]

    yield make
    for run in found:
        run.end()


def check_whole(run: Run) -> None:
    """Every file has the bytes that the manifest says, and no shard was worked on after it was committed."""
    for stage in ("sorted", "drawn"):
        artifact = run.artifact(stage)
        assert artifact is not None
        assert {file.path: artifact.store.digest(file.path) for file in artifact.each_file()} == {
            file.path: file.sha256 for file in artifact.each_file()
        }
        assert not [path for path in artifact.store.paths() if path.startswith("exchange/")]
    assert "again" not in run.diary.read_text()


def tracked(run: Run) -> dict[str, tuple[str, list[tuple[int, float]]]]:
    """The state of each MLflow run, and its curve."""
    from mlflow import MlflowClient

    client = MlflowClient(run.uri)
    found = client.search_runs([client.get_experiment_by_name("overlap").experiment_id])
    assert len(found) == 3, Counter(one.data.tags["clipline.stage"] for one in found)
    return {
        one.data.tags["clipline.stage"]: (
            one.info.status,
            [(point.step, point.value) for point in client.get_metric_history(one.info.run_id, "loss")],
        )
        for one in found
    }


TRACKED = {"": ("FINISHED", []), "sorted": ("FINISHED", []), "drawn": ("FINISHED", [(n, 1 / n) for n in range(1, 6)])}


@pytest.mark.parametrize(
    ("stage", "wakes", "place"),
    [
        ("drawn", "meanwhile", "local"),
        ("sorted", "afterwards", "s3"),
        pytest.param("drawn", "meanwhile", "s3", marks=pytest.mark.slow),
        pytest.param("sorted", "afterwards", "local", marks=pytest.mark.slow),
    ],
)
def test_a_driver_that_was_frozen_wakes_up_beside_its_successor(runs, tmp_path, request, stage, wakes, place):
    run = runs(str(tmp_path / "root") if place == "local" else request.getfixturevalue("s3_url"), "overlapping")
    first = run.start(held=stage)
    run.wait_for(lambda: len(run.paths(stage, "ledger")) == FREE and run.diary.read_text().count(f"{stage}/") > FREE)
    first.send_signal(signal.SIGSTOP)  # its workers, which nobody froze, are in the middle of the next shards
    second = run.start(held=stage)
    run.wait_for(lambda: len(run.paths(stage, "lease")) > 1)
    run.wait_for(lambda: run.second_has_looked(stage))  # now it waits for a CPU
    run.go()
    if wakes == "afterwards":
        said, _ = second.communicate(timeout=120)
    first.send_signal(signal.SIGCONT)
    told, _ = first.communicate(timeout=120)
    if wakes == "meanwhile":
        said, _ = second.communicate(timeout=120)
    assert (second.returncode, first.returncode) == (0, 73), f"{said}\n---\n{told}"
    check_whole(run)
    assert tracked(run) == TRACKED, told
