"""One writer per artifact: among processes, dead, frozen or cut off, on disk and on an object store."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from infra.errors import LeaseHeld, LeaseLost, TransientError
from infra.run.lease import Claim, Lease, Owner, current_claim
from infra.store import LocalStore, open_store

pytestmark = [pytest.mark.long, pytest.mark.alone]  # waits for leases

# Takes the lease and says so, then answers each line on stdin with whether it still has it.
HOLDER = """
import sys
from infra.errors import LeaseHeld, LeaseLost
from infra.run.lease import Lease
from infra.store import open_store
try:
    lease = Lease.acquire(open_store(sys.argv[1]), ttl_s=60, beat_s=0.05)
except LeaseHeld:
    sys.exit("refused")
print("held", flush=True)
for line in sys.stdin:
    try:
        lease.check()
    except LeaseLost:
        print("lost", flush=True)
    else:
        print("held", flush=True)
lease.release()
"""


class Holder:
    """Another process with the lease."""

    def __init__(self, url: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", HOLDER, url], text=True, **pipes)

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def ask(self) -> str:
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


@pytest.fixture
def start():
    holders = []

    def start(url):
        holders.append(Holder(url))
        return holders[-1]

    yield start
    for holder in holders:
        holder.process.kill()
        holder.process.communicate()


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    return LocalStore(tmp_path) if request.param == "local" else open_store(request.getfixturevalue("s3_url"))


def test_a_lease_is_taken_checked_and_given_back(store):
    assert current_claim(store) is None
    for _ in range(2):
        lease = Lease.acquire(store)
        lease.check()
        assert current_claim(store).owner.pid == os.getpid()
        lease.release()
        assert current_claim(store) is None
    assert store.paths() == ["lease/00000001.json", "lease/00000002.json"]


def test_whoever_comes_second_is_told_who_holds_it(store, start):
    holder = start(store.url)
    assert holder.answer() == "held"
    with pytest.raises(LeaseHeld) as caught:
        Lease.acquire(store, ttl_s=60)
    assert caught.value.found == f"process {holder.process.pid} on {socket.gethostname()}"
    assert caught.value.exit_code == 73
    assert holder.ask() == "held"
    assert current_claim(store).owner.pid == holder.process.pid
    assert holder.end() == 0
    Lease.acquire(store, ttl_s=60).release()


def test_of_many_processes_one_gets_it(tmp_path, start):
    holders = [start(str(tmp_path)) for _ in range(4)]
    answers = [holder.answer() for holder in holders]
    assert sorted(answers) == ["", "", "", "held"]
    assert [holder.end() for holder in holders] == [0 if answer == "held" else 1 for answer in answers]


def test_of_many_threads_one_gets_it(store):
    leases, refused, gate = [], [], threading.Barrier(4)

    def race():
        gate.wait()
        try:
            leases.append(Lease.acquire(store, ttl_s=60, beat_s=0.05))
        except LeaseHeld:
            refused.append(1)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(leases), len(refused)) == (1, 3)
    leases[0].check()
    leases[0].release()


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_the_lease_of_a_process_that_died_here_is_free_at_once(store, start, reaped):
    holder = start(store.url)
    assert holder.answer() == "held"
    holder.process.kill()
    if reaped:
        holder.process.wait()
    else:
        os.waitid(os.P_PID, holder.process.pid, os.WEXITED | os.WNOWAIT)
    assert current_claim(store) is None
    Lease.acquire(store, ttl_s=10_000).release()  # waiting out the TTL would run into the suite's timeout


def test_a_frozen_owner_is_waited_for_and_finds_out_when_it_thaws(store, start):
    holder = start(store.url)
    assert holder.answer() == "held"
    os.kill(holder.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, holder.process.pid, os.WSTOPPED | os.WNOWAIT)
    assert current_claim(store).owner.pid == holder.process.pid  # as good as alive until the TTL is over
    began = time.monotonic()
    lease = Lease.acquire(store, ttl_s=1.0)
    assert time.monotonic() - began >= 1.0
    os.kill(holder.process.pid, signal.SIGCONT)
    assert holder.ask() == "lost"
    lease.check()
    lease.release()
    assert holder.end() == 0
    lease = Lease.acquire(store)  # what the loser wrote, if anything, does not count
    lease.check()
    lease.release()


def test_an_owner_that_lost_gives_nothing_back(tmp_path):
    store = LocalStore(tmp_path)
    old = Lease.acquire(store, beat_s=60)
    assert store.create("lease/00000002.json", Claim(replace(Owner.current(), host="other")).to_bytes())
    with pytest.raises(LeaseLost, match="was lost"):
        old.check()
    old.release()
    assert current_claim(store).owner.host == "other"
    with pytest.raises(LeaseLost):
        old.check()


def test_workers_of_an_owner_that_lost_write_nothing_more(store):
    lease = Lease.acquire(store, beat_s=60)
    output = pickle.loads(pickle.dumps(store.fenced(lease.fence)))
    output.write("data/first", b"1")
    lease.release()
    output.write("data/second", b"2")  # given back is not taken
    following = Lease.acquire(store, beat_s=60)
    for change in (lambda: output.write("data/third", b"3"), lambda: output.delete("data"), lease.check):
        with pytest.raises(LeaseLost, match="another process has taken it"):
            change()
    assert store.paths("data") == ["data/first", "data/second"]
    following.end()  # the artifact is removed, and another begins where the first did
    Lease.acquire(store, beat_s=60).release()
    with pytest.raises(LeaseLost):
        output.write("data/third", b"3")


def test_the_heartbeat_notices_a_take_over_by_itself(tmp_path):
    store = LocalStore(tmp_path)
    lease = Lease.acquire(store, beat_s=0.01)
    assert not lease.lost
    assert store.create("lease/00000002.json", Claim(replace(Owner.current(), host="other")).to_bytes())
    lease._thread.join(30)
    assert lease.lost
    lease.release()


class Outage(LocalStore):
    """A store one can switch off. ``refused`` is set when it turned somebody away, ``written`` after each write."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.down, self.refused, self.written = False, threading.Event(), threading.Event()

    def read(self, path):
        if self.down:
            self.refused.set()
            raise TransientError("the store does not answer")
        return super().read(path)

    def write(self, path, data):
        super().write(path, data)
        self.written.set()


