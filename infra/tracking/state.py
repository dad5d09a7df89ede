"""Record of how much of a run's journal has reached MLflow, kept in the run's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from infra.store import Store

__all__ = ["Deleted", "State"]

PATH = "tracking.json"


class Deleted(Exception):
    """Somebody deleted runs or the experiment in MLflow meanwhile."""


@dataclass
class State:
    """Position in the journal, and the MLflow ids of what was made for it. Saved after every batch."""

    uri: str  # of MLflow, without credentials
    position: int = 0  # in the journal
    experiment: str = ""  # id
    parent: str = ""  # id of the run's own MLflow run
    children: dict[str, str] = field(default_factory=dict)  # id of each stage's MLflow run
    models: dict[str, str] = field(default_factory=dict)  # id of each stage's logged model
    parameters: dict[str, Any] = field(default_factory=dict)  # of the run, by short names
    headline: list[str] = field(default_factory=list)  # stages whose main metric speaks for the run
    gate: str = ""  # how its checks went, as Markdown
    refused: int = 0  # events that MLflow will never accept

    @classmethod
    def load(cls, folder: Store, uri: str) -> State:
        """The state saved in ``folder``; a new one if nothing was sent yet, or it was sent to another MLflow."""
        if folder.exists(PATH):
            values = json.loads(folder.read(PATH))
            if values.get("uri") == uri:
                return cls(**{key: value for key, value in values.items() if key in cls.__dataclass_fields__})
        return cls(uri)

    @staticmethod
    def recorded(folder: Store) -> str:
        """The MLflow that the run in ``folder`` was last sent to, without credentials; "" if it never was."""
        return str(json.loads(folder.read(PATH)).get("uri", "")) if folder.exists(PATH) else ""

    def save(self, folder: Store) -> None:
        folder.write(PATH, json.dumps(asdict(self)).encode())
