"""Every kind of event of a run, one class per kind.

Stages and the runner emit them, the journal stores them as JSON lines, and the console, MLflow, ``clipline status`` and
the report are projections of them. A line is ``{"event": kind, "time": ..., "stage": ..., ...}``, followed by the
fields of the class::

    Event
    ├── RunStarted, StopRequested, RunArtifact, Gate, RunFinished      about the run
    ├── StageEvent
    │   ├── StageStarted, StageCached, StageFinished, StageFailed      from the runner
    │   ├── Progress, Metrics, Log, ShardRetry, StageFile, StageImage  from any stage
    │   ├── TrainStart, TrainRetry, Collapsed                          from training
    │   └── Custom                                                     of a stage's own kind
    └── Unknown                                                        read from the journal of a newer version

To add a kind: write its class here, add it to ``_CLASSES``, and handle it in the projections that should show it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time as now
from typing import Any, ClassVar

__all__ = [
    "Collapsed",
    "Custom",
    "Event",
    "Gate",
    "Listener",
    "Log",
    "Metrics",
    "Progress",
    "RunArtifact",
    "RunFinished",
    "RunStarted",
    "ShardRetry",
    "StageCached",
    "StageEvent",
    "StageFailed",
    "StageFile",
    "StageFinished",
    "StageImage",
    "StageStarted",
    "StopRequested",
    "TrainRetry",
    "TrainStart",
    "Unknown",
    "from_json",
    "is_built_in",
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base class. ``time`` is when it happened, in seconds since the epoch; ``stage`` is empty for the run itself."""

    KIND: ClassVar[str] = ""
    EXTRA: ClassVar[str] = ""
    """Name of the dictionary field that JSON holds flattened into the line; empty if there is none."""

    time: float = field(default_factory=now)
    stage: str = ""

    @property
    def kind(self) -> str:
        """The value of ``"event"`` in JSON."""
        return self.KIND

    def to_json(self) -> dict[str, Any]:
        """The event as a flat dictionary of JSON values; ``stage`` is left out where it is empty."""
        values = {"event": self.kind, **{item.name: getattr(self, item.name) for item in dataclasses.fields(self)}}
        extra = values.pop(self.EXTRA, {})
        if not values["stage"]:
            del values["stage"]
        return {**values, **extra, **values}  # kind and time first, and nothing in `extra` replaces a field


# --- about the run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run begins or is resumed."""

    KIND: ClassVar[str] = "run_started"

    run: str
    recipe: str  # path of the recipe file, or the name of a built-in one
    settings: str = ""  # the values given with --set, separated by spaces
    commit: str = ""  # of clipline's checkout, with "+" if it has local changes; empty outside a checkout
    sweep: str = ""  # what it is one run of
    parameters: dict[str, Any] = field(default_factory=dict)  # by which runs are compared
    headline: list[str] = field(default_factory=list)  # stages whose main metric speaks for the run


@dataclass(frozen=True, kw_only=True)
class StopRequested(Event):
    """The run has seen that ``clipline stop`` asks it to save its state and end."""

    KIND: ClassVar[str] = "stop_requested"


@dataclass(frozen=True, kw_only=True)
class RunArtifact(Event):
    """A file of the run as a whole was written, such as its report; ``path`` is relative to the run's folder."""

    KIND: ClassVar[str] = "run_artifact"

    path: str


@dataclass(frozen=True, kw_only=True)
class Gate(Event):
    """The workflow's gate was evaluated: whether its model may be registered in MLflow."""

    KIND: ClassVar[str] = "gate"

    model: str  # the stage whose model it is
    digest: str  # of that stage's artifact
    name: str  # of the registered model
    alias: str
    checks: list[dict[str, Any]]  # {metric, at_least, found, passed} each
    passed: bool


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """A run ended."""

    KIND: ClassVar[str] = "run_finished"

    run: str
    status: str  # done | failed | preempted
    exit_code: int
    seconds: float
    note: str = ""  # funnel and metrics as Markdown


# --- about a stage, from the runner -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StageEvent(Event):
    """Base class of the events of one stage."""

    stage: str = field()  # required here


@dataclass(frozen=True, kw_only=True)
class StageStarted(StageEvent):
    """An attempt at a stage begins."""

    KIND: ClassVar[str] = "stage_started"

    attempt: int  # 1, 2, ...
    digest: str  # the stage's fingerprint
    config: dict[str, Any]  # every field that decides the result
    forced: bool = False
    why: list[str] = field(default_factory=list)  # reasons of the plan


@dataclass(frozen=True, kw_only=True)
class StageCached(StageEvent):
    """The stage's artifact is there and is used as it is."""

    KIND: ClassVar[str] = "stage_cached"

    folder: str  # of the artifact, relative to the root
    inputs: dict[str, str] = field(default_factory=dict)  # folder of each input


@dataclass(frozen=True, kw_only=True)
class StageFinished(StageEvent):
    """An attempt succeeded and its manifest is committed."""

    KIND: ClassVar[str] = "stage_finished"

    seconds: float  # of this attempt
    attempt: int
    folder: str  # of the artifact, relative to the root
    inputs: dict[str, str] = field(default_factory=dict)  # folder of each input
    funnel: dict[str, Any] | None = None  # {unit, entered, kept, dropped}
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageFailed(StageEvent):
    """An attempt ended without a manifest."""

    KIND: ClassVar[str] = "stage_failed"

    attempt: int
    error: str  # type and message
    trace: str = ""
    preempted: bool = False  # stopped on request: no fault of the stage
    will_retry: bool = False
    seconds: float | None = None  # of this attempt


