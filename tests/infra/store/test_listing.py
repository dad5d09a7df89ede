"""Places of data as people write them; patterns name what webdataset's own would."""

from __future__ import annotations

import pytest
from webdataset.shardlists import expand_urls

from infra.errors import ConfigError, DataError
from infra.formats.shards import tars_among
from infra.store import open_store
from infra.store.listing import absolute, listed

FILES = ["a/00000.tar", "a/00001.tar", "a/00009.tar", "a/00010.tar", "b/00000.tar", "b/deep/0.tar", "c{1}.tar", "x.txt"]


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def found(place, **_):
    folder, paths, _ = listed(absolute(str(place)))
    return [f"{folder}/{path}" for path in paths]


@pytest.mark.parametrize(
    "pattern",
    [
        "a/{00000..00001}.tar",
        "a/{00000,00009}.tar",
        "a/000{09..10}.tar",
        "{a,b}/00000.tar",
        "{a/0000{0..1},b/00000}.tar",
    ],
)
def test_patterns_name_what_webdataset_reads(folder, pattern):
    assert found(f"{folder}/{pattern}") == expand_urls(f"{folder}/{pattern}")


@pytest.mark.parametrize("joined", ["a/{00000..00001}.tar::b/00000.tar", "b/00000.tar::a/00000.tar"])
def test_places_are_joined_as_webdataset_joins_them(folder, joined, monkeypatch):
    monkeypatch.chdir(folder)
    assert found(joined) == [f"{folder}/{name}" for name in expand_urls(joined)]


def test_folders_globs_and_single_files(folder):
    assert sorted(found(f"{folder}/{{a,b}}")) == sorted(f"{folder}/{name}" for name in FILES if name[0] in "ab")
    assert sorted(found(f"{folder}/{{a,b}}/*00.tar")) == [f"{folder}/a/00000.tar", f"{folder}/b/00000.tar"]
    assert listed(f"{folder}/a/00000.tar") == (f"{folder}/a", ["00000.tar"], True)
    assert found(f"{folder}/c{{1}}.tar") == [f"{folder}/c{{1}}.tar"]  # a name that is there is no pattern
    assert listed(f"{folder}/nowhere")[1] == []


def test_patterns_of_urls():
    store = open_store("memory://listing-test/d")
    for name in FILES[:5]:
        store.write(name, b"x")
    place = "memory://listing-test/d/{a/0000{0..1},b/00000}.tar"
    assert listed(place) == ("memory://listing-test/d", ["a/00000.tar", "a/00001.tar", "b/00000.tar"], False)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a/{00000..00003}.tar", r"2 of the 4 places .*\n.*00002.tar, .*00003.tar"),
        ("{a,z}", "1 of the 2 places"),
        ("a/{00000..00001.tar", "is no pattern"),
        ("a/00000.tar::a/{00000..00001}.tar", "names files twice"),
    ],
)
def test_what_is_not_there_or_twice_is_named(folder, pattern, words, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=words):
        listed(absolute(pattern))


def test_one_pattern_is_of_one_store(folder):
    open_store("memory://listing-test/d").write("0.tar", b"x")
    with pytest.raises(ConfigError, match="several stores"):
        listed(f"{folder}/a/00000.tar::memory://listing-test/d/0.tar")


# --- shards among other files


def test_what_macos_leaves_beside_shards_is_left_out_and_named(caplog):
    assert tars_among(["a/0.tar", "a/._0.tar", ".DS_Store", "._x.tar", "0_stats.json"], "/data") == ["a/0.tar"]
    assert caplog.messages == ["left out of the shards at /data: a/._0.tar, ._x.tar"]


@pytest.mark.parametrize(
    "name",
    ["1.tar.part", "1.tar.crdownload", "a/1.tar.tmp", "1.tar.aria2", "1.tar.gz", "1.TAR.GZ", "1.tgz", "1.tar.zst"],
)
def test_shards_that_are_not_whole_or_packed_are_named(name):
    with pytest.raises(DataError, match="are no shards yet") as caught:
        tars_among(["0.tar", name], "/data")
    assert name in caught.value.found
    assert tars_among(["0.tar", "notes.gz", "1.tarot", "part.txt"], "/data") == ["0.tar"]
