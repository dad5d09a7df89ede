"""A cluster of this process's own, where the home folder is read-only and TMPDIR too long for a socket."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

START = """
from infra import cluster
with cluster.connect(cpus=1):
    import ray
    print(ray.get(ray.remote(lambda: "it runs").remote()))
"""


@pytest.mark.ray
def test_a_batch_systems_folders_are_good_enough(tmp_path):
    (tmp_path / "no-folder").write_bytes(b"")
    (tmp_path / ("t" * 100)).mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(tmp_path / "no-folder"), "TMPDIR": str(tmp_path / ("t" * 100))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "it runs\n", done.stderr
