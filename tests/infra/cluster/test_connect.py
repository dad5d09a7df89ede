"""The cluster of a run: the one that is there, or one of its own on loopback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from infra import cluster

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_cluster_of_ones_own_is_on_loopback():
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


def test_connect_uses_the_cluster_that_is_there():
    import ray

    with cluster.connect():
        assert ray.is_initialized()
    assert ray.is_initialized()  # who found it running leaves it running


def test_importing_the_package_does_not_import_ray():
    code = "import sys, infra.cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
