"""A stage is a plain function and a frozen configuration; a workflow is the stages that lead to a result."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from infra.config import Input, StageConfig
from infra.errors import UsageError, did_you_mean
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest, fingerprint

__all__ = ["Check", "Gate", "Inputs", "Run", "Stage", "Workflow"]

_NAME = re.compile(r"[A-Za-z0-9][\w-]*")  # a folder, a column, and what stands before the dot in --set stage.field

Inputs = Mapping[str, Artifact]
Run = Callable[[Any, Inputs, Context], Manifest]


@dataclass(frozen=True, eq=False)
class Stage:
    """``run(config, inputs, context) -> Manifest``, with the stages its inputs come from.

    The inputs are checked against those the configuration's class declares. ``retries`` and ``timeout_s`` (of one
    attempt, seconds) cannot change the result. Raises UsageError for a missing, misspelt or unfit input.
    """

    name: str
    run: Run
    config: StageConfig
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    retries: int = 2
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        _check_name("stage", self.name)
        self._check_inputs()

    def _check_inputs(self) -> None:
        declared = self.config.inputs
        for name, source in self.inputs.items():
            spec = self.config.input_named(name)
            if spec is None:
                raise UsageError(
                    f"stage {self.name} takes no input {name!r}",
                    expected=_described(declared),
                    fix=did_you_mean(name, declared),
                )
            if spec.holds not in source.config.outputs():
                raise UsageError(
                    f"input {name!r} of stage {self.name} must hold {spec.holds}",
                    found=f"stage {source.name}, which gives {', '.join(source.config.outputs()) or 'nothing named'}",
                )
        for name, spec in declared.items():
            if spec.required and not any(self.config.input_named(given) is spec for given in self.inputs):
                raise UsageError(
                    f"stage {self.name} lacks its input {name!r}",
                    expected=_described(declared),
                    found=", ".join(self.inputs) or "no inputs",
                    fix=f"give it a stage that produces {spec.holds}",
                )
        self.config.check_inputs(tuple(self.inputs))

    @cached_property
    def _fingerprint(self) -> tuple[str, dict[str, Any]]:
        inputs = {name: stage.digest for name, stage in sorted(self.inputs.items())}
        return fingerprint(self.name, self.config.code_version, self.config.identity(), inputs)

    @property
    def digest(self) -> str:
        """The fingerprint: what decides the result, as 64 hex digits. Paths, hosts, resources and times never enter."""
        return self._fingerprint[0]

    @property
    def identity(self) -> dict[str, Any]:
        return self._fingerprint[1]

    @property
    def folder(self) -> str:
        """Folder of the artifact below the root."""
        return f"artifacts/{self.name}/{self.digest[:16]}"


@dataclass(frozen=True)
class Check:
    """One condition of a gate and how it went."""

    metric: str
    at_least: float
    found: float | None

    @property
    def passed(self) -> bool:
        return self.found is not None and self.found >= self.at_least


@dataclass(frozen=True)
class Gate:
    """Conditions for registering a model in MLflow, and the name it gets.

    ``at_least``: ``{"stage.metric": bound}``. ``better``: names of metrics likewise, in which the model must be better
    than the one that has the alias now, with an interval of the paired difference above 0; without such a model they
    pass. The model of stage ``model`` then becomes a version of the registered model ``name`` and gets ``alias``.
    """

    model: str
    name: str
    at_least: Mapping[str, float]
    alias: str = "champion"
    better: tuple[str, ...] = ()

    def check(self, manifests: Mapping[str, Manifest]) -> list[Check]:
        checks = []
        for key, bound in self.at_least.items():
            stage, _, metric = key.partition(".")
            found = manifests[stage].metrics.get(metric) if stage in manifests else None
            checks.append(Check(key, bound, found))
        return checks


@dataclass(frozen=True)
class Workflow:
    """The stages of a recipe in the order a reader meets them, and what must be up while they run."""

    name: str
    stages: tuple[Stage, ...]
    services: tuple[Callable[[], AbstractContextManager[Any]], ...] = ()
    gate: Gate | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # those of the recipe that made it, with their values
    changed: Mapping[str, Any] = field(default_factory=dict)  # parameters and fields that differ from the recipe's own

    def __post_init__(self) -> None:
        _check_name("workflow", self.name)
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise UsageError(f"workflow {self.name} has two stages of the same name", found=", ".join(names))
        seen: set[int] = set()
        for stage in self.stages:
            for name, source in stage.inputs.items():
                if id(source) not in seen:
                    raise UsageError(
                        f"input {name!r} of stage {stage.name} is not an earlier stage of workflow {self.name}",
                        expected="stages listed in the order of their inputs",
                        found=source.name,
                    )
            seen.add(id(stage))
        if self.gate is not None:  # a name that is wrong must not be found out after training
            keys = (*self.gate.at_least, *self.gate.better)
            for name in (self.gate.model, *(key.partition(".")[0] for key in keys)):
                self[name]

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __getitem__(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UsageError(f"workflow {self.name} has no stage {name!r}", expected=", ".join(s.name for s in self.stages))


def _described(inputs: Mapping[str, Input]) -> str:
    """The declared inputs as an error shows them: ``images (images), selection (selection, optional)``."""
    parts = []
    for name, spec in inputs.items():
        notes = [spec.holds, *(["optional"] if not spec.required else []), *(["repeated"] if spec.repeated else [])]
        parts.append(f"{name} ({', '.join(notes)})")
    return ", ".join(parts) or "no inputs"


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a {kind}", expected="letters, digits, '_' and '-'")
