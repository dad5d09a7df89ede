"""Unforeseen errors of single rows: recorded with the row and counted, they end a stage only past a limit.

A worker that handles rows puts ``except Exception as error: message = row_error(error)`` around each: the row is
dropped as ``Drop.UNFORESEEN`` with the message, which is counted in the facts of its shard (:func:`counted`). The shard
loop adds the counts up and ends a stage of which too many rows fail so (:class:`RowErrors`); the manifest has them by
message, and the summary names them.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Iterable
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from infra.errors import CliplineError, DataError, StageFailed
from infra.run.pieces import UNFORESEEN, Records
from infra.run.records import ShardRecord

if TYPE_CHECKING:
    from infra.run.ledger import Ledger

__all__ = ["FACT", "RowErrors", "counted", "named", "row_error", "too_many", "total"]

log = logging.getLogger(__name__)

FACT = UNFORESEEN
_ROWS = "rows_handled"  # of a shard without a funnel
_FEW = 10  # rows, which end no stage however few there are in all
_MACHINE = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT),
        *(errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTCONN, errno.ESTALE),
    }
)
_seen: set[str] = set()  # messages whose traceback this process has logged


def row_error(error: Exception) -> str:
    """Message for a row that ended with ``error``, as ``KeyError in resize``: type, and the function it came from.

    Raises ``error`` again if it is not the row's: an error that clipline raises on purpose, except DataError, or one of
    this machine, such as a full disk. Every row would fail so, and none by itself.
    """
    if isinstance(error, CliplineError) and not isinstance(error, DataError):
        raise error
    if isinstance(error, OSError) and error.errno in _MACHINE:
        raise error
    names = [frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)]
    # Comprehensions have frames of their own, or not, depending on Python's version.
    function = next((name for name in reversed(names) if not name.startswith("<")), "")
    message = f"{type(error).__name__} in {function}"
    if message not in _seen:
        _seen.add(message)
        log.warning("a row ended with an error nobody foresaw: %s", message, exc_info=error)
    return message


def counted(messages: Iterable[str | None], rows: int | None = None) -> dict[str, Any]:
    """The facts of a shard of which some rows ended with the ``messages`` of :func:`row_error`.

    ``rows``: all that were handled, for a shard without a funnel.
    """
    errors = Counter(message for message in messages if message)
    facts: dict[str, Any] = {FACT: dict(sorted(errors.items()))} if errors else {}
    return facts if rows is None else facts | {_ROWS: rows}


def total(records: Iterable[ShardRecord]) -> dict[str, int]:
    """Rows by message, of all ``records``, most first."""
    if isinstance(records, Records):
        return _ranked(records.unforeseen())
    errors: Counter[str] = Counter()
    for record in records:
        errors.update(record.facts.get(FACT, {}))
    return _ranked(errors)


def _ranked(errors: Counter[str]) -> dict[str, int]:
    return dict(sorted(errors.items(), key=lambda item: (-item[1], item[0])))


def named(errors: dict[str, int], most: int = 3) -> str:
    """The most frequent of ``errors``: ``KeyError in resize 12, ValueError in f 3``."""
    shown = ", ".join(f"{message} {count:,}" for message, count in list(errors.items())[:most])
    return f"{shown}, ..." if len(errors) > most else shown


def too_many(count: int, rows: int, share: float) -> bool:
    """True if ``count`` of ``rows`` rows ending with errors says that something is wrong with more than these."""
    return count > max(_FEW, share * rows)


class RowErrors:
    """Limit on unforeseen errors: ends a stage if more than ``share`` of its rows, and more than ten, have one.

    Shards with such rows are removed from the ledger then, so that the next run repeats them.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._rows = 0
        self._errors: Counter[str] = Counter()
        self._failed: list[str] = []

    def add(self, record: ShardRecord, ledger: Ledger) -> None:
        """Count a shard. Raises StageFailed past the limit."""
        self._rows += record.funnel.entered if record.funnel else record.facts.get(_ROWS, 0)
        if not record.facts.get(FACT):
            return
        self._failed.append(record.shard)
        self._errors.update(record.facts[FACT])
        if not too_many(self._errors.total(), self._rows, self._share):
            return
        ledger.forget(*self._failed)
        raise StageFailed(
            f"{self._errors.total()} of {self._rows} rows ended with errors nobody foresaw",
            expected=f"at most {self._share:.1%}, which limits.max_unforeseen sets",
            found=named(_ranked(self._errors)),
            fix="the logs of the workers have a traceback of each; please report it",
        )
