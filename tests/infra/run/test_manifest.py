"""Manifests lose no row, read back as they were written, and notice every file that is not as they say."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from infra.errors import DataError, StorageError
from infra.run.manifest import MANIFEST, Artifact, File, Funnel, Manifest, ShardRecord, fingerprint
from infra.run.records import encode, parse
from infra.store import LocalStore, open_store

COUNTS = st.integers(0, 10**12)
FUNNELS = st.builds(
    lambda kept, dropped: Funnel(unit="rows", entered=kept + sum(dropped.values()), kept=kept, dropped=dropped),
    COUNTS,
    st.dictionaries(st.sampled_from("abcde"), COUNTS),
)

# --- the funnel


@given(COUNTS, st.dictionaries(st.text(), COUNTS, max_size=3), st.integers(-3, 3))
def test_a_funnel_that_loses_a_row_or_makes_one_up_is_refused(kept, dropped, error):
    entered = kept + sum(dropped.values()) + error
    if error == 0:
        assert Funnel(unit="rows", entered=entered, kept=kept, dropped=dropped).entered == entered
    elif entered >= 0:
        with pytest.raises(DataError, match="unaccounted"):
            Funnel(unit="rows", entered=entered, kept=kept, dropped=dropped)


def test_negative_counts_cannot_hide_a_loss():
    with pytest.raises(DataError, match="unaccounted"):
        Funnel(unit="rows", entered=1, kept=2, dropped={"duplicate": -1})


@given(FUNNELS, FUNNELS, FUNNELS)
def test_adding_funnels_keeps_every_row(a, b, c):
    total = a + b + c
    assert total == a + (b + c) == c + b + a
    assert total.entered == a.entered + b.entered + c.entered
    assert total.entered == total.kept + sum(total.dropped.values())
    assert list(total.dropped) == sorted({*a.dropped, *b.dropped, *c.dropped})


def test_pages_and_rows_are_not_added():
    with pytest.raises(DataError, match="pages and rows"):
        Funnel(unit="pages", entered=1, kept=1) + Funnel(unit="rows", entered=1, kept=1)


# --- the manifest


def manifest(**changes):
    values = {
        "stage": "filter",
        "digest": "ab" * 32,
        "identity": {"stage": "filter", "code_version": 1, "config": {"size": 3, "ä": None}, "inputs": {}},
        "files": [File(path="data/ü.tar", bytes=3, sha256="0" * 64, rows=2), File(path="b", bytes=0, sha256="1" * 64)],
        "funnel": Funnel(unit="rows", entered=3, kept=2, dropped={"x": 1}),
        "metrics": {"acc": 0.1},
        "facts": {"classes": ["a", "b"]},
    }
    return Manifest(**{**values, **changes})


def test_a_manifest_reads_back_as_it_was_written():
    assert Manifest.from_bytes(manifest().to_bytes()) == manifest()
    assert Manifest.from_bytes(manifest().to_bytes()).to_bytes() == manifest().to_bytes()
    assert json.loads(manifest().to_bytes())["files"][0]["path"] == "data/ü.tar"


@given(st.dictionaries(st.text(), st.floats(), max_size=5))
def test_any_metric_survives(metrics):
    back = Manifest.from_bytes(manifest(metrics=metrics).to_bytes()).metrics
    assert back.keys() == metrics.keys()
    assert all(back[key] == value or (math.isnan(back[key]) and math.isnan(value)) for key, value in metrics.items())


def test_the_bytes_do_not_depend_on_the_order_of_keys():
    other = manifest(
        metrics={"b": 1.0, "a": 2.0}, identity=dict(reversed(manifest().identity.items())), facts={"z": 1, "y": 2}
    )
    same = manifest(metrics={"a": 2.0, "b": 1.0}, facts={"y": 2, "z": 1})
    assert other.to_bytes() == same.to_bytes()


def test_the_content_digest_is_of_the_files_and_nothing_else():
    assert manifest(metrics={}, facts={}, provenance={"commit": "x"}).content_digest == manifest().content_digest
    files = manifest().files
    changed = [
        files[:1],
        files[::-1],
        [replace(files[0], sha256="2" * 64), files[1]],
        [replace(files[0], path="data/a.tar"), files[1]],
    ]
    digests = {manifest(files=other).content_digest for other in changed}
    assert len(digests | {manifest().content_digest}) == 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"stage": 1}',
        manifest().to_bytes()[:-20],
        manifest().to_bytes().replace(b'"format": 1', b'"format": 2'),
        manifest().to_bytes().replace(b'"facts"', b'"fakts"'),
    ],
    ids=range(7),
)
def test_what_is_no_manifest_is_an_error_that_names_the_file(tmp_path, data):
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(DataError) as caught:
        Artifact.load(tmp_path)
    assert str(tmp_path / MANIFEST) in caught.value.message
    assert caught.value.found


def test_a_manifest_that_lost_a_row_is_not_read():
    data = manifest().to_bytes().replace(b'"entered": 3', b'"entered": 4')
    with pytest.raises(DataError, match="unaccounted"):
        Manifest.from_bytes(data)


def test_without_a_manifest_there_is_no_artifact(tmp_path):
    with pytest.raises(FileNotFoundError):
        Artifact.load(tmp_path)


def test_the_fingerprint_is_of_everything_that_decides_and_pinned():
    base = ("crawl", 1, {"pages": 3}, {"seeds": "ab"})
    digest, identity = fingerprint(*base)
    assert digest == "316db70713c98463a091b77b7e539b116bfb53d0f67c153c01ccd5418055f475"
    assert identity == {"stage": "crawl", "code_version": 1, "config": {"pages": 3}, "inputs": {"seeds": "ab"}}
    others = [
        ("krawl", *base[1:]),
        ("crawl", 2, *base[2:]),
        ("crawl", 1, {"pages": 4}, base[3]),
        ("crawl", 1, base[2], {"seeds": "ac"}),
        ("crawl", 1, base[2], {"other": "ab"}),
    ]
    assert len({fingerprint(*other)[0] for other in others} | {digest}) == 6


# --- the artifact


@pytest.fixture(params=["local", "object"])
def artifact(request, tmp_path):
    store = LocalStore(tmp_path) if request.param == "local" else open_store(f"memory://artifact-{tmp_path.name}")
    files = []
    for path, data in (("data/a.tar", b"aaa"), ("data/b.json", b"{}"), ("figures/x.png", b"png")):
        store.write(path, data)
        files.append(File(path=path, bytes=len(data), sha256=store.digest(path)))
    store.write(MANIFEST, manifest(files=files).to_bytes())
    return Artifact.load(store)


def test_a_whole_artifact_verifies(artifact):
    assert list(artifact.verify()) == []


def test_verify_finds_what_is_missing_short_or_changed(artifact):
    artifact.store.delete("data/a.tar")
    artifact.store.write("data/b.json", b"{")
    artifact.store.write("figures/x.png", b"gnp")
    assert [(file.path, wrong) for file, wrong in artifact.verify()] == [
        ("data/a.tar", "missing"),
        ("data/b.json", "1 bytes, not 2"),
        ("figures/x.png", "content differs"),
    ]


def test_files_are_found_by_prefix_and_suffix(artifact, tmp_path):
    assert [file.path for file in artifact.files("data/")] == ["data/a.tar", "data/b.json"]
    assert [file.path for file in artifact.files("data/", ".json")] == ["data/b.json"]
    assert len(artifact.files()) == 3
    assert artifact.read("data/a.tar") == b"aaa"
    assert artifact.local("data/a.tar", tmp_path / "cache").read_bytes() == b"aaa"
    assert artifact.url("data/a.tar") == f"{artifact.store.url}/data/a.tar"
    assert artifact.manifest.name == "filter/abababababab"


def test_a_manifest_cannot_point_outside_its_artifact(tmp_path):
    (tmp_path / "a").mkdir()
    hostile = manifest(files=[File(path="../../etc/passwd", bytes=1, sha256="0" * 64)])
    (tmp_path / "a" / MANIFEST).write_bytes(hostile.to_bytes())
    with pytest.raises(StorageError, match="leaves"):
        list(Artifact.load(tmp_path / "a").verify())


def test_a_shard_record_reads_back():
    record = ShardRecord(shard="00000", files=manifest().files, funnel=manifest().funnel, facts={"n": [1]})
    assert parse(ShardRecord, encode(record)) == record
