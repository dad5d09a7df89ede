"""The MLflow client: opening it, judging its errors, and the names and values it allows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from infra.config import canonical_json
from infra.errors import CredentialsError, TransientError
from infra.tracking.address import Address
from infra.tracking.database import provide

__all__ = ["allowed_name", "environment", "is_missing", "is_refusal", "open_client", "parameter"]


def open_client(address: Address) -> MlflowClient:
    """A client of the server or database at ``address``, for runs and the model registry."""
    if address.database is None:
        return MlflowClient(address.uri, registry_uri=address.uri)
    address.database.parent.mkdir(parents=True, exist_ok=True)
    if address.ours:
        provide(address.database)
    # A new database gets an experiment "Default" whose artifacts go to this folder; without it, to ./mlruns.
    with environment("_MLFLOW_SERVER_ARTIFACT_ROOT", address.artifacts or ""):
        return MlflowClient(address.uri, registry_uri=address.uri)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def is_missing(error: MlflowException) -> bool:
    """True if the registry has no such model, version or alias; for the last it says that the parameter is wrong."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def is_refusal(error: Exception) -> bool:
    """True if sending the same again would fail the same way."""
    if isinstance(error, MlflowException):
        never = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")
        return error.error_code in never
    passing = (OSError, TransientError, CredentialsError)  # of MLflow, or of the store that an event's files are in
    return not isinstance(error, passing) or isinstance(error, FileNotFoundError)


def allowed_name(key: str) -> str:
    """``key`` as MLflow allows it: letters, digits and ``_-./: `` only."""
    return re.sub(r"[^\w\-./: ]", "_", key.replace("@", "_at_"))[:250]


def parameter(value: object) -> str:
    """A parameter's value as text; equal for equal values, since MLflow refuses to change one."""
    return canonical_json(value).decode() if isinstance(value, (dict, list, tuple)) else str(value)
