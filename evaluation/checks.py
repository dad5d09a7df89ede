"""Test sets in a folder, before anything runs: what they hold, what is broken, which tasks can measure them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.tasks import Task
from infra.errors import CliplineError, ConfigError, DataError
from infra.formats.testset import EvalSet, Form, SetFiles, find_sets
from infra.formats.testset.holdings import Holdings, read_holdings
from infra.store import Store, open_store
from infra.store.listing import absolute, listed

__all__ = ["SetReport", "check_folder", "reason_against", "sets_at"]

_Found = Mapping[tuple[str, str], tuple[Form, Sequence[str]]]


@dataclass(frozen=True)
class SetReport:
    """A split of a test set. ``refused``: why it cannot be used at all; ``against``: the same by task, "" if it can."""

    name: str
    split: str
    form: str
    refused: str = ""
    examples: EvalSet | None = None
    holds: Holdings = field(default_factory=Holdings)
    against: Mapping[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """True if an evaluation would read it to its end."""
        return not (self.refused or _stops(self.examples, self.holds)) and self.holds.images > 0

    @property
    def empty_classes(self) -> list[str]:
        """The classes of which no image is there."""
        classes = self.examples.classes if self.examples else ()
        return [name for label, name in enumerate(classes) if label not in self.holds.labels]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        examples = self.examples
        return {
            "set": self.name,
            "split": self.split,
            "form": self.form,
            "kind": examples.kind if examples else None,
            "refused": self.refused,
            "pictured": examples.pictured if examples else None,
            "images": self.holds.images,
            "with_pixels": self.holds.with_pixels if examples and examples.pictured else 0,
            "with_regions": self.holds.with_regions,
            "captions": self.holds.captions,
            "languages": dict(self.holds.languages.most_common()),
            "classes": len(examples.classes) if examples else 0,
            "classes_without_images": self.empty_classes,
            "templates": len(examples.templates) if examples else 0,
            "broken": dict(self.holds.broken.most_common()),
            "first_broken": self.holds.examples,
            "tasks": dict(self.against),
        }


def sets_at(place: str, *, splits: Sequence[str] = (), forms: Sequence[object] = ()) -> tuple[Store, _Found]:
    """The folder of sets, and the form and files of each, at ``place``: such a folder, or the folder of one set.

    ``splits`` and ``forms`` as of :func:`infra.formats.testset.find_sets`. Raises ConfigError if there is none.
    """
    folder, paths, _ = listed(absolute(place))
    above, _, name = folder.rpartition("/")
    alone = find_sets([f"{name}/{path}" for path in paths], splits, forms)
    if own := {key: found for key, found in alone.items() if key[0] == name}:
        return open_store(above or "/"), own
    if not (found := find_sets(paths, splits, forms)):
        shown = ", ".join(paths[:5]) or "nothing there"
        raise ConfigError(f"there is no test set at {place}", expected="a folder for each set", found=shown)
    return open_store(folder), found


def check_folder(place: str, *, decode: bool = True) -> Iterator[SetReport]:
    """Read every split of every set at ``place``. Raises ConfigError if there is none."""
    store, found = sets_at(place)
    for (name, split), (form, files) in found.items():
        splits = {other for there, other in found if there == name}
        try:
            examples = form.open(SetFiles.of(store, name, split, files))
        except CliplineError as error:
            yield SetReport(name, split, form.kind, str(error))
            continue
        holds = read_holdings(examples, decode=decode, threads=os.cpu_count() or 1)
        members = {kind: member for kind, member in sorted(Task.all_members().items()) if issubclass(member, Task)}
        against = {kind: _against(member, examples, splits, holds) for kind, member in members.items()}
        yield SetReport(name, split, form.kind, "", examples, holds, against)


def reason_against(task: Task, store: Store, found: _Found) -> str:
    """Reason why ``task`` cannot measure its set among those ``found`` in ``store``, or ""; reads no samples."""
    name = task.dataset.strip("/")
    splits = {split for there, split in found if there == name}
    if (name, task.split) not in found:
        known = ", ".join(sorted(f"{there}/{split}" for there, split in found))
        return f"there is no set {name} with split {task.split}; there are {known}"
    form, files = found[name, task.split]
    try:
        kind = form.open(SetFiles.of(store, name, task.split, files)).kind
    except DataError as error:
        return str(error)
    return task.lacking(kind, splits)


def _stops(examples: EvalSet | None, holds: Holdings) -> bool:
    """True if an evaluation stops at a broken sample, as it does unless the set leaves them out."""
    return bool(holds.broken) and (examples is None or examples.strict)


def _against(member: type[Task], examples: EvalSet, splits: Collection[str], holds: Holdings) -> str:
    """Why a task cannot measure the set; "" if it can."""
    if _stops(examples, holds) or not holds.images:
        return "the set has broken samples" if _stops(examples, holds) else "the set has no sample"
    try:
        task = member(dataset=examples.name, split=examples.split)
    except ConfigError as error:  # it has fields without defaults, which a recipe sets
        return error.message
    reason = task.lacking(examples.kind, splits)
    if not reason and holds.with_pixels < holds.images and not task.reads_regions():
        unless = f", unless it has {task.regions_by}" if task.regions_by else ""
        return f"it needs pixels{unless}, and there are images with regions alone"
    return reason
