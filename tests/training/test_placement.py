"""What a training worker takes, and where: as Ray Train is told."""

from __future__ import annotations

import pytest

from infra.errors import ConfigError
from training.config import Cluster
from training.on_ray import _scaling


def test_ray_is_told_what_a_worker_takes_and_where():
    cluster = Cluster(
        workers=4, gpu=True, cpus_per_worker=8, memory_gb=64, resources={"nic": 1}, labels={"zone": "a"},
        placement="SPREAD",
    )  # fmt: skip
    scaling = _scaling(cluster)
    assert (scaling.num_workers, scaling.use_gpu, scaling.placement_strategy) == (4, True, "SPREAD")
    assert scaling.resources_per_worker == {"CPU": 8, "GPU": 1, "memory": 64e9, "nic": 1}
    assert scaling.label_selector == {"zone": "a"}


def test_the_default_asks_for_cores_alone():
    scaling = _scaling(Cluster(workers=(1, 3), grow_after_s=7))
    assert (scaling.num_workers, scaling.elastic_resize_monitor_interval_s) == ((1, 3), 7)
    assert (scaling.resources_per_worker, scaling.placement_strategy) == ({"CPU": 1}, "PACK")
    assert scaling.label_selector is None


def test_placement_is_one_of_rays():
    with pytest.raises(ConfigError, match="placement"):
        Cluster(placement="NEAR")
