"""Schedule an evaluation on the cluster: one Ray task, on a node with the CPUs and GPUs it asks for."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.evaluate.config import Config
from infra.cluster import TENSORS, Limits, run_shards
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Run the task on ``dataset``, whose vectors are ``embeddings``.

    Writes the result as CLIP_benchmark JSON, the task's tables as ``data/{name}.parquet`` and its figures. The
    manifest's metrics have each value ``name`` with its bounds ``name_low`` and ``name_high``.
    """
    spec = (config, dict(inputs))
    limits = Limits(cpus=config.cpus, gpus=config.gpus, environment=TENSORS)
    (record,) = run_shards(context, [(config.task.dataset.replace("/", "_"), spec)], _work, limits)
    metrics: dict[str, float] = {}
    for name, interval in record.facts["metrics"].items():
        plain = name.replace("@", "_at_")  # MLflow takes no @ in a metric's name
        metrics |= {plain: interval["value"], f"{plain}_low": interval["low"], f"{plain}_high": interval["high"]}
    return context.finish([record], metrics=metrics, facts={k: v for k, v in record.facts.items() if k != "metrics"})


def _work(spec: tuple[Config, Mapping[str, Artifact]], output: ShardOutput) -> ShardRecord:
    from evaluation.evaluate.work import evaluate  # loads torch

    return evaluate(*spec, output)
