"""Ids as DataComp's subsets: read as its resharder reads them; rows that repeat, from a list to the training shards."""

import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from infra.cluster import Limits
from infra.errors import DataError, UsageError
from infra.formats.shards import read_samples, write_triple
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate import filter as filtering
from pipelines.curate import shard, subset
from pipelines.curate.filter.rules import Subset
from pipelines.curate.subset import work


def uid_of(number: int) -> str:
    return f"{hash64(f'a{number}'):016x}{hash64(f'b{number}'):016x}"


def selection_of(folder, rows, per_shard=20, prefix="kept-") -> Artifact:
    context = Context(folder)
    for start in range(0, len(rows), per_shard):
        table = pa.Table.from_pylist(rows[start : start + per_shard])
        context.output.write_table(f"data/{prefix}{start // per_shard:05d}.parquet", table)
    if prefix:  # as balance has beside its selection
        context.output.write_table("data/entries.parquet", pa.table({"entry": ["cat"]}))
    return Artifact(context.store, context.finish())


def written(folder, inputs, **fields) -> Artifact:
    context = Context(folder)
    return Artifact(context.store, subset.run(subset.Config(**fields), inputs, context))


def ids_in(artifact):
    return np.load(io.BytesIO(artifact.read(work.SUBSET)), allow_pickle=False)


def times_by_datacomp(ids, uid):
    """How often DataComp's resharder writes a sample: by bisection among structured 128-bit numbers."""
    key = np.array([divmod(int(uid, 16), 2**64)], np.dtype("u8,u8"))[0]
    return int(np.searchsorted(ids, key, "right") - np.searchsorted(ids, key, "left"))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(work, "_ROWS", 13)


@pytest.mark.long
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([None, 1, 2, 5])), max_size=60))
@example([*[(0, None)] * 40, (0, 1)])  # in the first shard the column has no type
def test_datacomp_finds_each_id_as_often_as_its_row_repeats(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("subset")
    table = [{"uid": uid_of(number), "repeats": times} for number, times in rows] or [{"uid": None}][:0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_ROWS", 13)
        artifact = written(folder / "w", {"selection": selection_of(folder / "s", table)})
    ids = ids_in(artifact)
    assert ids.dtype == np.dtype("u8,u8")
    assert ids.tolist() == sorted(ids.tolist())
    times = {}
    for number, several in rows:
        times[number] = max(times.get(number, 1), several or 1)
    assert {number: times_by_datacomp(ids, uid_of(number)) for number in range(32)} == {
        number: times.get(number, 0) for number in range(32)
    }
    assert artifact.manifest.facts == {"ids": sum(times.values()), "rows": len(rows)}
    assert {path.split("/")[0] for path in artifact.store.paths()} == {"data", "ledger"}
    assert list(artifact.verify()) == []


def test_pairs_have_ids_too_and_other_uids_are_refused(tmp_path, small_parts):
    rows = [{"uid": uid_of(number), "url": "http://a.example/"} for number in range(50)]
    artifact = written(tmp_path / "w", {"pairs": selection_of(tmp_path / "p", rows, prefix="")})
    assert len(ids_in(artifact)) == 50
    for wrong in ("17", uid_of(1).upper(), None):
        with pytest.raises(DataError, match="no id of DataComp's"):
            inputs = {"selection": selection_of(tmp_path / f"s{wrong}", [*rows[:3], {"uid": wrong}])}
            written(tmp_path / f"w{wrong}", inputs)
    with pytest.raises(UsageError, match="a selection or pairs"):
        subset.Config().check_inputs(["selection", "pairs"])


def test_bytes_are_the_same_for_any_workers_and_kills(
    small_parts, tmp_path, monkeypatch, ray_cluster, killed_until_done
):
    inputs = {"selection": selection_of(tmp_path / "s", [{"uid": uid_of(number % 90)} for number in range(120)])}
    here = written(tmp_path / "here", inputs).read(work.SUBSET)
    monkeypatch.setattr(work, "_SMALL", 0)
    for workers in (1, 2):
        limits = Limits(cpus=0.5, in_flight=workers)
        assert written(tmp_path / f"{workers}", inputs, limits=limits).read(work.SUBSET) == here
    monkeypatch.setattr(work, "_SMALL", 1000)
    assert killed_until_done(lambda: written(tmp_path / "killed", inputs).read(work.SUBSET)) == here


# --- repetition -------------------------------------------------------------------------------------------------------


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 2 * number % 256, 0)).save(out, "PNG")
    return out.getvalue()


