"""Outside data enters a workflow by content: wherever it lies, and whatever it is replaced by."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from PIL import Image

from infra.errors import ConfigError, DataError, UsageError
from infra.formats.shards import TarWriter
from infra.run.context import Context
from infra.run.manifest import MANIFEST, Artifact
from infra.store import LocalStore, open_store
from infra.store.content import contents
from pipelines import adopt
from pipelines.curate import filter
from training import train
from workflows.run.plan import make_plan
from workflows.stage import Stage, Workflow


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = time.time() - 60
    os.utime(path, (then, then))
    return path


def tar(*samples: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with TarWriter(out) as writer:
        for name, data in samples:
            writer.add(name, data)
        writer.close()
    return out.getvalue()


def shard(seed: int = 0) -> bytes:
    return tar(("a.jpg", jpeg(seed)), ("a.txt", b"a thing"))


def parquet(**columns) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def stage(path, contents="shards") -> Stage:
    return Stage("mine", adopt.run, adopt.Config(path=str(path), contents=contents))


def carry_out(mine: Stage, root: LocalStore) -> Artifact:
    folder = root.child(mine.folder)
    context = Context(
        folder,
        stage=mine.name,
        digest=mine.digest,
        identity=mine.identity,
        config=mine.config.resolved(),
        location=mine.config.location(),
    )
    folder.write(MANIFEST, mine.run(mine.config, {}, context).to_bytes())
    return Artifact.load(folder)


# --- identity


def test_the_same_bytes_are_the_same_data_wherever_they_lie(tmp_path, monkeypatch):
    for folder in ("one", "two/deep"):
        write(tmp_path / folder / "00000.tar", shard())
    digests = {stage(tmp_path / folder).digest for folder in ("one", "two/deep", "one/")}
    monkeypatch.chdir(tmp_path)
    digests.add(stage("one").digest)
    assert len(digests) == 1


def test_replaced_shards_are_other_data(tmp_path):
    """Before, shards replaced under the same path were taken for those trained on."""
    write(tmp_path / "d/00000.tar", shard(1))
    before = stage(tmp_path / "d").digest
    write(tmp_path / "d/00000.tar", shard(2))
    assert stage(tmp_path / "d").digest != before
    write(tmp_path / "d/00000.tar", shard(1))
    assert stage(tmp_path / "d").digest == before
    (tmp_path / "d/00000.tar").rename(tmp_path / "d/00001.tar")  # shards are read in the order of their names
    assert stage(tmp_path / "d").digest != before


def test_another_kind_of_the_same_files_is_other_data(tmp_path):
    write(tmp_path / "d/00000.parquet", parquet(uid=["a"], url=["u"], caption=["c"], key=["k"], shard=[0]))
    assert stage(tmp_path / "d", "pairs").digest != stage(tmp_path / "d", "selection").digest


def test_files_beside_the_data_do_not_count(tmp_path):
    write(tmp_path / "d/00000.tar", shard())
    before = stage(tmp_path / "d").digest
    write(tmp_path / "d/README", b"hello")
    write(tmp_path / "d/00000_stats.json", b"{}")
    assert stage(tmp_path / "d").digest == before


def test_an_artifact_is_its_data(tmp_path):
    """Given the folder that ``clipline ls`` names, or clipline-train's output, which has no manifest."""
    made, trained = tmp_path / "artifacts/shard/0123", tmp_path / "run"
    for name in ("train/00000.tar", "pets/test/0.tar", "pets/test/nshards.txt", "pets/classnames.txt"):
        write(made / "data" / name, shard())
    for name in (MANIFEST, "ledger/00000.json", "figures/old.tar"):
        write(made / name, b"{}")
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        write(trained / "data" / name, b"{}")
        write(trained / "checkpoints/000000000064" / name, b"{}")
    for place, kind in ((made, "shards"), (made, "testsets"), (trained, "model")):
        assert stage(place, kind).digest == stage(place / "data", kind).digest
    assert adopt.test_sets(str(made), ["test"]) == adopt.test_sets(str(made / "data"), ["test"]) != []


# --- the artifact


