"""Find and remove what below a root nothing needs any more.

Needed is what a kept run or a registered model was made from, as the manifests' inputs say. The rest is an *orphan* (a
finished artifact), *abandoned* (an unfinished one) or *leftovers* (files of killed attempts in a finished artifact).

A run may begin at any moment and need what is about to go. So whoever removes an artifact takes its lease first and
then reads the runs once more; whoever runs records the run first and then looks for such leases (:func:`settled`). One
of the two sees the other.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

from infra.errors import LeaseHeld, LeaseLost
from infra.run.lease import Lease, current_claim, holder
from infra.run.manifest import MANIFEST, Artifact
from infra.store import Store
from infra.store.base import TEMP_PREFIX
from workflows.run.journal import Journal
from workflows.run.plan import Plan, make_plan
from workflows.run.records import RunRecord, find_run, list_runs
from workflows.run.tracked import registered_models

__all__ = ["Item", "Rules", "Survey", "reclaim", "settled", "survey"]

_AT_ONCE = 16
_SCRATCH = ("exchange/", "scratch/")  # rows on their way; of no use once the manifest is written
_RESULTS = ("data/", "figures/")  # every file there is in the manifest, or is of an attempt that was killed


@dataclass(frozen=True)
class Rules:
    """Runs to keep: by name, and those with an event in the last ``older_than_s`` seconds; None: all."""

    keep: tuple[str, ...] = ()
    older_than_s: float | None = None


@dataclass(frozen=True)
class Item:
    """An artifact, or some files of it, and what is to become of it."""

    folder: str
    state: Literal["orphan", "abandoned", "leftovers", "held", "kept"]
    files: int
    bytes: int
    why: str = ""
    paths: tuple[str, ...] = ()  # of leftovers

    @property
    def due(self) -> bool:
        return self.state in ("orphan", "abandoned", "leftovers")

    @property
    def name(self) -> str:
        return self.folder.removeprefix("artifacts/")


@dataclass(frozen=True)
class Survey:
    items: tuple[Item, ...]
    let_go: tuple[str, ...]  # names of the runs that are too old to keep anything

    def of(self, *states: str) -> list[Item]:
        return [item for item in self.items if item.state in states]

    @property
    def due(self) -> list[Item]:
        """The items that can be removed, the largest first."""
        return sorted((item for item in self.items if item.due), key=lambda item: (-item.bytes, item.folder))


def survey(root: Store, rules: Rules) -> Survey:
    """Look at every artifact below ``root``; nothing is written.

    Raises UsageError for a run to keep that is not there, StorageError if MLflow cannot be asked.
    """
    folders = _folders(root)  # before the runs: one that begins now is on record before it makes a folder
    models = registered_models(root, list_runs(root))
    needed, let_go = _needed(root, rules, folders, models)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda folder: list(_judge(root, folder, needed.get(folder))), folders)
        return Survey(tuple(item for items in found for item in items), tuple(let_go))


def reclaim(root: Store, rules: Rules, due: Iterable[Item]) -> Iterator[tuple[Item, str]]:
    """Remove what is due; each item with "", or with the reason for which it stays after all."""
    items = list(due)
    models = registered_models(root, list_runs(root))
    for start in range(0, len(items), _AT_ONCE):
        some = items[start : start + _AT_ONCE]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            leases = list(pool.map(lambda item: _lease(root, item), some))
            needed, _ = _needed(root, rules, _folders(root), models)
            yield from zip(some, pool.map(_remove, repeat(root), some, leases, repeat(needed)), strict=True)


def settled(plan: Plan, root: Store) -> Plan:
    """The plan of a run that is on record now: what was being removed when it was made is due.

    Raises LeaseHeld while :func:`reclaim` is at one of its cached stages.
    """
    changed = False
    for step in plan:
        if step.action != "cached":
            continue
        folder = root.child(step.stage.folder)
        if (claim := current_claim(folder)) and claim.reclaims:
            Lease.acquire(folder).release()
        changed = changed or not folder.exists(MANIFEST)
    return make_plan(plan.workflow, root, plan.selection) if changed else plan


# --- what is needed


def _folders(root: Store) -> list[str]:
    stages = [f"artifacts/{stage}" for stage in root.folders("artifacts")]
    return [f"{stage}/{name}" for stage in stages for name in root.folders(stage)]


def _needed(
    root: Store, rules: Rules, folders: Collection[str], models: dict[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The user of each folder that is needed, by folder, and the names of the runs that keep nothing."""
    records = [RunRecord.load(root, run) for run in list_runs(root)]
    named = {find_run(root, name).run for name in rules.keep}
    let_go = [one.run for one in records if one.run not in named and not _recent(root, one, rules.older_than_s)]
    by_digest = {folder.rpartition("/")[2]: folder for folder in folders}
    needed = {stage.folder: f"run {one.run}" for one in records if one.run not in let_go for stage in one.stages}
    needed |= {by_digest[digest[:16]]: f"model {name}" for digest, name in models.items() if digest[:16] in by_digest}
    todo = [folder for folder in needed if folder in folders]
    while todo:
        folder = todo.pop()
        artifact = Artifact.find(root.child(folder))
        for digest in artifact.manifest.identity.get("inputs", {}).values() if artifact else ():
            source = by_digest.get(digest[:16])
            if source and source not in needed:
                needed[source] = needed[folder]
                todo.append(source)
    return needed, let_go


