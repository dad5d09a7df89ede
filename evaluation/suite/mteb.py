"""Results in the form in which mteb keeps them, a JSON object for each task (``mteb.results.TaskResult``).

``task_name``, ``dataset_revision``, ``mteb_version``, ``evaluation_time``, and ``scores`` with a list for each split,
whose entries have ``main_score``, ``hf_subset`` and ``languages`` beside the scores: ``eng-Latn``, by which mteb looks
for them. Nothing was evaluated by mteb, so its version is null, and so is the time, which would differ from run to run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from langcodes import Language
from langcodes.tag_parser import LanguageTagError

from evaluation.suite.config import Entry
from infra.errors import DataError
from infra.run.manifest import Artifact

__all__ = ["task_result"]

_BOUNDS = ("_low", "_high")


def task_result(name: str, entry: Entry, folders: Collection[str], evaluations: Sequence[Artifact]) -> dict[str, Any]:
    """The scores of the set ``name``, which lies in one of ``folders``, among ``evaluations``."""
    for artifact in evaluations:
        task = artifact.manifest.config["task"]
        if (task["split"], task["kind"]) == (entry.split, entry.task) and task["dataset"].strip("/") in folders:
            metrics = artifact.manifest.metrics
            scores = {metric: value for metric, value in metrics.items() if not metric.endswith(_BOUNDS)}
            dataset = artifact.manifest.identity.get("inputs", {}).get("dataset", "")
            found: dict[str, Any] = {**scores, "main_score": scores[entry.main.replace("@", "_at_")]}
            found |= {"hf_subset": "default", "languages": [_language(task.get("language", "en"))]}
            return {
                "dataset_revision": dataset[:40],
                "task_name": name,
                "mteb_version": None,
                "scores": {entry.split: [found]},
                "evaluation_time": None,
                "kg_co2_emissions": None,
            }
    raise DataError(f"set {name!r} was not scored", expected=f"{entry.task} of it")


def _language(code: str) -> str:
    """A language as mteb writes it, ISO 639-3 and ISO 15924: ``eng-Latn`` for ``en``. What is no language stays."""
    try:
        full = Language.get(code).maximize()
        return f"{full.to_alpha3()}-{full.script}"
    except (LanguageTagError, LookupError):
        return code
