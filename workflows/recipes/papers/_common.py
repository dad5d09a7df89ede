"""Parts that the papers' recipes share: your shards and test sets around a paper's configuration of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infra.errors import UsageError
from pipelines import adopt
from training import train
from workflows.recipes._common import adopted, evaluations, with_inputs
from workflows.stage import Stage, Workflow

__all__ = ["scored", "trained_on"]


def trained_on(
    name: str,
    config: train.Config,
    shards: Sequence[str],
    *,
    tests: str | None,
    classification: Sequence[str] | None,
    captions: Sequence[str] | None,
) -> Workflow:
    """The workflow ``name``: adopt ``shards``, train by ``config``, score on the named sets below ``tests``."""
    trained = Stage("train", train.run, config, adopted("shards", list(shards), adopt.Shards()))
    return Workflow(name, scored(trained, tests, classification, captions))


def scored(
    trained: Stage, tests: str | None, classification: Sequence[str] | None, captions: Sequence[str] | None
) -> tuple[Stage, ...]:
    """The stage that trains, all before it, and those that score it by classes and by captions."""
    sets = (*(classification or ()), *(captions or ()))
    if sets and not tests:
        raise UsageError(f"the folder of the test sets {', '.join(sets)} is missing", fix="--set tests=FOLDER")
    both: Mapping[str, Stage] = {}
    if sets:
        config = adopt.Config(path=str(tests), contents=adopt.TestSets(sets=sets))
        both = {"model": trained, "dataset": Stage("tests", adopt.run, config)}
    return with_inputs(trained, *evaluations(classification or (), captions or (), both))
