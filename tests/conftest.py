"""Shared fixtures. Ray is started once for the whole session, only if a test asks for it."""

from __future__ import annotations

import os

import hypothesis
import pytest

from infra import cluster

# Time limits per example say more about the machine than about the code.
hypothesis.settings.register_profile("clipline", deadline=None)
hypothesis.settings.load_profile("clipline")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two torch threads on two busy cores run slower than one
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
for name, value in cluster.ALONE.items():  # a test may import Ray before anybody connects
    os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray cluster of two CPUs."""
    with cluster.connect(cpus=2):
        yield
