"""One writer per artifact, on any store that can create a file exclusively.

A lease is a numbered file ``lease/{n}.json``; whoever creates the next number holds it, so a number is also a fencing
token: an owner that finds a higher one has lost. Its workers ask by a :class:`Fence` before each file they write, so of
an owner that was taken for dead and was not, nothing comes after the next has begun. The owner rewrites its file with a
growing generation. A reader calls a lease stale when the generation stood still for the TTL on the reader's own
monotonic clock (no two machines' clocks are ever compared), or when its process has provably ended on this machine.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from infra.errors import CredentialsError, LeaseHeld, LeaseLost, TransientError
from infra.store import LocalStore, Store

__all__ = ["Claim", "Fence", "Lease", "Owner", "current_claim", "holder"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """Identity of a process, by which another process on the same boot of the machine can see whether it is alive."""

    id: str
    host: str
    pid: int
    boot: str  # of the kernel, and the PID namespace: a container's neighbour has other processes of the same numbers
    started: str  # of the process, in clock ticks since boot: a reused pid has another

    @classmethod
    def current(cls) -> Owner:
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), _boot_id(), _process_start(os.getpid()))

    @property
    def ended(self) -> bool:
        """True only if the process certainly ended; False if it is alive or cannot be seen from here."""
        return bool(self.boot) and self.boot == _boot_id() and _process_start(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Claim:
    """The content of a lease file."""

    owner: Owner
    generation: int = 0
    released: bool = False
    reclaims: bool = False  # held to remove the artifact, not to make it

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Claim:
        values = json.loads(data)
        return cls(**{**values, "owner": Owner(**values["owner"])})


@dataclass(frozen=True)
class Fence:
    """The claim of a lease's owner as its workers know it: a call raises LeaseLost if another has taken over."""

    store: Store
    number: int
    owner: Owner

    def __call__(self) -> None:
        if not self.holds():
            raise LeaseLost(
                f"the lease on {self.store.url} was lost",
                found="another process has taken it; this one commits nothing",
                fix="let the other finish; clipline status shows it",
            )

    def holds(self) -> bool:
        # Not only the next number: an artifact that was removed meanwhile starts again at 1.
        mine, following = _path(self.number), _path(self.number + 1)
        found = self.store.read_there([mine, following])
        return following not in found and mine in found and Claim.from_bytes(found[mine]).owner == self.owner


def current_claim(store: Store) -> Claim | None:
    """The newest claim on the artifact at ``store``, unless it was released or its owner certainly ended."""
    _, claim = _newest(store)
    return None if claim is None or claim.released or claim.owner.ended else claim


def holder(store: Store) -> Owner | None:
    """The owner that holds the artifact at ``store`` and shows signs of life; None if it is free. Writes nothing.

    Takes until the owner's next heartbeat, or :attr:`Lease.TTL_S` if it seems to have died elsewhere.
    """
    number, claim = _newest(store)
    if claim is None or claim.released or claim.owner.ended:
        return None
    try:
        _wait_until_stale(store, number, claim, Lease.TTL_S)
    except LeaseHeld:
        return claim.owner
    return None


class Lease:
    """The right to write an artifact, from :meth:`acquire` to :meth:`release`; :meth:`check` before each commit."""

    TTL_S = 20.0

    def __init__(self, store: Store, number: int, claim: Claim, beat_s: float) -> None:
        self._store, self._number, self._claim, self._beat_s = store, number, claim, beat_s
        self.fence = Fence(store, number, claim.owner)
        self._lost = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="clipline-lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls, store: Store, *, ttl_s: float | None = None, beat_s: float | None = None, reclaims: bool = False
    ) -> Lease:
        """Take the lease of the artifact at ``store``. ``reclaims``: to remove it.

        Raises LeaseHeld when another owner is seen alive. Finding out takes up to one heartbeat of the owner
        (``beat_s``: 2 s on local disk, 5 s on object stores), and up to ``ttl_s`` (:attr:`TTL_S`) if it seems to have
        died elsewhere.
        """
        beat_s = beat_s or (2.0 if isinstance(store, LocalStore) else 5.0)
        mine = Claim(Owner.current(), reclaims=reclaims)
        while True:
            number, claim = _newest(store)
            if claim is not None and not claim.released and not claim.owner.ended:
                _wait_until_stale(store, number, claim, cls.TTL_S if ttl_s is None else ttl_s)
            if store.create(_path(number + 1), mine.to_bytes()):
                return cls(store, number + 1, mine, beat_s)

    @property
    def lost(self) -> bool:
        """True if the heartbeat or a check has found another owner. Reads no file."""
        return self._lost

    def check(self) -> None:
        """Raises LeaseLost if another owner has taken over."""
        try:
            self.fence()
        except LeaseLost:
            self._lost = True
            raise

    def release(self) -> None:
        """Stop the heartbeat and give the lease back, unless it was lost."""
        self._done.set()
        self._thread.join()
        if not self._lost:
            try:
                self._write(replace(self._claim, released=True))
            except (OSError, TransientError, CredentialsError) as error:
                log.warning("The lease on %s could not be given back and will expire: %s", self._store.url, error)

    def end(self) -> None:
        """Stop the heartbeat and remove the lease with its history: the artifact is no more. Raises LeaseLost."""
        self._done.set()
        self._thread.join()
        self.check()
        self._store.delete("lease")
        self._lost = True

    def _write(self, claim: Claim) -> None:
        self._store.write(_path(self._number), claim.to_bytes())

    def _beat(self) -> None:
        failing = False
        while not self._done.wait(self._beat_s):
            self._claim = replace(self._claim, generation=self._claim.generation + 1)
            try:
                self.check()
                self._write(self._claim)
                failing = False
            except LeaseLost:
                return
            except (OSError, TransientError, CredentialsError) as error:
                # A store that does not answer proves nothing: work goes on, and check() decides before a commit.
                if not failing:
                    log.warning("The lease on %s cannot be renewed; still trying: %s", self._store.url, error)
                failing = True


def _path(number: int) -> str:
    return f"lease/{number:08d}.json"


def _newest_number(store: Store) -> int:
    paths = store.paths("lease")
    return int(Path(paths[-1]).stem) if paths else 0


def _newest(store: Store) -> tuple[int, Claim | None]:
    number = _newest_number(store)
    try:
        return number, Claim.from_bytes(store.read(_path(number))) if number else None
    except FileNotFoundError:  # removed this moment, with the artifact
        return 0, None


def _wait_until_stale(store: Store, number: int, claim: Claim, ttl_s: float) -> None:
    """Wait until the claim has not changed for ``ttl_s``. Raises LeaseHeld as soon as it changes."""
    deadline = time.monotonic() + ttl_s
    while time.monotonic() < deadline:
        time.sleep(min(0.2, ttl_s / 10))
        now, seen = _newest(store)
        if seen is None or (now == number and (seen.released or seen.owner.ended)):
            return
        if now != number or seen != claim:
            raise LeaseHeld(
                f"{store.url} is being {'removed by clipline gc' if seen.reclaims else 'written by another run'}",
                found=str(seen.owner),
                fix="wait for it (--wait), or stop it and run again",
            )


def _boot_id() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except FileNotFoundError:  # not Linux: then staleness is decided by the TTL alone
        return ""


def _process_start(pid: int) -> str:
    try:
        # Field 22; the command in field 2 may hold spaces and parentheses, so count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
