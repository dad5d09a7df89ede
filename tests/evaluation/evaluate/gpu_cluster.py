"""Evaluate on a cluster of two nodes of which one has a GPU; print where each evaluation ran as JSON.

A process of its own, since a process has one Ray cluster only. The GPU is declared, it need not be there.
"""

from __future__ import annotations

import json
import sys

import ray
from evaluate_where import Where
from ray.cluster_utils import Cluster

from evaluation import evaluate
from infra.run.context import Context
from infra.run.manifest import Artifact

MODEL, DATASET, OUT = sys.argv[1:]


def facts(gpus: float) -> dict[str, object]:
    config = evaluate.Config(task=Where(dataset="seen"), gpus=gpus, bootstrap=1)
    inputs = {"model": Artifact.load(MODEL), "dataset": Artifact.load(DATASET)}
    return evaluate.run(config, inputs, Context(f"{OUT}/{gpus}")).facts


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
node = cluster.add_node(num_cpus=1, num_gpus=1)
ray.init(address=cluster.address, log_to_driver=False)
try:
    report = {"gpu_node": node.node_id, "with": [facts(1.0), facts(0.5)], "without": facts(0.0)}
finally:
    ray.shutdown()
    cluster.shutdown()
sys.stdout.write(json.dumps(report))
