"""The exceptions that clipline raises on purpose, in one tree.

Each says what was expected, what was found and what to do, and carries the exit code of the process it ends::

    CliplineError                1
    ├── UsageError               2   the command line or a recipe is wrong
    │   └── ConfigError          2   a configuration value is wrong
    ├── DataError                1   input or stored data is invalid; retrying cannot help
    ├── StorageError             1   a store cannot be opened or refuses an operation
    │   └── CredentialsError     1   a store wants credentials, or refuses those at hand
    ├── TransientError           1   may succeed if tried again: the runner retries it
    │   └── DeadlineError        1   a stage or shard ran past its time limit
    ├── StageFailed              1   a stage used up its attempts
    ├── LeaseHeld               73   another run is writing the same artifact (EX_CANTCREAT)
    │   └── LeaseLost           73   another run took it while this one was writing
    └── Preempted               75   stopped on request; what is committed stays, resume continues (EX_TEMPFAIL)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "USER_INFO",
    "CliplineError",
    "ConfigError",
    "CredentialsError",
    "DataError",
    "DeadlineError",
    "LeaseHeld",
    "LeaseLost",
    "Preempted",
    "StageFailed",
    "StorageError",
    "TransientError",
    "UsageError",
    "did_you_mean",
    "printable",
    "redact",
    "redact_values",
    "without_user_info",
]


class CliplineError(Exception):
    """Base of the tree. ``message`` is one sentence; ``expected``, ``found`` and ``fix`` complete it, a line each."""

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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the fix of a misspelt ``name``, which asks for the most similar of ``known``; "" if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


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


class CredentialsError(StorageError):
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


# --- secrets ----------------------------------------------------------------------------------------------------------

USER_INFO = r"((?:\b(?:https?|ftp):(?:\\?/)*)|//|\\/\\/)[^/?#\s\"'<>\\]*@"
"""User part of a URL and what is before it, also with slashes escaped as in JSON, or without them. Also for RE2."""

_USERINFO = re.compile(USER_INFO, re.IGNORECASE)
_USERINFO_BYTES = re.compile(USER_INFO.encode(), re.IGNORECASE)
_KEY = (
    r"(?:[\w-]*(?:password|passwd|passphrase|secret|token|signature|credentials?|authorization"
    r"|(?:api|access|account|private|secret|signing)[_-]?key)|sig)"
)
_NAMED = re.compile(rf"(?i){_KEY}")
_ASSIGNED = re.compile(
    rf"(?i)(?<![\w-])(?P<key>{_KEY}(?:\\*[\"'])?[ \t]*[=:][ \t]*)"
    r"(?:(?P<quote>\\*[\"']).*?(?:(?<!\\)(?P=quote)|$)|(?:(?:bearer|basic)[ \t]+)?[^\s&;\"'<>]+)",
    re.MULTILINE,
)
_SHAPED = re.compile(  # credentials recognized by their form: AWS, GitHub, Hugging Face, OpenAI, JWT, bearer headers
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}|hf_\w{20,}|sk-[\w-]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|(?<=[Bb]earer )[\w.~+/=-]{16,})"
)


def redact(text: str) -> str:
    """Mask the user part of URLs, values of keys that name a secret, and credentials recognized by their form."""
    text = _USERINFO.sub(r"\1***@", text)
    text = _ASSIGNED.sub(lambda match: f"{match['key']}{match['quote'] or ''}***{match['quote'] or ''}", text)
    return _SHAPED.sub("***", text)


def printable(text: str) -> str:
    """Replace control characters, which a terminal would obey, in text that comes from somebody else."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


def without_user_info(text: bytes) -> bytes:
    """Mask the user part of URLs in a page, as :func:`redact` does in messages."""
    return _USERINFO_BYTES.sub(rb"\1***@", text)


def redact_values(value: Any) -> Any:  # noqa: ANN401 - JSON has no tighter type
    """Redact every string in a JSON value, and mask every string below a key that names a secret as a whole.

    Redacting before serializing keeps JSON valid, which redacting its text cannot promise.
    """
    if isinstance(value, dict):
        return {
            redact(str(key)): _masked(item) if _NAMED.fullmatch(str(key)) else redact_values(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_values(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _masked(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    return "***" if isinstance(value, str) and value else value
