"""Compare the packages of every node of a cluster with those of the machine that submitted the run."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workflows.submit.versions import differences

__all__ = ["differing_nodes"]

_TIMEOUT_S = 60.0  # for a node's first worker to start


def differing_nodes(wanted: dict[str, Any], timeout_s: float = _TIMEOUT_S) -> dict[str, list[str]]:
    """Differences to ``wanted`` by node, for each that has some. Nodes that come later are not asked.

    ``wanted``: what :func:`~workflows.submit.versions.installed` gave elsewhere. Ray has to be connected.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(differences)
    asked = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=there).remote(wanted)] = node
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
    found = {}
    for answer, node in asked.items():
        if answer in answered:
            differ = _result(answer)
        else:
            differ = [f"no answer within {timeout_s:g} s: Ray needs the same Python and Ray on all nodes"]
        if differ:
            found[f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"] = differ
    return found


def _result(answer: Any) -> list[str]:  # noqa: ANN401 - a reference of Ray's
    try:
        found: list[str] = ray.get(answer)
    except RayError as error:
        return [f"cannot run a task: {str(error).strip().splitlines()[-1]}"]
    return found
