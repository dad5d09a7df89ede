"""Manifests of a run's checkpoints: reading them, choosing the newest complete one, and those to keep.

A checkpoint counts when there is a manifest of every rank, and all are of one attempt; a rank's manifest is written
after its files. No torch here: ``clipline plan`` reads progress from it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.formats.architecture import CONFIG

if TYPE_CHECKING:
    from infra.store import Store
    from training.config import Checkpoint

__all__ = ["CONFIG", "FOLDER", "MODEL", "RankManifest", "complete", "drop", "newest", "progress", "prune"]

FOLDER = "checkpoints"
MODEL = "open_clip_model.safetensors"
_MANIFEST = re.compile(r"/\d{5,}-of-\d{5,}\.json$")


@dataclass
class RankManifest:
    """Record that a rank has written its part of a checkpoint. Rank 0's also says what the checkpoint is of.

    ``total``: samples that the whole run sees; 0 if unknown.
    """

    samples: int
    attempt: str  # of the training that wrote it: parts of two attempts do not make a whole
    rank: int
    size: int
    identity: dict[str, Any] = field(default_factory=dict)
    total: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name: bytes, sha256
    extras: Any = None  # with the paths of tensors in the places of tensors

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.samples:012d}"

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.rank:05d}-of-{self.size:05d}.json"

    def to_bytes(self) -> bytes:
        return json.dumps(vars(self), indent=1).encode()


def complete(store: Store) -> list[list[RankManifest]]:
    """The manifests of each checkpoint that has one from every rank, by rank; oldest first."""
    folders: dict[str, list[str]] = {}
    for path in store.paths(FOLDER):
        if _MANIFEST.search(path):
            folders.setdefault(path.rpartition("/")[0], []).append(path)
    found = []
    for _, paths in sorted(folders.items()):
        parts = [RankManifest(**json.loads(data)) for data in store.read_all(sorted(paths))]
        first = parts[0]
        whole = [part for part in parts if (part.attempt, part.size) == (first.attempt, first.size)]
        if [part.rank for part in whole] == list(range(first.size)):
            found.append(whole)
    return found


def progress(store: Store) -> tuple[int, int] | None:
    """Samples seen at the newest checkpoint, and by the whole run (0 if unknown); None without a checkpoint."""
    found = complete(store)
    return (found[-1][0].samples, found[-1][0].total) if found else None


def newest(store: Store) -> int:
    """Samples seen at the newest checkpoint; -1 if there is none."""
    found = complete(store)
    return found[-1][0].samples if found else -1


def prune(store: Store, keep: Checkpoint, newest: int | None = None) -> None:
    """Delete the checkpoints that ``keep`` does not ask for: the newest ones, the first after each multiple of
    ``keep_every`` samples, and the ``keep_best`` best by ``best_metric`` (less is better if it has ``loss`` in its
    name). ``newest`` replaces ``keep.keep``."""
    newest = keep.keep if newest is None else newest
    every, best, metric = keep.keep_every, keep.keep_best, keep.best_metric
    found = [parts[0] for parts in complete(store)]
    kept = {part.samples for part in found[len(found) - newest :]} if newest else set()
    if every is not None:
        firsts: dict[int, int] = {}
        for part in found:
            firsts.setdefault(part.samples // every, part.samples)
        kept |= {samples for multiple, samples in firsts.items() if multiple}
    sign = 1 if "loss" in metric else -1
    rated = sorted((sign * part.metrics[metric], part.samples) for part in found if metric in part.metrics)
    kept |= {samples for _, samples in rated[:best]}
    for part in found:
        if part.samples not in kept:
            drop(store, part.folder)


def drop(store: Store, folder: str) -> None:
    """Delete a checkpoint, its manifests first."""
    for path in store.paths(folder):
        if path.rpartition("/")[2].startswith("00000-of-"):
            store.delete(path)  # first, so that who dies here leaves nothing that looks whole
    store.delete(folder)
