"""Nodes are lost and come back during training, and the result is the same."""

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
import torch

from infra.run.context import Context
from infra.store import LocalStore
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train
from training.train import Config

pytestmark = pytest.mark.ray

DRIVER = Path(__file__).parents[1] / "faults/nodes.py"


@pytest.mark.slow  # a minute and more: nodes, workers and Ray's 20 s to learn what a cluster has
def test_a_node_is_lost_and_another_comes(shards, tmp_path):
    from small_data import MODEL

    config = Config(
        model=MODEL,
        batch_size=8,
        samples=240,
        optimizer={"lr": 1e-3},
        log_every=40,
        checkpoint={"every": 40},
        cluster={"workers": (1, 2), "grow_after_s": 1},
    )
    store = LocalStore(shards)
    tars = Shards(store, store.paths("data/train"))
    train(config, Inputs({"shards": tars}), Context(tmp_path / "calm"), World(device=torch.device("cpu")))
    expected = [json.loads(line) for line in (tmp_path / "calm/data/history.jsonl").read_text().splitlines()]

    plan = json.dumps([[80, "lose"], [160, "add"]])
    command = [sys.executable, "-W", "ignore", DRIVER, plan, shards, tmp_path / "out", config.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    starts = [(event["samples"], event["workers"]) for event in events if event["event"] == "train_start"]
    # On a busy machine Ray may take a node for lost once more.
    assert [workers for workers, _ in groupby(workers for _, workers in starts)] == [2, 1, 2]
    assert starts[0][0] == 0 < starts[1][0] <= 80 < starts[2][0] <= 160
    history = [json.loads(line) for line in (tmp_path / "out/data/history.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in history] == [line["samples"] for line in expected]
    assert [line["loss"] for line in history] == pytest.approx([line["loss"] for line in expected], rel=1e-6)


NOTICE = """
import time
import ray
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from training.worker import draining

@ray.remote(num_cpus=1)
class Busy:  # a node with nothing to do is gone at once
    def here(self):
        return True

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1).node_id
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
busy = Busy.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
assert ray.get(busy.here.remote())
assert not draining({node})
gcs, reason = ray._raylet.GcsClient(address=cluster.gcs_address), DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
assert gcs.drain_node(node, reason, "spot instance", int((time.time() + 60) * 1000))[0]
assert draining({node, "another"})
assert not draining({cluster.head_node.node_id})
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow  # a cluster of its own
def test_the_notice_of_a_spot_instance_is_heard():
    command = [sys.executable, "-W", "ignore", "-c", NOTICE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
