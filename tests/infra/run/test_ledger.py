"""The ledger: a shard is done once, thousands become one file, and a kill anywhere changes nothing in the end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from infra.errors import DataError
from infra.run import ledger as module
from infra.run.context import Context, ShardOutput
from infra.run.ledger import Ledger
from infra.run.manifest import MANIFEST, Artifact, File, Funnel, Manifest, ShardRecord
from infra.run.pieces import Records
from infra.store import LocalStore, open_store

pytestmark = pytest.mark.long  # kills at every write

NAMES = [f"{number:05d}" for number in range(10)]


def pieces_of(monkeypatch, count: int) -> None:
    monkeypatch.setattr(module, "PIECE", count)
    monkeypatch.setattr("infra.run.pieces.PIECE", count)


@pytest.fixture(autouse=True)
def pieces_of_four(monkeypatch):
    pieces_of(monkeypatch, 4)


@pytest.fixture(params=["local", "object"])
def store(request, tmp_path):
    return LocalStore(tmp_path / "a") if request.param == "local" else open_store(f"memory://ledger-{tmp_path.name}")


def work(store, name: str) -> ShardRecord:
    number = int(name)
    output = ShardOutput(store, name)
    output.write(f"data/{name}.tar", name.encode(), rows=number)
    facts = {"unforeseen": {"KeyError in f": 1}} if number % 3 == 0 else {}
    return output.commit(Funnel("rows", number + 1, number, {"small": 1}), {"number": number, **facts})


def run(store, names: Sequence[str] = NAMES) -> Records:
    """A loop over shards, in the order 1, 0, 3, 2, ..., as workers side by side would do them."""
    tally = Ledger(store).tally(names)
    for number in sorted(tally.left(), key=lambda number: number ^ 1):
        tally.add(number, work(store, names[number]))
    return tally.records()


def finished(store) -> bytes:
    return Context(store, stage="toy").finish(run(store)).to_bytes()


def contents(store) -> dict[str, bytes]:
    return {path: store.read(path) for path in store.paths()}


# --- pieces


def test_every_four_shards_become_one_file(store):
    records = run(store)
    assert [record.shard for record in records] == NAMES
    assert [record.facts["number"] for record in records] == list(range(10))
    assert [path.rpartition("-")[2] for path in store.paths("ledger") if path.endswith(".jsonl")] == ["4.jsonl"] * 2
    assert [path for path in store.paths("ledger") if path.endswith(".json")] == [
        "ledger/00008.json",
        "ledger/00009.json",
    ]
    assert Ledger(store).count() == len(records) == 10


def test_records_are_a_sequence(store):
    records, whole = run(store), list(run(store))
    assert [records[0], records[5], records[-1]] == [whole[0], whole[5], whole[-1]]
    for part in (slice(3), slice(2, 9, 3), slice(-2, None), slice(None, None, -1), slice(7, 2)):
        assert records[part] == whole[part]
    with pytest.raises(IndexError):
        records[10]
    both = records.plus(whole[:1])
    assert list(both) == [*whole, whole[0]]
    assert len(both) == 11


def test_what_pieces_come_to_is_what_their_records_come_to(store):
    records, apart = run(store), Records(store, rest=list(run(store)))
    assert records.total() == apart.total() == Funnel("rows", 55, 45, {"small": 10})
    assert records.unforeseen() == apart.unforeseen() == {"KeyError in f": 4}
    assert Records(store).funnel("rows") == Funnel("rows", 0, 0)
    assert [path for some in records.paths() for path in some] == next(apart.paths())


def test_the_ledger_reads_what_is_in_pieces_too(store):
    expected = {record.shard: record for record in run(store)}
    assert Ledger(store).read() == expected
    assert Ledger(store).read(["00002", "00009", "none"]) == {name: expected[name] for name in ("00002", "00009")}
    assert [record.shard for record in Ledger(store).loose(["00002", "00009"])] == ["00009"]


def test_loops_of_one_stage_do_not_mix(store):
    first, second = NAMES[:5], [f"1{name[1:]}" for name in NAMES[:5]]
    assert [record.shard for record in run(store, first)] == first
    assert [record.shard for record in run(store, second)] == second
    assert list(Ledger(store).tally(first).left()) == list(Ledger(store).tally(second).left()) == []
    assert Ledger(store).count() == 10


def test_shards_that_are_forgotten_are_done_again_and_no_others(store):
    whole = finished(store)
    before = contents(store)
    Ledger(store).forget("00001", "00002", "00009", "never done")
    assert [NAMES[number] for number in Ledger(store).tally(NAMES).left()] == ["00001", "00002", "00009"]
    assert Ledger(store).read().keys() == {*NAMES} - {"00001", "00002", "00009"}
    Ledger(store).forget("00003")
    assert Ledger(store).count() == 6
    assert finished(store) == whole
    assert contents(store) == before
    Ledger(store).forget(*NAMES)
    assert store.paths("ledger") == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-20],
        lambda data: data[: data.rindex(b"\n", 0, -1) + 1],  # a whole line less
        lambda data: data.replace(b'"shards"', b'"shard"'),
    ],
)
def test_a_damaged_piece_is_named(store, damage):
    records = run(store)
    path = records.pieces[0].path
    store.write(path, damage(store.read(path)))
    with pytest.raises(DataError, match=rf"{path} is not a piece"):
        list(records)
    with pytest.raises(DataError, match=path):
        list(Artifact(store, Manifest("toy", "0", {}, pieces=records.pieces)).files())


# --- the manifest


def test_a_manifest_names_pieces_and_the_artifact_has_all_their_files(store):
    store.write(MANIFEST, finished(store))
    artifact = Artifact.load(store)
    manifest = artifact.manifest
    assert [piece.shards for piece in manifest.pieces] == [4, 4]
    assert [file.path for file in manifest.files] == ["data/00008.tar", "data/00009.tar"]
    assert [file.path for file in artifact.files("data/", ".tar")] == [f"data/{name}.tar" for name in NAMES]
    assert (manifest.file_count, manifest.size, manifest.rows) == (10, 50, 45)
    assert manifest.funnel == Funnel("rows", 55, 45, {"small": 10})
    assert manifest.facts == {"unforeseen": {"KeyError in f": 4}}
    assert list(artifact.verify()) == []
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_what_is_no_loop_is_packed_for_the_manifest(store):
    """A crawl's rounds, or several small loops: their records are one list, and the ledger keeps them."""
    records = [work(store, name) for name in NAMES]
    context = Context(store, stage="toy")
    context.output.write("data/more.txt", b"one")
    store.write(MANIFEST, context.finish(records).to_bytes())
    artifact = Artifact.load(store)
    assert [piece.shards for piece in artifact.manifest.pieces] == [4, 4]
    assert [file.path for file in artifact.manifest.files] == ["data/00008.tar", "data/00009.tar", "data/more.txt"]
    assert [file.path for file in artifact.files("data/", ".tar")] == [f"data/{name}.tar" for name in NAMES]
    assert artifact.manifest.funnel == Funnel("rows", 55, 45, {"small": 10})
    assert artifact.manifest.facts == {"unforeseen": {"KeyError in f": 4}}
    assert list(artifact.verify()) == [] and Ledger(store).count() == 10
    again = Context(store, stage="toy")
    again.output.write("data/more.txt", b"one")
    assert again.finish(records).to_bytes() == store.read(MANIFEST)
    with pytest.raises(DataError, match="same file") as caught:
        Context(store).finish([*records, ShardRecord("again", [File("data/00001.tar", 5)])])
    assert caught.value.found == "data/00001.tar"


