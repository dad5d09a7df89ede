"""Shards of any make as new ones: every member of every sample, in the order and on the side of a plain loop."""

import gc
import io
import json
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
import webdataset
from PIL import Image

from infra.cluster import Limits
from infra.errors import DataError
from infra.formats.shards import TarWriter, read_samples
from infra.formats.testset import EvalSet
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import adopt
from pipelines.curate import reshard, subset
from pipelines.curate.reshard import Config, listed, sources
from pipelines.curate.shard import work, write
from pipelines.tables import read_table


def uid_of(number: int) -> str:
    return f"{hash64(f'a{number}'):016x}{hash64(f'b{number}'):016x}"


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 3 * number % 256, 7)).save(out, "WEBP" if number % 3 else "PNG", lossless=True)
    return out.getvalue()


def sample_of(number: int, known=True) -> dict[str, bytes]:
    """Members as other tools write them: an image of either form, a text, a label, two texts, vectors."""
    members = {"txt": f"number {number}".encode(), "webp" if number % 3 else "png": picture(number)}
    if known:
        members["json"] = json.dumps({"uid": uid_of(number), "cluster": f"c{number // 4}"}).encode()
    return members | {"cls": str(number % 5).encode(), "alt.txt": b"another", "npy": bytes(number)}


def write_tars(folder, samples, per_tar, suffix="") -> Artifact:
    """Adopted tars of uneven sizes: every third is half empty."""
    folder.mkdir()
    left, tar = list(samples), 0
    while left:
        size = per_tar if tar % 3 else per_tar // 2
        with (folder / f"{tar:03d}{suffix}.tar").open("wb") as file, TarWriter(file) as out:
            for key, members in left[:size]:
                for extension, data in members.items():
                    out.add(f"{key}.{extension}", data)
        left, tar = left[size:], tar + 1
    config = adopt.Config(path=str(folder), contents=adopt.Shards())
    context = Context(folder.with_name(f"{folder.name}-adopted"), location=config.location())
    return Artifact(context.store, adopt.run(config, {}, context))


def resharded(folder, config, inputs) -> Artifact:
    context = Context(folder)
    return Artifact(context.store, reshard.run(config, inputs, context))


def bytes_of(artifact):
    return {file.path: artifact.read(file.path) for file in artifact.files()}


def members_in(artifact, side="train"):
    files = artifact.files(f"data/{side}/", ".tar")
    samples = [list(read_samples(io.BytesIO(artifact.read(file.path)))) for file in files]
    return [[{name: data for name, data in one.items() if name != "__key__"} for one in part] for part in samples]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(sources, "LOT_BYTES", 8_000)
    monkeypatch.setattr(work, "_REFERENCES", 17)
    monkeypatch.setattr(listed, "_IDS", 13)
    monkeypatch.setattr(listed, "_LINES", 200)
    monkeypatch.setattr(work, "_ROWS", 14)
    monkeypatch.setattr(write, "_BYTES", 1_000)


def plain_order(numbers, times, seed=0):
    """Samples for training in order: each as often as it repeats, by a hash of its uid and turn."""
    turns = [(number, turn) for number in numbers for turn in range(times.get(number, 1))]
    name = {one: uid_of(one[0]) + (f"-{one[1]}" if one[1] else "") for one in turns}
    return [number for number, _ in sorted(turns, key=lambda one: hash64(f"{seed}/order/{name[one]}"))]


def held_out(numbers, fraction, seed=0):
    return {number for number in numbers if hash64(f"{seed}/split/c{number // 4}") < fraction * 2**64}