def images_of(folder, count, per_shard=10) -> Artifact:
    context = Context(folder)
    for start in range(0, count, per_shard):
        rows, members = [], []
        for number in range(start, start + per_shard):
            key = f"{number:05d}"
            members.append((f"{key}.png", png(number)))
            rows.append({"uid": uid_of(number), "url": f"http://a.example/{number}", "caption": f"number {number}",
                         "key": key, "status": "success", "error_message": None})  # fmt: skip
        write_triple(context.output, start // per_shard, members, pa.Table.from_pylist(rows))
    return Artifact(context.store, context.finish())


def samples_of(artifact, side="train"):
    files = artifact.files(f"data/{side}/", ".tar")
    return [sample for file in files for sample in read_samples(io.BytesIO(artifact.read(file.path)))]


def test_an_id_listed_n_times_is_learned_n_times(ray_cluster, tmp_path, finished):
    """From a list with repetitions over the filter and the shards back to the list."""
    images = images_of(tmp_path / "images", 40)
    times = {number: 1 + number % 4 for number in range(0, 40, 2)}
    given_rows = [{"uid": uid_of(number), "repeats": several} for number, several in times.items()]
    listed = written(tmp_path / "list", {"selection": selection_of(tmp_path / "given", given_rows)})
    rules = (Subset(source="list_ids"),)
    kept = finished(filtering.run, filtering.Config(rules=rules), {"images": images, "list_ids": listed})
    assert kept.manifest.funnel.dropped == {"subset": 20}
    again = written(tmp_path / "again", {"selection": kept})
    assert again.read(work.SUBSET) == listed.read(work.SUBSET)

    config = shard.Config(samples_per_shard=7, holdout_fraction=0.3)
    shards = finished(shard.run, config, {"images": images, "selection": kept})
    held_out = {
        pair["uid"] for sample in samples_of(shards, "holdout/test") for pair in json.loads(sample["json"])["pairs"]
    }
    seen = Counter(json.loads(sample["json"])["uid"] for sample in samples_of(shards))
    assert held_out and not held_out & seen.keys()
    assert seen == {uid_of(number): several for number, several in times.items() if uid_of(number) not in held_out}
    by_uid = {uid_of(number): png(number) for number in times}
    order = [json.loads(sample["json"])["uid"] for sample in samples_of(shards)]
    assert [sample["png"] for sample in samples_of(shards)] == [by_uid[uid] for uid in order]
    # The copies of a row are apart: each has a place of its own in the order.
    expected = sorted(
        (hash64(f"0/order/{uid}-{turn}" if turn else f"0/order/{uid}"), uid)
        for uid, several in seen.items()
        for turn in range(several)
    )
    assert order == [uid for _, uid in expected]
    facts = shards.manifest.facts
    assert facts["train"] == sum(seen.values()) and facts["repeated"] == facts["train"] - len(seen)
    assert facts["holdout_captions"] == facts["holdout"] == len(held_out)
    assert (shards.manifest.funnel.entered, shards.manifest.funnel.kept) == (20, 20)
    sizes = json.loads(shards.read("data/train/sizes.json"))
    assert sum(sizes.values()) == facts["train"] and set([*sizes.values()][:-1]) == {7}


@pytest.mark.parametrize("repeats", [0, -1, "twice", 1.5])
def test_repeats_that_are_no_count_are_refused(tmp_path, finished, repeats):
    listed = selection_of(tmp_path / "listed", [{"uid": uid_of(1), "repeats": repeats}])
    with pytest.raises(DataError, match="the column repeats holds"):
        written(tmp_path / "w", {"selection": listed})
    images = images_of(tmp_path / "images", 10)
    rows = [{"uid": uid_of(1), "key": "00001", "shard": 0, "caption": "one", "repeats": repeats}]
    with pytest.raises(DataError, match="has repeats = ") as caught:
        finished(shard.run, shard.Config(), {"images": images, "selection": selection_of(tmp_path / "s", rows)})
    assert "from 1 on" in caught.value.expected
