"""Errors of Ray tasks: the exception behind Ray's wrapping, and whether it may pass. Imports Ray."""

from __future__ import annotations

import ray.exceptions as rex

from infra.errors import TransientError
from infra.store import unreachable

__all__ = ["is_transient", "original"]

_LOST = (rex.WorkerCrashedError, rex.NodeDiedError, rex.OutOfMemoryError, rex.ObjectLostError, rex.RayActorError)


def original(error: BaseException) -> BaseException:
    """The exception that the task itself raised, without Ray's wrapping."""
    while isinstance(error, rex.RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def is_transient(error: BaseException) -> bool:
    """True if another attempt may succeed: a TransientError, a lost worker or node, the network."""
    cause = original(error)
    return isinstance(cause, (TransientError, *_LOST)) or unreachable(cause)
