"""Suites: which test sets, on which task each is scored, which metric counts, and in which averages it enters.

A suite is a YAML file, one that ships with clipline by its name (``datacomp``, ``vtab_plus``) or your own by its path::

    name: mine
    sets:
      imagenet1k: {groups: [ImageNet]}
      vtab/pets: {metric: mean_per_class_recall, groups: [VTAB]}
      flickr30k: {task: zeroshot_retrieval, groups: [retrieval]}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from evaluation.tasks import Task
from infra.config import Config as Base
from infra.config import Input, StageConfig
from infra.errors import ConfigError, UsageError

__all__ = ["Config", "Entry", "Suite", "load_suite", "suites"]

_FILES = Path(__file__).with_name("files")


class Entry(Base):
    """One test set of a suite."""

    task: str = Field("zeroshot_classification", description="kind of the task that scores it")
    metric: str | None = Field(None, description="the metric that counts; none: the task's main one")
    groups: tuple[str, ...] = Field((), description="averages it enters, besides that of all sets")
    split: str = Field("test", description="split that is scored")
    options: dict[str, Any] = Field(default_factory=dict, description="fields of the task")
    folder: str | None = Field(None, description="its folder's name in downloads, if it is not the set's")

    @property
    def main(self) -> str:
        """The metric that counts."""
        task = Task.all_members().get(self.task)
        return self.metric or (task.main if task is not None and issubclass(task, Task) else "") or "acc1"


class Suite(Base):
    """Test sets by name, each a folder of test sets."""

    name: str = Field(description="name of the suite")
    sets: dict[str, Entry] = Field(description="its test sets by name", min_length=1)

    def folders(self, name: str) -> tuple[str, ...]:
        """The folders in which the set may lie: its name, or as CLIP_benchmark's and DataComp's downloads name it."""
        plain = self.sets[name].folder or name.replace("/", "-")
        return name, f"wds_{plain}_{self.sets[name].split}", f"wds_{plain}", plain

    def located(self, there: Collection[tuple[str, str]]) -> dict[str, str]:
        """The folder of each set that is among ``there``, names of folders with their splits."""
        return {
            name: folder
            for name, entry in self.sets.items()
            for folder in self.folders(name)[::-1]
            if (folder, entry.split) in there
        }

    def groups(self) -> dict[str, list[str]]:
        """The sets of each average, ``average`` over all last."""
        found: dict[str, list[str]] = {}
        for name, entry in self.sets.items():
            for group in entry.groups:
                found.setdefault(group, []).append(name)
        return {**found, "average": list(self.sets)}


class Config(StageConfig):
    """Configuration of the averages of a suite."""

    code_version: ClassVar[int] = 3
    inputs: ClassVar[Mapping[str, Input]] = {
        "scores": Input("scores", repeated=True, description="evaluations of one model, with any ending"),
    }
    produces: ClassVar[tuple[str, ...]] = ("suite",)

    suite: Suite = Field(description="sets, their main metrics and groups")


def suites() -> list[str]:
    """The names of the suites that ship with clipline."""
    return sorted(path.stem for path in _FILES.glob("*.yaml"))


def load_suite(named: str) -> Suite:
    """Read a suite by its name or its file's path. Raises UsageError if there is none, ConfigError for a bad one."""
    import yaml

    file = _FILES / f"{named}.yaml" if named in suites() else Path(named)
    if not file.is_file():
        raise UsageError(f"there is no suite {named!r}", expected=f"{', '.join(suites())}, or a YAML file of your own")
    try:
        content: Any = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML", found=str(error)) from None
    if not isinstance(content, dict) or not isinstance(content.get("sets"), dict):
        raise ConfigError(f"{file} is no suite", expected="name, and sets by name", found=type(content).__name__)
    entries = {name: entry or {} for name, entry in content["sets"].items()}
    return Suite(**{"name": file.stem} | content | {"sets": entries})