@pytest.mark.parametrize("step", [1, 3, 10])
def test_records_may_be_packed_as_they_come(store, step):
    """So no stage of many loops holds all its records; the manifest is that of records packed at the end."""
    records, packed = [work(store, name) for name in NAMES], Records(store)
    at_once = Context(store, stage="toy").finish(records).to_bytes()
    for start in range(0, 10, step):
        packed = packed.plus(records[start : start + step]).packed()
        assert len(packed.rest) < 4 and list(packed) == records[: start + step]
    assert Context(store, stage="toy").finish(packed).to_bytes() == at_once


def test_verify_looks_into_pieces_and_at_them(store):
    store.write(MANIFEST, finished(store))
    artifact = Artifact.load(store)
    first, second = (piece.path for piece in artifact.manifest.pieces)
    store.delete("data/00001.tar")
    store.write("data/00002.tar", b"other")
    store.write(second, store.read(second).replace(b'"rows":5', b'"rows":6'))
    assert [(file.path, wrong) for file, wrong in artifact.verify()] == [
        ("data/00001.tar", "missing"),
        ("data/00002.tar", "content differs"),
        (second, "content differs"),
    ]
    store.delete(first)
    assert next(artifact.verify()) == (File(first, 0), "missing")


def test_the_content_digest_is_of_files_in_pieces_too(tmp_path):
    def digest(change=lambda record: record) -> str:
        store = LocalStore(tmp_path / str(len(list(tmp_path.glob("*")))))
        tally = Ledger(store).tally(NAMES)
        for number in tally.left():
            tally.add(number, change(work(store, NAMES[number])))
        return Context(store).finish(tally.records()).content_digest

    def other_file(record: ShardRecord) -> ShardRecord:
        return replace(record, files=[replace(record.files[0], sha256="0" * 64)]) if record.shard == "00002" else record

    assert digest() == digest() == digest(lambda record: replace(record, facts={}))
    assert digest(other_file) != digest()


