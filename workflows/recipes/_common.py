"""Parts that several recipes share: the way from downloaded images to an evaluated model, and how it is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import embed, evaluate
from evaluation.tasks import Retrieval, Task, ZeroShot
from infra.cluster import Limits
from infra.errors import UsageError
from pipelines import adopt
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter import rules
from pipelines.formats.archives import LISTS, listed, with_prefix
from pipelines.web import Web
from training import train
from workflows.stage import Gate, Stage, Workflow

__all__ = ["adopted", "archives", "evaluations", "http_client", "named_sets", "scored", "to_model", "with_inputs"]

_HOLDOUT = 0.1  # share of the images kept from training, to validate and evaluate on
_RECALL = {"retrieval.image_retrieval_recall_at_5": 0.5}  # from which the model is registered in MLflow


def adopted(name: str, paths: Sequence[str], contents: adopt.Contents) -> dict[str, Stage]:
    """A stage for each of ``paths`` that adopts it, by the names ``name``, ``name_2``, ..., for a repeated input."""
    names = [f"{name}_{number}" if number > 1 else name for number in range(1, len(paths) + 1)]
    return {
        name: Stage(name, adopt.run, adopt.Config(path=path, contents=contents))
        for name, path in zip(names, paths, strict=True)
    }


def archives(paths: Sequence[str], prefix: str, max_files: int | None) -> dict[str, Stage]:
    """Stages that adopt WARC and WAT files, and lists of them, as inputs of extract.

    ``prefix``: a folder or URL of relative paths, given and listed. What a list on this machine names on this machine
    is adopted as it is.
    """
    places = [with_prefix(path, prefix) for path in paths]
    lists = [place for place in places if place.endswith(LISTS)]
    stages = adopted("pages", [place for place in places if place not in lists], adopt.Archives(max_files=max_files))
    remote = []
    for place in lists:
        names = listed(Path(place).read_bytes(), prefix)[:max_files] if _is_file(place) else []
        if not names or any("://" in name for name in names):
            remote.append(place)
            continue
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
        contents = adopt.Archives(names=[os.path.relpath(name, folder) for name in names])
        name = f"pages_{len(stages) + 1}" if stages else "pages"
        stages[name] = Stage(name, adopt.run, adopt.Config(path=folder, contents=contents))
    return stages | adopted("archive_list", remote, adopt.ArchiveList())


def _is_file(place: str) -> bool:
    return "://" not in place and Path(place).is_file()


def evaluations(
    classification: Sequence[str],
    captions: Sequence[str],
    inputs: Mapping[str, Stage],
    *,
    split: str = "test",
    **options: Any,  # noqa: ANN401 - of scored
) -> list[Stage]:
    """The stages that evaluate: one for each test set, with classes or with captions, by :func:`scored`."""
    tasks: dict[str, Task] = {f"zeroshot_{name}": ZeroShot(dataset=name, split=split) for name in classification}
    tasks |= {f"retrieval_{name}": Retrieval(dataset=name, split=split) for name in captions}
    return scored(tasks, inputs, **options)


def named_sets(tests: str | None, classification: Sequence[str] | None, captions: Sequence[str] | None) -> list[str]:
    """The names of the test sets of both kinds. Raises UsageError where their folder is missing, or their names."""
    sets = [*(classification or ()), *(captions or ())]
    if sets and not tests:
        raise UsageError(f"the folder of the test sets {', '.join(sets)} is missing", fix="--set tests=FOLDER")
    if tests and not sets:
        raise UsageError(
            f"none of the test sets at {tests} is named",
            fix=f"--set classification=NAME or --set captions=NAME; clipline tasks {tests} lists them",
        )
    return sets


def scored(
    tasks: Mapping[str, Task],
    inputs: Mapping[str, Stage],
    *,
    ending: str = "",
    model: str | None = None,
    pretrained: str | None = None,
    batch_size: int = 64,
    gpus: float = 0,
    long_captions: str | Mapping[str, Any] = "cut",
    **fields: Any,  # noqa: ANN401 - of evaluate's Config
) -> list[Stage]:
    """The stages that run ``tasks``, by their names.

    Each set is embedded once, by a stage of its own that any number of tasks share, and once more for those that see it
    under corruptions; :func:`with_inputs` finds them. All are cached by themselves, and several run at once.
    ``ending``: of the stages' names, to tell several models apart.
    ``long_captions``, ``model``, ``pretrained``, ``batch_size`` and ``gpus``: of embed's configuration, and but for the
    first of evaluate's if it encodes; ``fields``: of evaluate's.
    """
    embedded: dict[str, Stage] = {}
    stages = []
    encoder = {"model": model, "pretrained": pretrained, "batch_size": batch_size}
    for name, task in tasks.items():
        seen = task.dataset, task.changes()
        sharing = {title: one for title, one in tasks.items() if (one.dataset, one.changes()) == seen}
        shared = next(iter(sharing)) if task.changes() else task.dataset
        if shared not in embedded:
            config = embed.Config(
                sets=(task.dataset,),
                splits=tuple(dict.fromkeys(split for one in sharing.values() for split in one.splits())),
                corruptions=task.changes(),
                limits=Limits(gpus=gpus),
                long_captions=long_captions,
                **encoder,
            )
            title = f"embed_{shared}{ending}".replace("/", "_")
            given = {name: stage for name, stage in inputs.items() if name in embed.Config.inputs}
            embedded[shared] = Stage(title, embed.run, config, given)
        both = {"dataset": inputs["dataset"], "embeddings": embedded[shared]}
        taken = {name: inputs[name] for name in task.takes if name in inputs}
        # What the vectors do not have needs the model again: texts of the task, prompts in files, a fusion encoder.
        again = {**encoder, "gpus": gpus} if taken or "model" in task.inputs() else {}
        both |= taken | ({"model": inputs["model"]} if again and "model" in inputs else {})
        title = f"{name}{ending}".replace("/", "_")
        stages.append(Stage(title, evaluate.run, evaluate.Config(task=task, **again, **fields), both))
    return stages


def with_inputs(*stages: Stage) -> tuple[Stage, ...]:
    """``stages`` and all that they need, each behind its inputs."""
    found: dict[int, Stage] = {}

    def add(stage: Stage) -> None:
        for source in stage.inputs.values():
            if id(source) not in found:
                add(source)
        found[id(stage)] = stage

    for stage in stages:
        add(stage)
    return tuple(found.values())


def http_client(
    fields: Mapping[str, Any] | None,
    *,
    contact: str,
    allow_private: Sequence[str] | None,
    connect_to: Mapping[str, str] | None,
) -> Web:
    """The HTTP client that all stages of a recipe share: those of its fields that are parameters, and any others."""
    named = {"contact": contact, "allow_private": allow_private, "connect_to": connect_to}
    return Web(**{name: value for name, value in named.items() if value}, **(fields or {}))


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
    what is trained on; ``training``: model, samples, batch_size, workers, gpu and seed of the training stage, a tenth
    of the samples as warm-up and ten validations.
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
        seed=training["seed"],
        schedule={"warmup": samples // 10},
        validation={"sets": ("holdout",), "every": max(1, samples // 10)},
        cluster={"workers": training["workers"], "gpu": training["gpu"]},
    )
    trained = Stage("train", train.run, train_config, {"shards": shards, "tests": shards})
    both = {"model": trained, "dataset": shards}
    embedded = Stage("embed", embed.run, embed.Config(sets=("holdout",)), both)
    evaluate_config = evaluate.Config(task=Retrieval(dataset="holdout"))
    evaluated = Stage("retrieval", evaluate.run, evaluate_config, {"dataset": shards, "embeddings": embedded})

    stages = (*before, filtered, deduplicated, balanced, shards, trained, embedded, evaluated)
    return Workflow(name, stages, gate=Gate("train", name, _RECALL))