# --- about a stage, from itself ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Progress(StageEvent):
    """Progress of a stage in its own unit. In JSON the ``numbers`` are at the level of the other fields."""

    KIND: ClassVar[str] = "progress"
    EXTRA: ClassVar[str] = "numbers"

    done: int
    total: int | None = None  # None: not known
    numbers: dict[str, float | str] = field(default_factory=dict)  # shown beside it, such as images_per_s


@dataclass(frozen=True, kw_only=True)
class Metrics(StageEvent):
    """One point of each named curve."""

    KIND: ClassVar[str] = "metrics"

    values: dict[str, float]
    step: int  # a count that never repeats, such as samples seen


@dataclass(frozen=True, kw_only=True)
class Log(StageEvent):
    """A log record of a worker or the runner."""

    KIND: ClassVar[str] = "log"

    level: str  # as in logging: INFO, WARNING, ...
    message: str
    logger: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardRetry(StageEvent):
    """A shard failed and will be tried again."""

    KIND: ClassVar[str] = "shard_retry"

    shard: str
    attempt: int  # the one that failed
    error: str
    wait_s: float = 0.0  # until the next attempt


@dataclass(frozen=True, kw_only=True)
class StageFile(StageEvent):
    """A file to show with the stage's curves in MLflow, such as a profile."""

    KIND: ClassVar[str] = "file"

    folder: str  # address of the store that holds it
    path: str


@dataclass(frozen=True, kw_only=True)
class StageImage(StageEvent):
    """An image that shows the same thing at every step, such as what a text finds; MLflow has a slider for it."""

    KIND: ClassVar[str] = "image"

    folder: str  # address of the store that holds it
    path: str
    name: str
    step: int  # as in Metrics


@dataclass(frozen=True, kw_only=True)
class TrainStart(StageEvent):
    """Training begins or continues after ``samples`` samples, on ``workers`` ranks."""

    KIND: ClassVar[str] = "train_start"

    samples: int
    workers: int


@dataclass(frozen=True, kw_only=True)
class TrainRetry(StageEvent):
    """Training failed and starts again from the newest checkpoint, at ``samples`` samples."""

    KIND: ClassVar[str] = "train_retry"

    error: str
    samples: int  # -1: there is no checkpoint


@dataclass(frozen=True, kw_only=True)
class Collapsed(StageEvent):
    """Training learns nothing any more: a tower's features are all alike, or the loss is that of chance."""

    KIND: ClassVar[str] = "collapsed"

    sign: str  # image, text or loss
    value: float  # the mean cosine, or the loss
    samples: int
    message: str


# --- of other kinds ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Named(Event):
    EXTRA: ClassVar[str] = "fields"

    name: str  # the kind
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.name

    def to_json(self) -> dict[str, Any]:
        values = super().to_json()
        del values["name"]
        return {**values, **self.fields, **values}


@dataclass(frozen=True, kw_only=True)
class Custom(StageEvent, _Named):
    """An event of a stage's own kind, from ``context.emit(name, **fields)``. JSON marks it with ``"custom": true``."""

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "custom": True}


@dataclass(frozen=True, kw_only=True)
class Unknown(_Named):
    """A line of the journal that this version cannot read as any other class."""


Listener = Callable[[list[Event]], None]
"""Gets every event of a run, in order."""

_CLASSES: tuple[type[Event], ...] = (
    RunStarted,
    StopRequested,
    RunArtifact,
    Gate,
    RunFinished,
    StageStarted,
    StageCached,
    StageFinished,
    StageFailed,
    Progress,
    Metrics,
    Log,
    ShardRetry,
    StageFile,
    StageImage,
    TrainStart,
    TrainRetry,
    Collapsed,
)
_BY_KIND = {one.KIND: one for one in _CLASSES}


def is_built_in(kind: str) -> bool:
    """True if ``kind`` belongs to one of the classes here, so that a stage cannot use it for an event of its own."""
    return kind in _BY_KIND


def from_json(values: Mapping[str, Any]) -> Event:
    """The event of a line of the journal; never raises for a dictionary with an ``"event"``.

    A kind this version does not know, or one that lacks a field it needs, becomes :class:`Unknown`; of a kind it knows,
    fields it does not know are dropped.
    """
    kind = str(values["event"])
    head: dict[str, Any] = {"time": values.get("time", 0.0), "stage": values.get("stage", "")}
    rest = {name: value for name, value in values.items() if name not in ("event", "custom", *head)}
    if values.get("custom") is True and head["stage"]:
        return Custom(name=kind, fields=rest, **head)
    one = _BY_KIND.get(kind)
    if one is None or not _required(one) <= {*rest, *(name for name, value in head.items() if value)}:
        return Unknown(name=kind, fields=rest, **head)
    names = {item.name for item in dataclasses.fields(one)} - {one.EXTRA}
    own: dict[str, Any] = {name: value for name, value in rest.items() if name in names}
    if one.EXTRA:
        own[one.EXTRA] = {name: value for name, value in rest.items() if name not in names}
    return one(**head, **own)


def _required(one: type[Event]) -> set[str]:
    """Names of the fields without a default."""
    missing = dataclasses.MISSING
    return {f.name for f in dataclasses.fields(one) if f.default is missing and f.default_factory is missing}
