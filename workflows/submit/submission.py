"""A run or sweep as it is sent to a cluster: a recipe with its settings, a root, and the package that goes there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.errors import UsageError, redact
from workflows.recipe import Recipe
from workflows.run.plan import Selection
from workflows.run.sweep import Design
from workflows.submit import versions
from workflows.submit.snapshot import Snapshot, snapshot

__all__ = ["Submission"]

_PACKAGES = ("infra", "pipelines", "training", "evaluation", "workflows")
_FILE = "submission.json"


class Submission(BaseModel):
    """``submission.json`` in the folder that a job works in. It holds no secret."""

    model_config = ConfigDict(frozen=True)

    recipe: str  # file within the package, a built-in name, or package.module
    source: str  # sha256 of the recipe's text
    settings: list[str]
    root: str
    selection: Selection
    execution: dict[str, Any]
    sweep: Design | None = None  # None: one run
    given: str = ""  # the recipe as it was called on the machine that submitted it
    other_versions: bool = False  # of packages may be on the cluster

    @classmethod
    def of(
        cls,
        given: str,
        recipe: Recipe,
        settings: list[str],
        root: str,
        execution: dict[str, Any],
        *,
        selection: Selection | None = None,
        sweep: Design | None = None,
        other_versions: bool = False,
    ) -> Submission:
        """The submission of a recipe. Raises UsageError if a setting or the root holds a secret."""
        _refuse_secrets([*settings, *(sweep.settings if sweep else ()), root])
        recorded = recipe.recorded_as(given)
        name = f"recipe/{recipe.path.name}" if recorded == str(recipe.path) else given
        return cls(
            recipe=name,
            source=hashlib.sha256(recipe.path.read_bytes()).hexdigest(),
            settings=settings,
            root=root,
            selection=selection or Selection(),
            execution=execution,
            sweep=sweep,
            given=recorded,
            other_versions=other_versions,
        )

    @property
    def name(self) -> str:
        """The name of the job: the same for the same recipe, settings, selection and grid below the same root."""
        work = self.model_dump(mode="json", include={"recipe", "source", "settings", "root", "selection"})
        work["selection"]["force"] = ()  # what is forced once is not when it goes on
        if self.sweep:
            work["sweep"] = self.sweep.model_dump(exclude={"primary"})
        called = re.sub(r"[^A-Za-z0-9_]", "-", self.recipe.removeprefix("recipe/").removesuffix(".py"))
        return f"clipline-{called}-{hashlib.sha256(json.dumps(work).encode()).hexdigest()[:10]}"

    @property
    def shown(self) -> dict[str, str]:
        """The metadata of the job, for people who look at Ray's dashboard."""
        shown = {"recipe": self.given, "root": self.root, "settings": shlex.join(self.settings)}
        return {**shown, "sweep": self.sweep.model_dump_json(exclude_defaults=True)} if self.sweep else shown

    @property
    def is_file(self) -> bool:
        return self.recipe.startswith("recipe/")

    def pack(self, recipe: Recipe) -> Snapshot:
        """The folder that the job will work in. Raises UsageError if it is too large."""
        here = Path(__file__).parents[2]
        packages = [here / name for name in _PACKAGES]
        extra = {
            _FILE: self.model_dump_json(indent=1).encode(),
            versions.FILE: json.dumps(versions.installed(), indent=1).encode(),
        }
        if self.is_file:
            extra[self.recipe] = recipe.path.read_bytes()
        elif "." in self.recipe:  # package.module: the package goes along
            top = sys.modules[self.recipe.partition(".")[0]]
            packages += [folder for path in top.__path__ if (folder := Path(path)) not in packages]
        return snapshot(packages, extra)

    @classmethod
    def read(cls) -> Submission:
        """The submission in the present folder."""
        return cls.model_validate_json(Path(_FILE).read_bytes())


def _refuse_secrets(texts: list[str]) -> None:
    """Raise UsageError for what looks like a secret, or is the value of a variable that is named as one."""
    values = [value for name, value in os.environ.items() if redact(f"{name}={value}") != f"{name}={value}"]
    for text in texts:
        if redact(text) != text or any(len(value) >= 8 and value in text for value in values):
            raise UsageError(
                f"{redact(text).partition('=')[0]} holds a secret, which the cluster's dashboard would show",
                fix="give the secret to the cluster's own environment, and run where it is: clipline run",
            )