def test_two_shards_of_different_pieces_that_wrote_the_same_file_are_refused(store):
    tally = Ledger(store).tally(NAMES)
    for number, name in enumerate(NAMES):
        output = ShardOutput(store, name)
        output.write(f"data/{number % 9}", b"")
        tally.add(number, output.commit())
    with pytest.raises(DataError, match="same file") as caught:
        Context(store).finish(tally.records())
    assert caught.value.found == "data/0"


def test_a_manifest_stays_small(tmp_path, monkeypatch):
    pieces_of(monkeypatch, 1000)

    class Silent(LocalStore):
        def delete_all(self, paths):
            pass  # there are no sidecars

    def size(count: int) -> int:
        store = Silent(tmp_path / str(count))
        tally = Ledger(store).tally([f"{number:05d}" for number in range(count)])
        for number in tally.left():
            files = [File(f"data/{number:05d}.tar", 1, "0" * 64)]
            tally.add(number, ShardRecord(f"{number:05d}", files, Funnel("rows", 1, 1)))
        return len(Context(store).finish(tally.records()).to_bytes())

    assert size(20_000) - size(10_000) < 10 * 500


# --- kills


class Killed(BaseException):
    pass


class Fragile(LocalStore):
    """A store whose process dies before or after its write number ``at``; the deletion of files counts as many."""

    at, after, count = -1, False, 0

    def _step(self, action) -> None:
        if Fragile.count == Fragile.at and not Fragile.after:
            raise Killed
        action()
        Fragile.count += 1
        if Fragile.count - 1 == Fragile.at:
            raise Killed

    def write(self, path, data):
        self._step(lambda: super(Fragile, self).write(path, data))

    def delete(self, path):
        self._step(lambda: super(Fragile, self).delete(path))

    def delete_all(self, paths):
        for path in paths:
            self.delete(path)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("forgotten", [(), ("00001", "00006")])
def test_a_kill_at_any_write_changes_nothing_in_the_end(tmp_path, monkeypatch, after, forgotten):
    def whole(store) -> bytes:
        if forgotten and not store.exists("forgotten"):
            run(store)
            Ledger(store).forget(*forgotten)
            LocalStore.write(store, "forgotten", b"")
        return finished(store)

    expected = whole(LocalStore(tmp_path / "undisturbed"))
    files = contents(LocalStore(tmp_path / "undisturbed"))
    done: list[tuple[str, bytes]] = []
    original = work

    def once(store, name):
        record = original(store, name)
        done.append((name, b""))
        return record

    monkeypatch.setattr(f"{__name__}.work", once)
    monkeypatch.setattr(Fragile, "after", after)
    for at in range(1000):
        store = Fragile(tmp_path / f"{at}")
        monkeypatch.setattr(Fragile, "at", at)
        monkeypatch.setattr(Fragile, "count", 0)
        try:
            made = whole(store)
            killed = False
        except Killed:
            killed = True
            committed = Ledger(store).read().keys()
            done.clear()
            made = whole(LocalStore(store.root))
            if not forgotten:
                assert not committed & {name for name, _ in done}, at
        assert made == expected, at
        assert contents(store) == files, at
        if not killed:
            break
    assert at >= 20


# --- an object store


def test_a_loop_of_many_shards_goes_on_with_few_requests(s3_url, monkeypatch):
    import s3fs

    requests: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *args, **kwargs):
        requests.append(method)
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    pieces_of(monkeypatch, 50)
    store, names = open_store(s3_url), [f"{number:05d}" for number in range(150)]
    tally = Ledger(store).tally(names)
    for number in tally.left():
        record = ShardRecord(names[number], [File(f"data/{names[number]}", 1)])
        Ledger(store).commit(record)
        tally.add(number, record)
    assert requests.count("delete_objects") == 3
    requests.clear()
    again = Ledger(store).tally(names)
    assert list(again.left()) == []
    manifest = Context(store).finish(again.records())
    assert manifest.file_count == 150
    assert len(requests) <= 10, requests  # a listing; of each piece its head and its files
