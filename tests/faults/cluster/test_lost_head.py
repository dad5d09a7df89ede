"""The head of the Ray cluster dies in the middle of a run: that is told, and a new head goes on with the rest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

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


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


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
        # Ray ends the process where it waits for the head, clipline where it asks.
        assert running.returncode == 1 and "Traceback" not in told
        assert "the connection to the Ray cluster was lost" in told or "Failed to connect to GCS" in told
    with head() as (address, _):
        again = clipline("resume", "toy", address=address)
        told, _ = again.communicate(timeout=150)
        assert again.returncode == 0, told
    found = worked_on()
    assert len(found) == 8 + 2 and found.total() <= 10 + 2  # what was at work on two CPUs is repeated, at most
    assert list((tmp_path / "root").glob("artifacts/both/*/manifest.json"))