def _recent(root: Store, record: RunRecord, older_than_s: float | None) -> bool:
    """True if something happened in the run not so long ago, or happens now."""
    if older_than_s is None:
        return True
    last = max([record.started, *(event.time for event in Journal(root.child(f"runs/{record.run}")).read()[0][-1:])])
    if time.time() - last < older_than_s:
        return True
    return any(current_claim(root.child(stage.folder)) for stage in record.stages)


# --- what can go


def _judge(root: Store, folder: str, needed: str | None) -> Iterator[Item]:
    store = root.child(folder)
    artifact = Artifact.find(store)
    sizes = store.sizes()
    if needed is None:
        if owner := holder(store):
            yield _item(folder, "held", sizes, str(owner))
        elif artifact:
            yield _item(folder, "orphan", sizes, "no kept run and no registered model needs it")
        else:
            yield _item(folder, "abandoned", sizes, "unfinished, and no kept run needs it")
        return
    left = _leftovers(artifact, sizes) if artifact else {}
    if left and not holder(store):
        why = "of killed attempts; its manifest names none of them"
        yield Item(folder, "leftovers", len(left), sum(left.values()), why, tuple(left))
        sizes = {path: size for path, size in sizes.items() if path not in left}
    yield _item(folder, "kept", sizes, needed)


def _item(folder: str, state: Literal["orphan", "abandoned", "held", "kept"], sizes: dict[str, int], why: str) -> Item:
    return Item(folder, state, len(sizes), sum(sizes.values()), why)


def _leftovers(artifact: Artifact, sizes: dict[str, int]) -> dict[str, int]:
    """Files of a finished artifact that nothing reads: temporary ones, exchanged rows, results not in its manifest."""
    suspects = {
        path: size
        for path, size in sizes.items()
        if path.rpartition("/")[2].startswith(TEMP_PREFIX) or path.startswith((*_SCRATCH, *_RESULTS))
    }
    if suspects and artifact.manifest.location is None:
        for file in artifact.each_file():
            suspects.pop(file.path, None)
    return suspects


def _lease(root: Store, item: Item) -> Lease | str:
    """The lease of the item's artifact, or who holds it."""
    try:
        return Lease.acquire(root.child(item.folder), reclaims=True)
    except LeaseHeld as held:
        return held.found


def _remove(root: Store, item: Item, lease: Lease | str, needed: dict[str, str]) -> str:
    """Remove the item; the reason for which it stays, if it does."""
    if isinstance(lease, str):
        return f"held by {lease}"
    store = root.child(item.folder)
    try:
        if item.state == "leftovers":
            artifact = Artifact.find(store)
            store.delete_all(list(_leftovers(artifact, store.sizes())) if artifact else [])
        elif item.folder in needed:
            return f"{needed[item.folder]} needs it meanwhile"
        else:
            _remove_all(store, lease)
            root.delete(item.folder)
    except LeaseLost as lost:
        return lost.message
    finally:
        if root.folders(item.folder):
            lease.release()
    return ""


def _remove_all(store: Store, lease: Lease) -> None:
    """Empty an artifact's folder. What dies here leaves an unfinished artifact, which the next survey finds."""
    lease.check()
    store.delete(MANIFEST)
    for path in sorted({path.partition("/")[0] for path in store.sizes()} - {"lease"}):
        lease.check()
        store.delete(path)
    lease.end()