def test_nothing_is_copied_and_later_stages_read_in_place(tmp_path):
    write(tmp_path / "d/00000.tar", shard())
    root = LocalStore(tmp_path / "root")
    artifact = carry_out(stage(tmp_path / "d"), root)
    assert [path for path in root.paths() if path.endswith(".tar")] == []
    (file,) = artifact.files("data/", ".tar")
    assert artifact.read(file.path) == shard()
    assert artifact.url(file.path) == str(tmp_path / "d/00000.tar")
    assert artifact.local(file.path, tmp_path / "copies") == tmp_path / "d/00000.tar"
    assert artifact.store.paths("data") == ["data/00000.tar"]
    assert artifact.store.child("data").paths() == ["00000.tar"]
    assert list(artifact.verify()) == []
    write(tmp_path / "d/00000.tar", shard(9))
    assert [fault for _, fault in artifact.verify()]


def test_data_that_moved_is_found_again_without_making_later_stages_due(tmp_path):
    write(tmp_path / "old/00000.tar", shard())
    root = LocalStore(tmp_path / "root")
    carry_out(stage(tmp_path / "old"), root)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = stage(tmp_path / "new")
    (step,) = make_plan(Workflow("w", (moved,)), root)
    assert (step.action, step.why) == ("run", (f"its files are at {tmp_path}/new/ now",))
    before = Artifact.load(root.child(moved.folder)).manifest.content_digest
    assert carry_out(moved, root).manifest.content_digest == before
    assert make_plan(Workflow("w", (moved,)), root).to_run == []


def test_an_object_store_is_adopted_by_its_etags(s3_url, tmp_path):
    store = open_store(s3_url)
    store.write("d/00000.tar", shard())
    mine = stage(f"{s3_url}/d")
    artifact = carry_out(mine, LocalStore(tmp_path / "root"))
    (file,) = artifact.files("data/")
    assert (file.sha256, bool(file.etag)) == ("", True)
    assert artifact.read(file.path) == shard()
    assert list(artifact.verify()) == []
    store.write("d/00000.tar", shard(2))
    assert stage(f"{s3_url}/d").digest != mine.digest
    assert [fault for _, fault in artifact.verify()]


# --- kinds


WEIGHTS = safetensors.numpy.save({"logit_scale": np.float32([1])})
MODEL = {
    "open_clip_config.json": b'{"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}',
    "open_clip_model.safetensors": WEIGHTS,
    "epoch_1.pt": b"o",
    "logs/out": b"",
}
SETS = {
    "seen/classnames.txt": b"a\nb\n",
    "seen/test/nshards.txt": b"1",
    "seen/test/0.tar": shard(),
    "seen/train/0.tar": shard(),
    "other/test/nshards.txt": b"1",
    "other/test/0.tar": shard(),
}


