"""The worst errors of a run's evaluations: images that were surely taken for another class, answers ranked last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.formats.vectors import vector_shards
from infra.run.manifest import Artifact
from infra.store import Store
from workflows.run.look.search import artifact_of, test_images

__all__ = ["Errors", "Mistake", "errors_of"]

_TABLES = {
    "predictions": "taken for another class, the surest first",
    "text_queries": "captions that do not find their image first, the worst first",
    "image_queries": "images that do not find their caption first, the worst first",
}
"""The tables of evaluations that have a row per query, and what their errors are."""


@dataclass(frozen=True)
class Mistake:
    """An image and what went wrong with it; ``note`` says how wrong."""

    uid: str
    right: str  # the true class, or a caption
    note: str
    image: bytes | None  # encoded, as it is stored


@dataclass(frozen=True)
class Errors:
    """Errors of one kind in an evaluation: ``wrong`` of ``queries``, and the worst of them."""

    evaluation: str
    title: str
    wrong: int
    queries: int
    worst: tuple[Mistake, ...]


def errors_of(root: Store, artifacts: Sequence[Artifact], most: int) -> list[Errors]:
    """The ``most`` worst errors of each kind in each evaluation among ``artifacts``.

    Raises UsageError if what an evaluation was made of is not below ``root``.
    """
    return [
        found
        for artifact in artifacts
        for table, title in _TABLES.items()
        if "task" in artifact.manifest.config and artifact.files(f"data/{table}.parquet")
        for found in _errors(root, artifact, table, title, most)
    ]


def _errors(root: Store, artifact: Artifact, table: str, title: str, most: int) -> Iterator[Errors]:
    with artifact.store.open(f"data/{table}.parquet") as file:
        rows = pq.read_table(file).to_pydict()
    wrong, badness = _classes(rows) if table == "predictions" else _ranks(rows)
    if not wrong.any():
        return
    places = np.flatnonzero(wrong)
    worst = places[np.argsort(-badness[places], kind="stable")][:most].tolist()
    inputs, task = artifact.manifest.identity["inputs"], artifact.manifest.config["task"]
    embeddings, dataset = artifact_of(root, inputs["embeddings"]), artifact_of(root, inputs["dataset"])
    known = _located(embeddings, f"{task['dataset']}/{task['split']}/", {rows["key"][place] for place in worst})
    wanted = [known[rows["key"][place]] for place in worst]
    images = test_images(embeddings, dataset, wanted)
    yield Errors(
        evaluation=artifact.manifest.name,
        title=title,
        wrong=len(places),
        queries=len(wrong),
        worst=tuple(
            Mistake(rows["key"][place], _right(rows, place, row), _note(rows, table, place), image)
            for place, (_, row), image in zip(worst, wanted, images, strict=True)
        ),
    )


def _classes(rows: Mapping[str, Sequence[Any]]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Mask of the wrong rows, and the model's confidence in the class it named."""
    true, named = ("label", "predicted") if "label" in rows else ("class", "predicted_class")
    wrong = np.asarray(rows[true]) != np.asarray(rows[named])
    return wrong, np.asarray(rows.get("confidence", np.zeros(len(wrong))), np.float64)


def _ranks(rows: Mapping[str, Sequence[Any]]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Mask of the queries with a wrong answer above the right one, and the number of such answers."""
    better = np.asarray(rows["better"], np.float64)
    return better > 0, better


def _right(rows: Mapping[str, Sequence[Any]], place: int, row: Mapping[str, Any]) -> str:
    """The true class or the caption; for an image that asks, the first of its captions."""
    for column in ("class", "caption"):
        if column in rows:
            return str(rows[column][place])
    return next(iter(row["texts"]), "")


def _note(rows: Mapping[str, Sequence[Any]], table: str, place: int) -> str:
    if table != "predictions":
        return f"{rows['better'][place]:,} wrong answers come first"
    sure = f", {rows['confidence'][place]:.0%} sure" if "confidence" in rows else ""
    return f"taken for {rows['predicted_class'][place]}{sure}"


def _located(embeddings: Artifact, under: str, keys: set[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """The shard and the row of each sample, by its key."""
    found = {}
    for shard in vector_shards(embeddings):
        if shard.startswith(under) and not shard.endswith("/classes"):
            with embeddings.store.open(f"data/{shard}.parquet") as file:
                for row in pq.read_table(file, columns=["uid", "texts"]).to_pylist():
                    if row["uid"] in keys:
                        found[row["uid"]] = shard, row
    return found
