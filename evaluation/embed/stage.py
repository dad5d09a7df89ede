"""Schedule the pass: shards of test sets and the prompts of their classes, several to a task that loads the model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from evaluation.embed.config import Config, Part
from infra.cluster import TENSORS, run_batches, slots
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord

__all__ = ["run"]

log = logging.getLogger(__name__)

_MOST = 64  # shards of a task


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Encode ``dataset`` by ``model``.

    For each set and split ``data/{set}/{split}/{shard}.parquet`` and ``.npz`` with float16 vectors of images and
    captions, in DataComp's form; for each set with classes ``data/{set}/classes.npz`` with a vector for each. A split
    under a corruption is named as one more, ``{split}@{corruption}-{severity}``.
    """
    config.check_model(inputs.get("model"))
    limits = replace(config.limits, environment={**TENSORS, **config.limits.environment})
    sets = [EvalSet.open(inputs["dataset"], name, split) for name in config.sets for split in config.splits]
    parts = [
        Part(examples.alone(shard), shard, change)
        for examples in sets
        for shard in examples.parts
        for change in (config.changes(examples.name) if examples.pictured else (None,))
    ]
    classes = {examples.name: Part(examples.alone(None), None) for examples in sets if examples.classes}
    specs = [(part.name.replace("/", "-"), part) for part in (*parts, *classes.values())]

    size = min(_MOST, -(-len(specs) // slots(limits))) or 1
    records = run_batches(context, specs, partial(_work, config, inputs.get("model")), limits, size=size)
    counts = {f"{examples.name}/{examples.split}": 0 for examples in sets}
    beyond: Counter[str] = Counter()
    for record, (_, part) in zip(records, specs, strict=True):
        if part.change is None:
            counts[f"{part.examples.name}/{part.split}"] += record.facts.get("images", 0)
            texts = f"prompts of {part.examples.name}" if part.shard is None else f"{part.examples.name}/{part.split}"
            beyond[texts] += record.facts["beyond_context"]
    if empty := [name for name, images in counts.items() if not images]:
        raise DataError(f"test set {empty[0]!r} is empty", expected="at least one sample")
    _warn(config, beyond)
    facts = {"images": counts, "beyond_context": dict(beyond), **_named(config, inputs.get("model"))}
    scales = {record.facts["logit_scale"] for record in records}
    return context.finish(records, facts={**facts, "logit_scale": max(scales)})


def _warn(config: Config, beyond: Mapping[str, int]) -> None:
    """Say how many texts the model's context is too short for."""
    for texts, count in beyond.items():
        treated = "cut" if texts.startswith("prompts of ") else config.long_captions.kind
        if count:
            log.warning("%s: %d texts are longer than the model's context (%s)", texts, count, treated)


def _work(config: Config, model: Artifact | None, batch: Sequence[tuple[Part, ShardOutput]]) -> Iterator[ShardRecord]:
    from evaluation.embed.work import embed  # loads torch

    return embed(config, model, batch)


def _named(config: Config, model: Artifact | None) -> dict[str, str]:
    """The model as results in CLIP_benchmark's form name it."""
    architecture = config.model or (model.manifest.config.get("model") if model else None)
    return {
        "model": architecture if isinstance(architecture, str) else "CLIP",
        "pretrained": f"{model.manifest.stage}-{model.manifest.digest[:12]}" if model else str(config.pretrained),
    }
