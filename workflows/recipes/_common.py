"""Parts that several recipes share: the way from downloaded images to an evaluated model, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation import evaluate
from evaluation.tasks import Retrieval
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter import rules
from training import train
from workflows.stage import Gate, Stage, Workflow

__all__ = ["to_model"]

_HOLDOUT = 0.1  # share of the images kept from training, to validate and evaluate on
_RECALL = {"retrieval.image_retrieval_recall_at_5": 0.5}  # from which the model is registered in MLflow


def to_model(
    name: str,
    before: Sequence[Stage],
    images: Mapping[str, Stage],
    *,
    min_side: int,
    languages: Sequence[str] | None,
    training: Mapping[str, Any],
) -> Workflow:
    """The workflow ``name``: the stages ``before``, then curate the ``images``, train on them and evaluate.

    ``images`` are download stages by input name (``images``, ``images_more``, ...), all of them among ``before``. The
    model is validated and evaluated on images held out from training. ``min_side`` (pixels) and ``languages`` select
    what is trained on; ``training``: model, samples, batch_size, workers and gpu of the training stage, a tenth of the
    samples as warm-up and ten validations.
    """
    # Curate: what is worth training on, one row per image, no concept too often.
    language_rules = (rules.Language(languages=tuple(languages)),) if languages else ()
    image_rules = (rules.ImageSide(min=min_side), rules.ImageAspect())
    text_rules = (rules.TextJunk(), rules.TextLength(), rules.TextWords(), *language_rules)
    filtered = Stage("filter", filter.run, filter.Config(rules=(*image_rules, *text_rules)), images)
    deduplicated = Stage("dedup", dedup.run, dedup.Config(), {**images, "selection": filtered})
    balanced = Stage("balance", balance.run, balance.Config(), {"selection": deduplicated})
    shard_config = shard.Config(holdout_fraction=_HOLDOUT)
    shards = Stage("shard", shard.run, shard_config, {**images, "selection": balanced})

    # Train and evaluate.
    samples = training["samples"]
    train_config = train.Config(
        model=training["model"],
        samples=samples,
        batch_size=training["batch_size"],
        schedule={"warmup": samples // 10},
        validation={"sets": ("holdout",), "every": max(1, samples // 10)},
        cluster={"workers": training["workers"], "gpu": training["gpu"]},
    )
    trained = Stage("train", train.run, train_config, {"shards": shards, "tests": shards})
    evaluate_config = evaluate.Config(task=Retrieval(dataset="holdout"))
    evaluated = Stage("retrieval", evaluate.run, evaluate_config, {"model": trained, "dataset": shards})

    stages = (*before, filtered, deduplicated, balanced, shards, trained, evaluated)
    return Workflow(name, stages, gate=Gate("train", name, _RECALL))
