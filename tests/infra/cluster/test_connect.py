"""The cluster of a run: the one that is there, or one of its own on loopback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from infra import cluster
from infra.cluster.alone import start
from infra.errors import CliplineError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_cluster_of_ones_own_is_on_loopback():
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


def test_a_cluster_of_ones_own_has_no_process_that_a_run_does_not_need():
    import ray

    started = ray._private.worker._global_node.all_processes
    assert {kind for kind, processes in started.items() if processes} == {"gcs_server", "raylet"}


def test_connect_uses_the_cluster_that_is_there():
    import ray

    with cluster.connect():
        assert ray.is_initialized()
    assert ray.is_initialized()  # who found it running leaves it running


def test_a_machine_too_busy_for_ray_is_told(monkeypatch):
    import ray

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(CliplineError, match="Ray did not start on this machine") as caught:
        start(2)
    assert f"{os.cpu_count()} cores" in caught.value.found
    monkeypatch.setattr(ray, "init", lambda **options: int(options["address"]))
    with pytest.raises(ValueError, match="local"):
        start(2)


def test_importing_the_package_does_not_import_ray():
    code = "import sys, infra.cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


LITTERING = """
import gc, sys, threading, time
import ray
from infra import cluster
from infra.cluster.alone import start
from infra.errors import CliplineError

def litter():
    while ray.is_initialized():
        time.sleep(0.001)
    while references:
        cycle = [references.pop()]
        cycle.append(cycle)
        until = time.monotonic() + 0.001
        while time.monotonic() < until:  # as an import does: holding the interpreter, for which Ray's shutdown waits
            pass

gc.set_threshold(1)
with cluster.connect():
    references = [ray.put(number) for number in range(1000)]
    threading.Thread(target=litter, daemon=True).start()
references.clear()
assert gc.isenabled()
sys.exit(7)
"""


def test_a_process_outlives_the_collection_of_references_while_ray_shuts_down():
    import ray

    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    assert subprocess.run([sys.executable, "-c", LITTERING], env=env).returncode == 7
