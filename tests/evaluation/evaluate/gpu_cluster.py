"""Evaluate on a cluster which a node with a GPU joins while it waits; print where each evaluation ran as JSON.

A process of its own, since a process has one Ray cluster only. The GPU is declared, it need not be there.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import ray
from evaluate_where import Where
from ray.cluster_utils import Cluster

from evaluation import evaluate
from infra.run.context import Context
from infra.run.manifest import Artifact

MODEL, DATASET, EMBEDDINGS, OUT = sys.argv[1:]
number = itertools.count()


def facts(gpus: float) -> dict[str, object]:
    config = evaluate.Config(task=Where(dataset="seen"), gpus=gpus, bootstrap=1)
    places = {"model": MODEL, "dataset": DATASET, "embeddings": EMBEDDINGS}
    inputs = {name: Artifact.load(place) for name, place in places.items()}
    return evaluate.run(config, inputs, Context(f"{OUT}/{next(number)}")).facts


class Waiting(logging.Handler):
    """Notices that an evaluation says it waits."""

    seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "no node has 1 GPU: tasks wait for one that has; the most of one is 0 GPU" in record.getMessage():
            self.seen.set()


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
ray.init(address=cluster.address, log_to_driver=False)
logging.getLogger("infra.cluster.limits").addHandler(Waiting())
try:
    without = facts(0.0)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(facts, 1.0)
        said = Waiting.seen.wait(60)
        node = cluster.add_node(num_cpus=1, num_gpus=1)
        whole = waiting.result()
    report = {"said": said, "gpu_node": node.node_id, "with": [whole, facts(0.5)], "without": [without, facts(0.0)]}
finally:
    ray.shutdown()
    cluster.shutdown()
sys.stdout.write(json.dumps(report))
