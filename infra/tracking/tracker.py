"""Sends a run's journal to MLflow from a background thread.

The journal on disk is the spool: the thread reads it from a saved position and sends what it finds. An outage of the
server therefore costs one warning and never a stage, and whatever was not sent is sent by the next run, ``clipline
resume`` or ``clipline sync``. What an event becomes in MLflow is decided in :mod:`infra.tracking.projection`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from infra.errors import StorageError, TransientError, redact
from infra.events import Event
from infra.store import Store
from infra.tracking import state
from infra.tracking.address import Address
from infra.tracking.state import Deleted, State

if TYPE_CHECKING:
    from infra.tracking.projection import Projection

__all__ = ["Tracker", "configure"]

log = logging.getLogger(__name__)

_TURN = threading.Lock()  # the runs of a sweep would find an sqlite database locked by one another
ReadJournal = Callable[[int], tuple[list[Event], int]]


class Tracker:
    """Follows one run's journal. ``folder`` is the run's folder, ``root`` where the artifacts are.

    ``read`` is ``Journal.read``, or ``Journal.follow`` where the journal is written. Errors never leave the thread;
    ``degraded`` says why the last attempt failed (empty: it did not), and :meth:`close` returns whether everything was
    sent.
    """

    PATH = state.PATH
    INTERVAL_S = 1.0

    def __init__(self, address: Address, experiment: str, root: Store, folder: Store, read: ReadJournal) -> None:
        self._address, self._experiment, self._root, self._folder, self._read = address, experiment, root, folder, read
        self._state = self._saved()
        self._projection: Projection | None = None
        self._closing = threading.Event()
        self._yielding = False
        self._drained = threading.Event()
        self.degraded = ""
        self._thread = threading.Thread(target=self._run, name="clipline-tracking", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 60.0, *, drain: bool = True) -> bool:
        """Send what is left, for at most ``timeout_s``; True if all of the journal was sent, or is another's to send.

        ``drain=False``: another driver is at this run, and its tracker sends the rest.

        A tracker that was never started sends nothing, so that a run that fails at once need not wait until MLflow is
        imported. The next run sends it.
        """
        self._yielding = not drain
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return self._drained.is_set() or self._yielding

    @property
    def refused(self) -> int:
        """Number of events of this run that MLflow will never accept; a warning named each."""
        return self._state.refused

    @property
    def page(self) -> str | None:
        """The run's page in the MLflow UI, once it exists."""
        return self._address.page(self._state.experiment, self._state.parent) if self._state.parent else None

    def _saved(self) -> State:
        return State.load(self._folder, redact(self._address.uri))

    def _run(self) -> None:
        configure()
        pause = self.INTERVAL_S
        while True:
            closing = self._closing.is_set()  # before reading: what was written by then must still be sent
            if self._yielding:
                return
            try:
                with _TURN:
                    more = self._send()
                pause, self.degraded = self.INTERVAL_S, ""
            except Deleted:
                self._projection, more = None, True  # connecting restores what was deleted, and says so
                continue
            except Exception as error:  # noqa: BLE001 - tracking must not stop a stage; close() returns False
                self._projection = None  # what was sent in part is looked up again
                # An outage of the root's store shows here first, and MLflow is not to blame for it.
                away = "The root" if isinstance(error, (TransientError, StorageError)) else "MLflow"
                message = redact(str(error)) or type(error).__name__
                if not self.degraded.startswith(away):
                    log.warning("%s cannot be reached; the run's journal is sent to MLflow later: %s", away, message)
                self.degraded = f"{away} cannot be reached: {message}"
                pause, more = min(30.0, pause * 2), True
                if closing:
                    return
            if closing and not more:
                self._drained.set()
                return
            self._closing.wait(pause)

    def _send(self) -> bool:
        """Send one batch of events; True if there was one."""
        if self._projection is None:
            self._state = self._saved()
            self._projection = self._connect()
            # If the database was removed meanwhile, or runs for good, everything is sent again.
            if not self._projection.restore():
                log.warning("MLflow has lost runs of %s: they are made anew from its journal", self._folder.url)
                self._state = State(self._state.uri)
                self._state.save(self._folder)
                self._projection = self._connect()
        events, position = self._read(self._state.position)
        if not events:
            return False
        if self._saved().position > self._state.position:  # another driver of this run has sent some meanwhile
            self._projection = None
            return True
        self._projection.apply(events)
        self._state.position = position
        self._state.save(self._folder)
        return True

    def _connect(self) -> Projection:
        from infra.tracking.projection import Projection  # imports mlflow, which takes seconds

        return Projection(self._address, self._experiment, self._root, self._folder, self._state)


def configure() -> None:
    """Limit MLflow's retries and its logging; must precede the import of mlflow."""
    # Its client would retry for minutes without a message; the journal keeps everything meanwhile.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is data only
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # an outage gets one warning, from the tracker
