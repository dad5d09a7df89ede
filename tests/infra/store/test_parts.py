"""Parts of a journal in a bucket: merged, and none lost or seen twice, whoever dies when or wakes up late."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import CredentialsError
from infra.store import parts
from infra.store.remote import ObjectStore


class Died(BaseException):
    """The process is gone."""


class Mortal(ObjectStore):
    """A store whose process dies before or after its request number ``last``; deletions are a request each."""

    def __init__(self, url, last=-1, after=False):
        super().__init__(url)
        self.left, self.after = last, after

    def _request(self, send):
        self.left -= 1
        if self.left == -1 and not self.after:
            raise Died
        found = send()
        if self.left == -1:
            raise Died
        return found

    def create(self, path, data):
        return self._request(lambda: super(Mortal, self).create(path, data))

    def paths(self, prefix=""):
        return self._request(lambda: super(Mortal, self).paths(prefix))

    def read_all(self, paths):
        return self._request(lambda: super(Mortal, self).read_all(paths))

    def delete_all(self, paths):
        for path in paths:
            self._request(lambda path=path: super(Mortal, self).delete_all([path]))


class Reader:
    """Follows a log from where it was."""

    def __init__(self, url):
        self._store, self._position, self.seen = ObjectStore(url), 0, []

    def go_on(self):
        data, self._position = self._store.read_appended("log", self._position)
        self.seen += data.decode().split()
        return self.seen


@pytest.fixture
def by_three(monkeypatch):
    """Three are merged, and three of those."""
    monkeypatch.setattr(parts, "_TOGETHER", 3)
    monkeypatch.setattr(parts, "_WIDEST", 9)


def fresh():
    return f"memory://parts-{uuid.uuid4().hex}"


def names(url):
    return [path.removeprefix("log/") for path in ObjectStore(url).paths("log")]


def test_sixteen_are_merged_and_sixteen_of_those():
    url = fresh()
    store, reader = ObjectStore(url), Reader(url)
    for n in range(300):
        store.append("log", b"%d\n" % n)
        if n % 7 == 0:
            assert reader.go_on() == [str(k) for k in range(n + 1)]
    assert names(url) == ["00000000-00000255", "00000256-00000271", "00000272-00000287"] + [
        f"{n:08d}" for n in range(288, 300)
    ]
    for start in (0, 1, 255, 256, 299, 300, 305):
        data, position = ObjectStore(url).read_appended("log", start)
        assert (data.decode().split(), position) == ([str(n) for n in range(start, 300)], max(start, 300))


@pytest.mark.parametrize("after", [False, True])
def test_whenever_a_writer_dies_nothing_is_lost_or_seen_twice(by_three, after):
    """Each request of twelve appends is the last one of its process in turn; another process goes on."""
    points = 0
    while True:
        url = fresh()
        reader, store, done = Reader(url), Mortal(url, points, after), []
        try:
            for n in range(12):
                store.append("log", b"%d\n" % n)
                done.append(str(n))
                reader.go_on()
        except Died:
            pass
        else:
            break
        for n in range(12, 24):
            ObjectStore(url).append("log", b"%d\n" % n)
        # What was being appended may be there, too, once.
        seen = reader.go_on()
        assert seen in ([*done, *map(str, range(12, 24))], [*done, str(len(done)), *map(str, range(12, 24))])
        assert Reader(url).go_on() == seen
        assert len(names(url)) <= 6  # what the dead one left is cleared up
        points += 1
    assert points > 40


@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.integers(0, 3), max_size=60))
def test_writers_that_slept_append_behind_what_was_merged_meanwhile(turns):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_TOGETHER", 3)
        patch.setattr(parts, "_WIDEST", 9)
        url = fresh()
        writers, reader = [ObjectStore(url) for _ in range(4)], Reader(url)
        for n, turn in enumerate(turns):
            writers[turn].append("log", b"%d\n" % n)
            assert reader.go_on() == [str(k) for k in range(n + 1)]
        assert Reader(url).go_on() == reader.seen
        assert len(names(url)) <= len(turns) / 9 + 4


def test_a_writer_may_sleep_through_any_merge(by_three):
    for asleep in range(20):
        url = fresh()
        late, other = ObjectStore(url), ObjectStore(url)
        late.append("log", b"first\n")
        for n in range(asleep):
            other.append("log", b"%d\n" % n)
        late.append("log", b"last\n")
        assert Reader(url).go_on() == ["first", *map(str, range(asleep)), "last"]


def test_writers_at_one_moment_lose_nothing(by_three, monkeypatch):
    one_at_a_time, create = threading.Lock(), ObjectStore.create

    def exclusively(self, path, data):  # as S3 does; fsspec's memory looks first and writes then
        with one_at_a_time:
            return create(self, path, data)

    monkeypatch.setattr(ObjectStore, "create", exclusively)
    url = fresh()
    writers = [ObjectStore(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: writers[n % 4].append("log", b"%d\n" % n), range(100)))
    assert sorted(map(int, Reader(url).go_on())) == list(range(100))


def test_a_writer_that_may_not_delete_goes_on(by_three, monkeypatch):
    def refused(self, paths):
        raise CredentialsError("AccessDenied")

    monkeypatch.setattr(ObjectStore, "delete_all", refused)
    url = fresh()
    store = ObjectStore(url)
    for n in range(20):
        store.append("log", b"%d\n" % n)
    assert Reader(url).go_on() == [str(n) for n in range(20)]


def test_a_listing_that_another_writer_outdates_meanwhile_is_made_anew(by_three):
    url = fresh()
    store, other, listing = ObjectStore(url), ObjectStore(url), ObjectStore.paths
    store.append("log", b"1\n")
    store.append("log", b"2\n")

    def merged_behind(self, prefix=""):
        found = listing(self, prefix)
        if self is store and len(found) == 2:
            other.append("log", b"3\n")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "paths", merged_behind)
        assert store.read_appended("log") == (b"1\n2\n3\n", 3)
    assert names(url) == ["00000000-00000002"]
