"""A driver with a cluster of its own: nodes come and go while it trains. ``python nodes.py PLAN SHARDS OUTPUT CONFIG``

Prints a line of JSON per event of the training, with what was done to it in between, and the manifest at the end.
A plan is a list of ``[samples, action]``: when that many samples have been logged, the training is held where it is
until the action has hit it. Actions: ``kill`` the worker that speaks, ``lose`` a node, ``add`` a node.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infra.events import Event

os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
for name, value in {"health_check_period_ms": "500", "health_check_failure_threshold": "3"}.items():
    os.environ.setdefault(f"RAY_{name}", value)  # a silent node is given up after two seconds instead of twenty


def main(plan: str, shards: str, output: str, config: str) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from infra.run.context import Context
    from infra.run.manifest import Artifact, File, Manifest
    from training import train

    journal, acts, todo = Path(f"{output}.journal"), Path(f"{output}.acts"), json.loads(plan)
    journal.touch()
    acts.mkdir()
    settings = train.Config.model_validate_json(config)
    _, most = settings.cluster.range
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(most)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", namespace="clipline")

    def emit(event: Event) -> None:  # runs in the workers, to which it travels by value
        line = {**event.to_json(), "pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}
        with journal.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if next_act(line) is not None:
            threading.Event().wait(120)  # until it is hit

    def next_act(event: dict[str, Any]) -> str | None:
        """What is to happen now; each thing happens once."""
        samples, action = (*todo, (float("inf"), None))[len(list(acts.iterdir()))]
        return action if event["event"] == "metrics" and event["step"] >= samples else None

    def act(action: str, line: dict[str, Any]) -> None:
        (acts / str(len(list(acts.iterdir())))).touch()
        if action == "kill":
            os.kill(line["pid"], signal.SIGKILL)
        elif action == "lose":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=1))
        say({"event": action, "time": time.time()})

    def say(event: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    def follow(training: Future[Manifest]) -> None:
        place = 0
        while not training.done() or place < journal.stat().st_size:
            time.sleep(0.02)
            with journal.open("rb") as file:
                file.seek(place)
                whole = file.read().rpartition(b"\n")
            place += len(whole[0]) + len(whole[1])
            for line in map(json.loads, whole[0].splitlines()):
                say(line)
                if (action := next_act(line)) is not None:
                    act(action, line)

    paths = sorted(path.relative_to(shards).as_posix() for path in Path(shards).rglob("*.tar"))
    files = [File(path=path, bytes=(Path(shards) / path).stat().st_size, sha256="") for path in paths]
    shard = Artifact(shards, Manifest(stage="shard", digest="0" * 64, identity={}, files=files))
    context = Context(output, stage="train", emit=emit)
    with ThreadPoolExecutor(1) as pool:  # nodes can be added by the main thread only
        training = pool.submit(train.run, settings, {"shards": shard}, context)
        follow(training)
    say({"event": "manifest", "manifest": json.loads(training.result().to_bytes())})
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