@pytest.mark.parametrize(
    ("contents", "files", "expected"),
    [
        ("shards", {"0.tar": shard(), "train/1.tar": shard(), "sizes.json": b"{}"}, {"0.tar", "train/1.tar"}),
        (
            "images",
            {"00000.tar": shard(), "00000.parquet": parquet(key=["0"], status=["success"]), "00000_stats.json": b""},
            {"00000.tar", "00000.parquet"},
        ),
        ("model", MODEL, {"open_clip_config.json", "open_clip_model.safetensors"}),
        ("model", {"only.safetensors": WEIGHTS}, {"only.safetensors"}),
        ({"kind": "testsets", "sets": ["seen"]}, SETS, {"classnames.txt", "test/nshards.txt", "test/0.tar"}),
        ("testsets", SETS, {name for name in SETS if "train" not in name}),
        ("url_list", {"a.csv.gz": b"", "p/b.csv.gz": b"", "_SUCCESS": b"", "x.md": b""}, {"a.csv.gz", "p/b.csv.gz"}),
        ("archives", {"a.warc.gz": b"", "b.wat.gz": b"", "c.txt": b""}, {"a.warc.gz", "b.wat.gz"}),
        ("metadata", {"queries.txt": b"a\n"}, {"queries.txt"}),
        ("metadata", {"subset.npy": b"", "about.md": b""}, {"subset.npy"}),
        ("metadata", {"de.txt": b"a\n", "zh-Hant.json": b"[]"}, {"de.txt", "zh-Hant.json"}),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_each_kind_takes_its_files(tmp_path, contents, files, expected):
    for name, data in files.items():
        write(tmp_path / "d" / name, data)
    artifact = carry_out(stage(tmp_path / "d", contents), LocalStore(tmp_path / "root"))
    cut = "seen/" if isinstance(contents, dict) else ""
    names = {file.path.removeprefix(f"data/{cut}") for file in artifact.manifest.files}
    assert names == expected
    assert all(artifact.read(file.path) is not None for file in artifact.manifest.files)


@pytest.mark.parametrize(
    ("contents", "files", "words"),
    [
        ("shards", {"a.txt": b""}, "there are no shards at"),
        ("images", {"a.tar": shard()}, "there are no images at"),
        ("model", {"open_clip_config.json": b"{}"}, "there is no model at"),
        ("model", {"a.pt": b"", "b.pt": b""}, "there is no model at"),
        ("metadata", {"de.txt": b"", "words.txt": b""}, "there is no metadata at"),
        ({"kind": "testsets", "sets": ["seen", "gone"]}, SETS, "there is no test set 'gone'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_is_not_there_is_told_when_the_plan_is_made(tmp_path, contents, files, words):
    for name, data in files.items():
        write(tmp_path / "d" / name, data)
    mine = stage(tmp_path / "d", contents)
    with pytest.raises(ConfigError, match=words):
        make_plan(Workflow("w", (mine,)), LocalStore(tmp_path / "root"))
    with pytest.raises(ConfigError, match=r"there (is|are) no"):
        make_plan(Workflow("w", (stage(tmp_path / "nowhere", contents),)), LocalStore(tmp_path / "root"))


@pytest.mark.parametrize(
    ("contents", "files", "words"),
    [
        ("shards", {"0.tar": tar(("a.txt", b"no image"))}, "holds no images"),
        ("shards", {"0.tar": b"nonsense" * 100}, "0.tar|tar"),
        ("images", {"00000.tar": shard()}, "no table of their rows"),
        ("images", {"00000.parquet": parquet(url=["u"])}, "lacks the column 'key'"),
        ("pairs", {"a.parquet": b"PAR1"}, "is not a Parquet file"),
        ("selection", {"a.parquet": parquet(uid=["u"])}, "lacks the column 'key'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_is_not_as_it_claims_is_refused(tmp_path, contents, files, words):
    for name, data in files.items():
        write(tmp_path / "d" / name, data)
    with pytest.raises(DataError, match=words):
        carry_out(stage(tmp_path / "d", contents), LocalStore(tmp_path / "root"))


def test_a_file_or_a_glob_will_do(tmp_path):
    for name in ("a.csv", "b.csv", "c.txt", "deep/d.csv", "e[1].csv"):
        write(tmp_path / "d" / name, name.encode())
    file = stage(tmp_path / "d/a.csv", "url_list").config
    assert (list(file.files), file.location()) == (["url_list.csv"], str(tmp_path / "d/a.csv"))
    assert list(stage(f"file://{tmp_path}/d/e[1].csv", "url_list").config.files) == ["url_list.csv"]
    glob = stage(tmp_path / "d/[ab].csv", "url_list").config
    assert (list(glob.files), glob.location()) == (["a.csv", "b.csv"], f"{tmp_path}/d/")
    assert list(stage(tmp_path / "d/**/*.csv", "url_list").config.files) == ["a.csv", "b.csv", "deep/d.csv", "e[1].csv"]
    assert list(stage(tmp_path / "*/c.txt", "url_list").config.files) == ["d/c.txt"]


def test_the_name_of_a_file_is_part_of_its_path(tmp_path):
    """Renaming a list must not download its images again; another ending is another format."""
    for name in ("a.csv", "other/name.CSV", "a.txt"):
        write(tmp_path / name, b"url\nhttp://a.example/")
    one, same, other = (stage(tmp_path / name, "url_list") for name in ("a.csv", "other/name.CSV", "a.txt"))
    assert one.digest == same.digest != other.digest
    root = LocalStore(tmp_path / "root")
    before = carry_out(one, root)
    (step,) = make_plan(Workflow("w", (same,)), root)
    assert step.why == (f"its files are at {tmp_path}/other/name.CSV now",)
    after = carry_out(same, root)
    assert after.manifest.content_digest == before.manifest.content_digest
    for artifact, path in ((before, "a.csv"), (after, "other/name.CSV")):
        (file,) = artifact.files()
        assert file.path == "data/url_list.csv"
        assert artifact.url(file.path) == str(artifact.local(file.path, tmp_path)) == str(tmp_path / path)
        store = artifact.store
        assert (store.paths(), store.paths("data/"), store.folders()) == ([file.path], [file.path], ["data"])
        assert (store.child("data").paths(), store.folders("data")) == (["url_list.csv"], [])
        assert store.child("data").read("url_list.csv") == store.read(file.path) == b"url\nhttp://a.example/"
        assert (store.exists(file.path), store.exists("data/a.txt"), store.exists("a.csv")) == (True, False, False)
        assert list(artifact.verify()) == []


@pytest.mark.parametrize(
    ("contents", "names"),
    [
        ({"kind": "archives"}, ["a.warc.gz", "b.wat", "c/d.WARC"]),
        ({"kind": "archives", "max_files": 2}, ["a.warc.gz", "b.wat"]),
        ({"kind": "archives", "names": ["b.wat", "all.paths"]}, ["all.paths", "b.wat"]),
        ("archive_list", ["all.paths", "few.txt.gz"]),
    ],
)
def test_archives_and_lists_of_them(tmp_path, contents, names):
    for name in ("a.warc.gz", "b.wat", "c/d.WARC", "e.html"):
        write(tmp_path / "d" / name, name.encode())
    write(tmp_path / "d/all.paths", b"a.warc.gz\nhttps://a.example/b.warc.gz\n")
    write(tmp_path / "d/few.txt.gz", gzip.compress(b"a.warc.gz\n"))
    artifact = carry_out(stage(tmp_path / "d", contents), LocalStore(tmp_path / "root"))
    assert [file.path for file in artifact.files()] == [f"data/{name}" for name in names]
    assert [file.rows for file in artifact.files()] == ([2, 1] if contents == "archive_list" else [None] * len(names))
    with pytest.raises(ConfigError, match=r"no archive x\.warc"):
        stage(tmp_path / "d", {"kind": "archives", "names": ["b.wat", "x.warc"]}).config.location()
    with pytest.raises(DataError, match=r"e\.html: not a list of archives"):
        write(tmp_path / "d/e.html", b"<html>")
        carry_out(stage(tmp_path / "d/e.html", "archive_list"), LocalStore(tmp_path / "root"))


def test_many_objects_are_known_from_one_listing(s3_url, tmp_path, monkeypatch):
    store = open_store(s3_url)
    for number in range(20):
        store.write(f"d/{number:05d}.tar", b"%d" % number)
    import s3fs

    asked = []
    ask = s3fs.S3FileSystem._call_s3
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", lambda *a, **k: asked.append(a[1]) or ask(*a, **k))
    files = stage(f"{s3_url}/d").config.files
    assert all(found.etag and found.bytes for found in files.values()) and len(files) == 20
    assert asked.count("head_object") == 0
    few = stage(f"{s3_url}/d/0000[0-3].tar").config.files
    assert few == {path: found for path, found in files.items() if path < "00004"}


# --- in a workflow


def test_adopted_data_fits_where_its_kind_is_wanted_and_nowhere_else(tmp_path):
    write(tmp_path / "d/00000.tar", shard())
    shards = stage(tmp_path / "d")
    Stage("train", train.run, train.Config(samples=64, batch_size=64), {"shards": shards})
    with pytest.raises(UsageError, match="input 'images' of stage filter must hold images") as caught:
        Stage("filter", filter.run, filter.Config(), {"images": shards})
    assert "gives shards" in caught.value.found
    with pytest.raises(UsageError, match="takes no input 'image'") as caught:
        Stage("filter", filter.run, filter.Config(), {"image": shards})
    assert caught.value.fix == "did you mean 'images'?"
    with pytest.raises(UsageError, match="takes either images"):
        Stage("filter", filter.run, filter.Config())


def test_planning_a_thousand_adopted_shards_is_quick(tmp_path):
    for number in range(1000):
        write(tmp_path / f"d/{number:05d}.tar", b"x" * 1000)
    root = LocalStore(tmp_path / "root")
    contents(LocalStore(tmp_path / "d"), [f"{number:05d}.tar" for number in range(1000)])  # read once before
    started = time.process_time()
    make_plan(Workflow("w", (stage(tmp_path / "d"),)), root)
    assert time.process_time() - started < 0.5


def test_a_worker_elsewhere_gets_the_digests_with_the_configuration(tmp_path, monkeypatch):
    import pickle

    write(tmp_path / "d/00000.tar", shard())
    mine = stage(tmp_path / "d")
    assert mine.digest
    sent = pickle.loads(pickle.dumps(mine.config))
    monkeypatch.setattr("pipelines.adopt.config.contents", None)  # would fail if anything were read again
    assert json.dumps(sent.identity()) == json.dumps(mine.config.identity())


# --- shards as people have them


def test_patterns_and_single_tars_are_shards(tmp_path):
    for number, name in enumerate(("a/00000.tar", "a/00001.tar", "a/00002.tar", "b/00000.tar")):
        write(tmp_path / name, shard(number))
    artifact = carry_out(stage(tmp_path / "a/{00000..00001}.tar"), LocalStore(tmp_path / "root"))
    assert [file.path for file in artifact.files()] == ["data/00000.tar", "data/00001.tar"]
    several = stage(f"{tmp_path}/a/{{00001..00002}}.tar::{tmp_path}/b")
    artifact = carry_out(several, LocalStore(tmp_path / "root"))
    assert [file.path for file in artifact.files()] == ["data/a/00001.tar", "data/a/00002.tar", "data/b/00000.tar"]
    assert artifact.read("data/b/00000.tar") == shard(3)
    one = carry_out(stage(tmp_path / "b/00000.tar"), LocalStore(tmp_path / "root"))
    assert [one.read(file.path) for file in one.files()] == [shard(3)]
    with pytest.raises(ConfigError, match="1 of the 4 places"):
        stage(tmp_path / "a/{00000..00003}.tar").config.location()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"1.tar": b""}, "1.tar: the file has 0 bytes"),
        ({"1.tar": gzip.compress(shard())}, "1.tar: this is a gzip file"),
        ({"1.tar": shard()[:700]}, "1.tar: a tar ends in the middle"),
        ({"1.tar": b"<html>" * 200}, "1.tar: this is not a tar"),
        ({"1.tar": b"version https://git-lfs.github.com/spec/v1\n"}, "1.tar: this is a Git LFS pointer"),
        ({"1.tar": tar(("photo.0001.jpg", jpeg(0)), ("photo.0001.txt", b"t"))}, "rename the members"),
        ({"1.tar.part": shard()[:700]}, "1.tar.part"),
        ({"1.tar.gz": gzip.compress(shard())}, "1.tar.gz"),
    ],
)
def test_a_shard_that_is_none_is_named(tmp_path, files, words):
    write(tmp_path / "d/0.tar", shard())
    for name, data in files.items():
        write(tmp_path / "d" / name, data)
    with pytest.raises(DataError) as caught:
        carry_out(stage(tmp_path / "d"), LocalStore(tmp_path / "root"))
    assert words in str(caught.value)


def test_what_macos_adds_is_no_shard(tmp_path, caplog):
    write(tmp_path / "d/0.tar", shard())
    for name in ("._0.tar", ".DS_Store", "__MACOSX/._0.tar"):
        write(tmp_path / "d" / name, b"\x00\x05\x16\x07" * 40)
    artifact = carry_out(stage(tmp_path / "d"), LocalStore(tmp_path / "root"))
    assert [file.path for file in artifact.files()] == ["data/0.tar"]
    assert "._0.tar" in caplog.text


@pytest.mark.parametrize("kind", ["local", "object"])
def test_many_files_are_in_pieces_beside_the_manifest(tmp_path, monkeypatch, kind):
    """The pieces are in the artifact's own folder, the files where they were."""
    monkeypatch.setattr("infra.run.pieces.PIECE", 4)
    place = str(tmp_path / "texts") if kind == "local" else f"memory://texts-{tmp_path.name}"
    for number in range(10):
        open_store(place).write(f"{number:02d}.txt", f"text {number}".encode())
    config = adopt.Config(path=place, contents=adopt.Corpus())
    context = Context(tmp_path / "adopted", location=config.location())
    manifest = adopt.run(config, {}, context)
    context.store.write(MANIFEST, manifest.to_bytes())
    artifact = Artifact.load(str(tmp_path / "adopted"))
    assert [piece.files for piece in artifact.manifest.pieces] == [4, 4] and len(artifact.manifest.files) == 2
    names = [file.path for file in artifact.files()]
    assert names == [f"data/{number:02d}.txt" for number in range(10)]
    assert [artifact.read(name) for name in names] == [f"text {number}".encode() for number in range(10)]
    assert list(artifact.verify()) == []
    open_store(place).write("03.txt", b"other!!")
    assert [file.path for file, _ in artifact.verify()] == ["data/03.txt"]
