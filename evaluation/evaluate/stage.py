"""Schedule an evaluation on the cluster: one Ray task, on a node with the CPUs and GPUs it asks for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from evaluation.evaluate.config import Config
from infra.cluster import Limits, run_shards
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Evaluate ``model`` on ``dataset``.

    Writes the result as CLIP_benchmark JSON, the task's tables as ``data/{name}.parquet`` and its figures. The
    manifest's metrics have each value ``name`` with its bounds ``name_low`` and ``name_high``.
    """
    if config.gpus:
        _warn_if_no_gpu(config.gpus)
    spec = (config, dict(inputs))
    limits = Limits(cpus=config.cpus, gpus=config.gpus)
    (record,) = run_shards(context, [(config.task.dataset.replace("/", "_"), spec)], _work, limits)
    metrics: dict[str, float] = {}
    for name, interval in record.facts["metrics"].items():
        plain = name.replace("@", "_at_")  # MLflow takes no @ in a metric's name
        metrics |= {plain: interval["value"], f"{plain}_low": interval["low"], f"{plain}_high": interval["high"]}
    return context.finish([record], metrics=metrics, facts={k: v for k, v in record.facts.items() if k != "metrics"})


def _work(spec: tuple[Config, Mapping[str, Artifact]], output: ShardOutput) -> ShardRecord:
    from evaluation.evaluate.work import evaluate  # loads torch

    return evaluate(*spec, output)


def _warn_if_no_gpu(wanted: float) -> None:
    """Log why the task waits, if no node has the GPUs it asks for; one that joins later will run it."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    most = max((node["Resources"].get("GPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
    if most < wanted:
        log.warning("waiting for a node with %g GPU; the nodes there are have %g (gpus=0 runs on CPUs)", wanted, most)
