"""The head of the Ray cluster dies in the middle of a run: that is told, and a new head goes on with the rest."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.errors import StageFailed
from infra.events import RunFinished
from infra.store import LocalStore, open_store
from tests.faults.processes import workers
from workflows.run.driver import Driver
from workflows.run.journal import Journal
from workflows.run.records import list_runs
from workflows.run.signals import SignalHandler

# MLflow's own use of SQLAlchemy, deprecated since 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

RECIPE = Path(__file__).parents[2] / "workflows/toy_recipe.py"


@contextmanager
def head():
    """A Ray head of two CPUs in a process group of its own; its address, and a function that kills the group."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    code = "import ray, time; print(ray.init('local', num_cpus=2, include_dashboard=False, _temp_dir={!r})"
    code = code.format(folder) + ".address_info['gcs_address'], flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)

    def kill() -> None:
        for entry in Path("/proc").iterdir():  # Ray puts some of its processes into other groups
            if entry.name.isdecimal() and folder in _read(entry / "cmdline"):
                os.kill(int(entry.name), signal.SIGKILL)

    try:
        yield process.stdout.readline().strip(), kill
    finally:
        kill()
        process.wait(30)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def tracked(database: Path) -> dict[str, str]:
    """The states of MLflow's runs, by stage."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    return {run.data.tags["clipline.stage"]: run.info.status for run in runs}


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def test_a_head_that_is_gone_is_given_up_before_ray_ends_the_process(ray_cluster, tmp_path, monkeypatch):
    """Its events' actor does not answer: that is borne while the head takes connections, and is the end when not."""
    before = workers("ray::_Mailbox")
    driver = Driver([], LocalStore(tmp_path), [].append, SignalHandler(), stages=None, wait=False, grace_s=1.0)
    driver._receive()
    (mailbox,) = set(workers("ray::_Mailbox")) - set(before)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "0.2")
    server = socket.create_server(("127.0.0.1", 0))
    driver._head = f"127.0.0.1:{server.getsockname()[1]}"
    gone = threading.Timer(0.5, server.close)
    os.kill(mailbox, signal.SIGSTOP)
    try:
        gone.start()
        with pytest.raises(StageFailed, match="no answer from its head") as caught:
            driver._receive()
        assert gone.finished.is_set() and "clipline resume" in str(caught.value)
    finally:
        gone.cancel()
        server.close()
        os.kill(mailbox, signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_told_and_another_head_goes_on(tmp_path):
    diary = tmp_path / "diary"
    env = {
        **{name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # Ray's own is 60
        "TOY_DIARY": str(diary),
        "CLIPLINE_ROOT": str(tmp_path / "root"),
        "RAY_AUTH_MODE": "token",
    }

    def clipline(*words: str, address: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "workflows.cli", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env={**env, "RAY_ADDRESS": address}, text=True, **pipes)

    def worked_on() -> Counter[str]:
        return Counter(diary.read_text().splitlines() if diary.exists() else [])

    with head() as (address, kill):
        running = clipline("run", str(RECIPE), "--set", "shards=8", "--set", "pause_s=2", address=address)
        deadline = time.monotonic() + 120
        while worked_on().total() < 6:
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        kill()
        told, _ = running.communicate(timeout=120)
        assert running.returncode == 1 and "Traceback" not in told
        assert "the connection to the Ray cluster was lost" in told
    (run,) = list_runs(root := open_store(str(tmp_path / "root")))
    events, _ = Journal(root.child(f"runs/{run}")).read()
    assert isinstance(events[-1], RunFinished) and events[-1].status == "failed"
    assert tracked(tmp_path / "root/mlflow.db")[""] == "FAILED"
    with head() as (address, _):
        again = clipline("resume", "toy", address=address)
        told, _ = again.communicate(timeout=150)
        assert again.returncode == 0, told
    found = worked_on()
    assert len(found) == 8 + 2 and found.total() <= 10 + 2  # what was at work on two CPUs is repeated, at most
    assert list((tmp_path / "root").glob("artifacts/both/*/manifest.json"))
    assert set(tracked(tmp_path / "root/mlflow.db").values()) == {"FINISHED"}