@pytest.mark.long
@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_all_samples_come_whole_in_a_new_order(small_parts, tmp_path, fraction):
    shards = write_tars(tmp_path / "tars", [(f"{n:04d}", sample_of(n)) for n in range(100)], 17)
    artifact = resharded(
        tmp_path / "r", Config(samples_per_shard=9, holdout_fraction=fraction, seed=3), {"shards": shards}
    )
    out = held_out(range(100), fraction, seed=3)
    parts = members_in(artifact)
    assert [len(part) for part in parts[:-1]] == [9] * (len(parts) - 1)
    train = plain_order([n for n in range(100) if n not in out], {}, seed=3)
    assert [one for part in parts for one in part] == [sample_of(n) for n in train]
    tests = [one for part in members_in(artifact, "holdout/test") for one in part]
    assert {one["txt"].decode() for one in tests} == {f"number {n}" for n in out}
    assert len(tests) == len(out) and bool(out) == (fraction > 0)
    assert artifact.manifest.facts == {"train": 100 - len(out), "holdout": len(out), "holdout_captions": len(out)}
    assert (artifact.manifest.funnel.unit, artifact.manifest.funnel.kept) == ("samples", 100)
    if out:
        assert len(list(EvalSet.open(artifact, "holdout", "test"))) == len(out)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_several_inputs_become_one_and_other_readers_read_it(small_parts, tmp_path):
    inputs = {
        "shards": write_tars(tmp_path / "a", [(f"{n}", sample_of(n)) for n in range(30)], 8),
        "shards_b": write_tars(tmp_path / "b", [(f"x/{n}", sample_of(n + 30)) for n in range(25)], 50),
    }
    artifact = resharded(tmp_path / "r", Config(samples_per_shard=20), inputs)
    place = artifact.store.local_path("data/train")
    dataset = webdataset.WebDataset([f"{place}/{n:05d}.tar" for n in range(3)], shardshuffle=False)
    assert [int(sample["txt"].split()[1]) for sample in dataset] == plain_order(range(55), {})
    assert json.loads(artifact.read("data/train/sizes.json")) == {"00000.tar": 20, "00001.tar": 20, "00002.tar": 15}
    del dataset
    gc.collect()  # here, where the files webdataset leaves open are forgiven
    # Shards of shards are shards, too, in another order; what was held out stays out.
    again = resharded(tmp_path / "again", Config(samples_per_shard=50, seed=1), {"shards": artifact})
    found = [one["txt"].decode() for part in members_in(again) for one in part]
    assert found == [f"number {n}" for n in plain_order(range(55), {}, seed=1)]


def test_a_subset_is_taken_as_often_as_it_lists(small_parts, tmp_path):
    times = {number: 1 + number % 3 for number in range(5, 60, 2)}
    ids = sorted(divmod(int(uid_of(n), 16), 2**64) for n, several in times.items() for _ in range(several))
    context = Context(tmp_path / "subset")
    with context.output.open("data/subset.npy") as out:
        np.save(out, np.array(ids, np.dtype("u8,u8")))
    chosen = Artifact(context.store, context.finish())
    shards = write_tars(tmp_path / "tars", [(f"{n:04d}", sample_of(n)) for n in range(100)], 30)
    artifact = resharded(tmp_path / "r", Config(samples_per_shard=10), {"shards": shards, "subset": chosen})
    assert [one for part in members_in(artifact) for one in part] == [sample_of(n) for n in plain_order(times, times)]
    assert artifact.manifest.facts["repeated"] == sum(times.values()) - len(times)
    assert artifact.manifest.funnel.dropped == {"subset": 100 - len(times)}
    rows = [row for file in artifact.files("data/dropped") for row in read_table(artifact.store, file.path).to_pylist()]
    assert {row["uid"] for row in rows} == {uid_of(n) for n in range(100) if n not in times}
    # DataComp's own shards have the ids as keys, with the number of the repetition.
    keyed = [(f"{uid_of(n)}-0", sample_of(n, known=False)) for n in range(100)]
    artifact = resharded(
        tmp_path / "k", Config(), {"shards": write_tars(tmp_path / "keyed", keyed, 40), "subset": chosen}
    )
    assert Counter(one["txt"].decode() for part in members_in(artifact) for one in part) == {
        f"number {n}": several for n, several in times.items()
    }
    unknown = write_tars(tmp_path / "unknown", [(f"{n}", sample_of(n, known=False)) for n in range(4)], 40)
    with pytest.raises(DataError, match="sample '0' has no id"):
        resharded(tmp_path / "u", Config(), {"shards": unknown, "subset": chosen})


