"""The training stage: shards in, an open_clip model out. Light to import; the work is in :mod:`training.on_ray`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from training.checkpoint.manifests import FOLDER, complete, prune
from training.config import RECORD, Config

__all__ = ["Config", "run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Train on the inputs ``shards``, ``shards_...``, validating on the test sets of ``tests``; needs Ray.

    Raises Preempted if asked to stop (a checkpoint is saved first), DataError for unreadable or too many corrupt
    shards, StageFailed when workers died more than ``max_failures`` times without a new checkpoint.
    """
    from training.observe.figures import curves
    from training.on_ray import train

    if RECORD not in context.ledger.read([RECORD]):
        train(config, inputs, context)
    record = context.ledger.read([RECORD])[RECORD]
    history = [json.loads(line) for line in context.store.read("data/history.jsonl").splitlines()]
    context.figure("training", curves(history))
    # What was to be continued from is done with; what was to be kept for good stays beside the model.
    prune(context.store, config.checkpoint, newest=0)
    kept = [manifests[0] for manifests in complete(context.store)]
    if not kept:
        context.store.delete(FOLDER)
    return context.finish(
        [record],
        metrics={name: value for name, value in history[-1].items() if name != "samples"},
        facts={
            **{name: value for name, value in record.facts.items() if name != "funnel"},
            "main": "loss",
            "checkpoints": [{"samples": one.samples, "folder": one.folder, "scores": one.metrics} for one in kept],
        },
        funnel=record.funnel,
    )
