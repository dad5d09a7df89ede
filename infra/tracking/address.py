"""The address of a run's MLflow."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from infra.errors import redact
from infra.store import LocalStore, Store

__all__ = ["Address", "sqlite_uri"]

_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Address:
    """The URI of an MLflow server or database, and the artifact folder of a new database.

    Without ``MLFLOW_TRACKING_URI`` it is an sqlite file below the root, never ``./mlruns``. ``ours``: that file, which
    clipline may make.
    """

    uri: str
    artifacts: str | None = None
    ours: bool = False

    @classmethod
    def find(cls, root: Store) -> Address:
        """The address for runs below ``root``."""
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            # MLflow would put the artifacts of a database into ./mlruns, wherever that is today.
            database = cls(uri).database
            return cls(uri, _location(database.absolute().parent) if database else None)
        folder = root.root if isinstance(root, LocalStore) else Path(".clipline").absolute()
        return cls(sqlite_uri(folder / "mlflow.db"), _location(folder), ours=True)

    @property
    def database(self) -> Path | None:
        """The file of an sqlite database; None for a server."""
        return Path(unquote(self.uri.removeprefix(_SQLITE))) if self.uri.startswith(_SQLITE) else None

    @property
    def ui_command(self) -> str | None:
        """The command that opens the MLflow UI; None if a server already shows it."""
        if self.uri.startswith("http"):
            return None
        return f"mlflow server --backend-store-uri {shlex.quote(redact(self.uri))} --workers 1 --port 5000"

    def page(self, experiment: str, run: str) -> str:
        """The address of a run's page in the MLflow UI, without credentials."""
        base = re.sub("(?<=://)[^/]*@", "", self.uri) if self.uri.startswith("http") else "http://127.0.0.1:5000"
        # Without this query MLflow 3 shows the views for agents (judges, prompts, sessions) beside the run.
        return f"{base.rstrip('/')}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


def sqlite_uri(file: Path) -> str:
    """The URI of a database in ``file``, an absolute path."""
    # What would end the path of a URI, or stand for another character.
    return _SQLITE + str(file).replace("%", "%25").replace("?", "%3F")


def _location(folder: Path) -> str:
    """URI of the folder for artifacts in ``folder``, where the database is; MLflow decodes a % in a plain path."""
    beside = folder / "mlartifacts"
    return beside.as_uri() if "%" in str(folder) else str(beside)