def test_samples_that_are_none_are_dropped_for_a_reason(tmp_path):
    samples = [(f"{n}", sample_of(n, known=n % 2 > 0)) for n in range(10)]
    samples[3] = ("3", {"txt": b"no image"})
    samples[4] = ("4", {**sample_of(4), "json": b"{"})
    samples[5] = ("5", {**sample_of(5), "json": b'["a", "list"]'})
    samples[6] = ("6", {"png": picture(6)})
    artifact = resharded(tmp_path / "r", Config(), {"shards": write_tars(tmp_path / "tars", samples, 30)})
    assert artifact.manifest.funnel.dropped == {"image_missing": 1, "malformed_row": 1}
    (file,) = artifact.files("data/dropped")
    assert read_table(artifact.store, file.path).select(["key", "reason"]).to_pylist() == [
        {"key": "3", "reason": "image_missing"}, {"key": "4", "reason": "malformed_row"},
    ]  # fmt: skip
    kept = [one for part in members_in(artifact) for one in part]
    assert sorted(map(str, kept)) == sorted(str(members) for n, (_, members) in enumerate(samples) if n not in (3, 4))
    # An image that is there twice is on one side.
    twice = [(f"{n}", {"png": picture(3 * (n // 2)), "txt": f"{n}".encode()}) for n in range(60)]
    halves = resharded(
        tmp_path / "h", Config(holdout_fraction=0.5), {"shards": write_tars(tmp_path / "twice", twice, 9)}
    )
    train, tests = ([one for part in members_in(halves, side) for one in part] for side in ("train", "holdout/test"))
    assert {sha256(one["png"]).digest() for one in train}.isdisjoint(sha256(one["png"]).digest() for one in tests)
    assert len(tests) > 5 and all(len(one["txt"].split(b"\n")) == 2 for one in tests)


def test_nothing_at_all(tmp_path):
    shards = write_tars(tmp_path / "tars", [("0", {"txt": b"no image", "png": b"x"})], 30)
    context = Context(tmp_path / "none")
    context.output.write("data/subset.txt", f"{uid_of(1)}\n".encode())
    keyed = write_tars(tmp_path / "keyed", [(uid_of(2), sample_of(2))], 9)
    inputs = {"shards": keyed, "subset": Artifact(context.store, context.finish())}
    artifact = resharded(tmp_path / "r", Config(), inputs)
    assert (artifact.manifest.funnel.kept, artifact.manifest.facts["train"]) == (0, 0)
    assert shards.files()


def as_npy(context, ids):
    with context.output.open("data/subset.npy") as out:
        np.save(out, np.array([divmod(int(one, 16), 2**64) for one in ids], np.dtype("u8,u8")))


FORMS = {
    "npy": as_npy,
    "txt": lambda context, ids: context.output.write("data/ids.txt", "\n".join([*ids, "", ids[0].upper()]).encode()),
    "json": lambda context, ids: context.output.write("data/ids.json", json.dumps(ids).encode()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_list_is_joined_in_parts(small_parts, tmp_path, form):
    """Ids that no sample has, ids in any order, more of them than of samples; each as often as it is listed."""
    times = {n: 1 + n % 4 for n in range(0, 300, 3)}
    ids = [uid_of(n) for n, several in times.items() for _ in range(several)]
    np.random.default_rng(0).shuffle(ids)
    context = Context(tmp_path / "subset")
    FORMS[form](context, ids)
    inputs = {"subset": Artifact(context.store, context.finish())}
    inputs["shards"] = write_tars(tmp_path / "tars", [(f"{n:04d}", sample_of(n)) for n in range(100)], 17)
    artifact = resharded(tmp_path / "r", Config(), inputs)
    found = Counter(one["txt"].decode() for part in members_in(artifact) for one in part)
    listed_ids = Counter([*ids, ids[0]] if form == "txt" else ids)
    assert found == {f"number {n}": listed_ids[uid_of(n)] for n in times if n < 100}


def test_what_is_no_list_of_ids_is_an_error(tmp_path):
    shards = write_tars(tmp_path / "tars", [(f"{n:04d}", sample_of(n)) for n in range(3)], 17)
    wrong = {"a.npy": b"\x93NUMPY\x09", "b.npy": b"text", "c.txt": b"no id\n", "d.json": b'["00"]'}
    for name, data in wrong.items():
        context = Context(tmp_path / name)
        context.output.write(f"data/{name}", data)
        with pytest.raises(DataError, match=r"no subset|holds something else"):
            given = Artifact(context.store, context.finish())
            resharded(tmp_path / f"r{name}", Config(), {"shards": shards, "subset": given})
    context = Context(tmp_path / "floats")
    with context.output.open("data/subset.npy") as out:
        np.save(out, np.zeros(4))
    with pytest.raises(DataError, match=r"subset\.npy is no subset"):
        given = Artifact(context.store, context.finish())
        resharded(tmp_path / "f", Config(), {"shards": shards, "subset": given})


@pytest.mark.parametrize("chosen", [False, True])
def test_bytes_are_the_same_for_any_workers_and_kills(
    small_parts, tmp_path, monkeypatch, ray_cluster, killed_until_done, chosen
):
    shards = write_tars(tmp_path / "tars", [(f"{n:04d}", sample_of(n, known=n % 5 > 0)) for n in range(100)], 17)
    inputs, config = {"shards": shards}, Config(samples_per_shard=7, holdout_fraction=0.2)
    if chosen:
        shards = inputs["shards"] = write_tars(tmp_path / "all", [(f"{n:04d}", sample_of(n)) for n in range(100)], 17)
        context = Context(tmp_path / "subset")
        as_npy(context, [uid_of(n) for n in range(0, 150, 2)])
        inputs["subset"] = Artifact(context.store, context.finish())
    here = bytes_of(resharded(tmp_path / "here", config, inputs))
    if not chosen:  # the tars have no say
        samples = [(f"{n:04d}", sample_of(n, known=n % 5 > 0)) for n in range(100)]
        renamed = write_tars(tmp_path / "other", samples, 40, "-x")
        assert bytes_of(resharded(tmp_path / "renamed", config, {"shards": renamed})) == here
    monkeypatch.setattr(work, "_SMALL", 0)
    for workers in (1, 2, 4):
        limits = Limits(cpus=0.5, in_flight=workers)
        assert bytes_of(resharded(tmp_path / f"{workers}", config.replace(limits=limits), inputs)) == here
    monkeypatch.setattr(work, "_SMALL", 1000)
    assert killed_until_done(lambda: bytes_of(resharded(tmp_path / "killed", config, inputs))) == here


def test_a_subset_stage_feeds_it(tmp_path):
    import pyarrow as pa

    context = Context(tmp_path / "selection")
    context.output.write_table("data/kept-00000.parquet", pa.table({"uid": [uid_of(n) for n in range(4)]}))
    out = Context(tmp_path / "subset")
    ids = Artifact(
        out.store, subset.run(subset.Config(), {"selection": Artifact(context.store, context.finish())}, out)
    )
    shards = write_tars(tmp_path / "tars", [(f"{n}", sample_of(n)) for n in range(9)], 30)
    artifact = resharded(tmp_path / "r", Config(), {"shards": shards, "subset": ids})
    assert artifact.manifest.facts["train"] == 4