def test_an_outage_of_the_store_does_not_end_the_heartbeat(tmp_path, caplog):
    store = Outage(tmp_path)
    lease = Lease.acquire(store, beat_s=0.01)
    for _ in range(3):
        store.down = True
        store.refused.clear()
        assert store.refused.wait(10)
        with pytest.raises(TransientError):
            lease.check()  # unreachable is neither held nor lost
        store.down = False
        store.written.clear()
        assert store.written.wait(10)
        lease.check()
    lease.release()
    assert 1 <= sum("cannot be renewed" in message for message in caplog.messages) <= 3


def test_a_lease_that_cannot_be_given_back_expires(tmp_path, caplog, monkeypatch):
    store = LocalStore(tmp_path)
    lease = Lease.acquire(store, beat_s=60)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    lease.release()
    assert "could not be given back" in caplog.text


def test_no_clock_that_can_be_set_is_looked_at(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    monkeypatch.setattr(time, "time", lambda: pytest.fail("wall clock"))
    first = Lease.acquire(store, beat_s=60)
    claim = Claim(replace(Owner.current(), boot="another machine"))
    assert store.create("lease/00000002.json", claim.to_bytes())
    second = Lease.acquire(store, ttl_s=0.3)
    with pytest.raises(LeaseLost):
        first.check()
    second.check()
    text = b"".join(store.read_all(store.paths("lease"))).decode()
    assert not re.search(r"\b1[5-9]\d{8}\b|\b20\d\d-", text.replace(Owner.current().started, ""))
    first.release()
    second.release()


# --- owners


def test_a_process_knows_itself_to_be_alive():
    assert not Owner.current().ended
    assert Owner.current().id != Owner.current().id


def test_a_reused_process_number_is_somebody_else():
    assert replace(Owner.current(), started="1").ended


@pytest.mark.parametrize("boot", ["another machine or boot", ""])
def test_of_a_process_that_cannot_be_seen_nothing_is_claimed(boot):
    assert not replace(Owner.current(), boot=boot, pid=2**22 + 1).ended


def test_a_neighbour_in_another_container_is_not_taken_for_dead():
    """Containers of one machine share its boot id, but not the meaning of a process number."""
    boot, namespace = Owner.current().boot.split(" ")
    assert re.fullmatch(r"pid:\[\d+\]", namespace)
    assert not replace(Owner.current(), boot=f"{boot} pid:[1]", pid=2**22 + 1).ended


def test_a_claim_reads_back():
    claim = Claim(Owner.current(), generation=3, released=True)
    assert Claim.from_bytes(claim.to_bytes()) == claim
