"""Errors of Ray tasks: the exception behind Ray's wrapping, and whether it may pass. Imports Ray."""

from __future__ import annotations

import re

import ray.exceptions as rex

from infra.errors import TransientError
from infra.store import unreachable

__all__ = ["is_transient", "original", "trace"]

_LOST = (rex.WorkerCrashedError, rex.NodeDiedError, rex.ObjectLostError, rex.RayActorError)


_USED = re.compile(r"[\d.]+GB used / [\d.]+GB limit")
_PROCESSES = re.compile(r"Top \d+ memory users:.*?(?=\nRefer to |\Z)", re.DOTALL)


def original(error: BaseException) -> BaseException:
    """The exception that the task itself raised, without Ray's wrapping; for want of memory one of our own.

    Ray's tells in forty lines of all that ran on the node, with the commands of other people's processes.
    """
    while isinstance(error, rex.RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    if isinstance(error, rex.OutOfMemoryError):
        used = _USED.search(str(error))
        return TransientError(
            f"its worker was killed, since the node's memory was full ({used[0] if used else 'Ray says no more'}); "
            "limits.memory_gb of the stage, what a task needs, lets fewer work at once"
        )
    return error


def trace(error: BaseException) -> str:
    """The trace of a failed task as Ray tells it, without the processes that it lists where memory was full."""
    return _PROCESSES.sub("", str(error)) if isinstance(error, rex.RayTaskError) else str(original(error))


def is_transient(error: BaseException) -> bool:
    """True if another attempt may succeed: a TransientError, a lost worker or node, the network."""
    cause = original(error)
    return isinstance(cause, (TransientError, *_LOST)) or unreachable(cause)
