"""Every error clipline raises on purpose, in one tree.

Each says what was expected, what was found and what to do, and carries the exit code of the process it ends::

    CliplineError                1
    ├── UsageError               2   the command line or a recipe is wrong
    │   └── ConfigError          2   a configuration value is wrong
    ├── DataError                1   input or stored data is not what it must be; retrying cannot help
    ├── StorageError             1   a store cannot do what was asked of it
    ├── TransientError           1   may well succeed if tried again: the runner retries it
    │   └── DeadlineError        1   a stage or shard ran past its time limit
    ├── StageFailed              1   a stage used up its attempts
    ├── LeaseHeld               73   another run is writing the same artifact (EX_CANTCREAT)
    │   └── LeaseLost           73   it was taken from us while we worked
    └── Preempted               75   stopped on request; what is committed stays, resume continues (EX_TEMPFAIL)
"""

from __future__ import annotations

import re
from typing import ClassVar

__all__ = [
    "CliplineError",
    "ConfigError",
    "DataError",
    "DeadlineError",
    "LeaseHeld",
    "LeaseLost",
    "Preempted",
    "StageFailed",
    "StorageError",
    "TransientError",
    "UsageError",
    "redact",
]


class CliplineError(Exception):
    """Base of the tree. ``message`` is one sentence; the keywords complete it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, expected: str = "", found: str = "", fix: str = "") -> None:
        self.message, self.expected, self.found, self.fix = message, expected, found, fix
        super().__init__(message)

    def __str__(self) -> str:
        lines = [self.message]
        for label in ("expected", "found", "fix"):
            if text := getattr(self, label):
                lines.append(f"  {label}: {text}")
        return redact("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not pickle by themselves, and these cross Ray's process borders.
        return (_rebuild, (type(self), self.message, self.expected, self.found, self.fix))


def _rebuild(cls: type[CliplineError], message: str, expected: str, found: str, fix: str) -> CliplineError:
    return cls(message, expected=expected, found=found, fix=fix)


class UsageError(CliplineError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class DataError(CliplineError):
    pass


class StorageError(CliplineError):
    pass


class TransientError(CliplineError):
    pass


class DeadlineError(TransientError):
    pass


class StageFailed(CliplineError):
    pass


class LeaseHeld(CliplineError):
    exit_code = 73


class LeaseLost(LeaseHeld):
    pass


class Preempted(CliplineError):
    exit_code = 75


_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET = re.compile(
    r"(?i)\b([\w-]*(?:password|passwd|secret|token|api[_-]?key|signature|credential)[\w-]*)([=:]\s*)[^\s&\"',;]+"
)


def redact(text: str) -> str:
    """``text`` without the user part of URLs and without values of keys that name a secret."""
    return _SECRET.sub(r"\1\2***", _USERINFO.sub("***@", text))
