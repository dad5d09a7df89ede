"""Errors of Ray tasks: the exception behind Ray's wrapping, whether it may pass, and how long to wait."""

from __future__ import annotations

import random

from infra.errors import TransientError
from infra.store import unreachable

__all__ = ["backoff", "is_transient", "original"]


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt ``attempt`` (2, 3, ...): doubling from one second to a minute, fully jittered."""
    return random.uniform(0.5, 1.0) * min(60.0, 2.0 ** (attempt - 2))


def original(error: BaseException) -> BaseException:
    """The exception that the task itself raised, without Ray's wrapping."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: a TransientError, a lost worker or node, the network."""
    import ray.exceptions as rex

    lost = (rex.WorkerCrashedError, rex.NodeDiedError, rex.OutOfMemoryError, rex.ObjectLostError, rex.RayActorError)
    cause = original(error)
    return isinstance(cause, (TransientError, *lost)) or unreachable(cause)
