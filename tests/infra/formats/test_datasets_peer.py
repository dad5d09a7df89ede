"""What the library ``datasets`` reads of a folder, ours reads equally: images, captions, labels and their names."""

from __future__ import annotations

import csv
import gc
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.formats.testset import EvalSet
from infra.store import open_store

pytestmark = [
    pytest.mark.long,  # importing the library, and writing its caches
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # it leaves metadata files open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """The library, which asks no hub and keeps its caches apart."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield datasets
    gc.collect()  # here, where its open files are no error


def image(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), (shade, 255 - shade, shade // 2), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def lay(folder: Path, files: dict[str, bytes | str]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def ours(folder: Path, split: str = "test") -> EvalSet:
    return EvalSet.at(open_store(str(folder.parent)), folder.name, split)


def rows(examples: EvalSet) -> list[tuple[bytes, int, tuple[str, ...]]]:
    return [(np.asarray(one.image).tobytes(), one.label, one.captions) for one in examples]


def theirs(loaded, text: str | None = None, label: str | None = None) -> list[tuple[bytes, int, tuple[str, ...]]]:
    found = []
    for row in loaded:
        given = row[text] if text else ()
        captions = (given,) if isinstance(given, str) else tuple(given)
        pixels = np.asarray(row["image"].convert("RGB")).tobytes()
        found.append((pixels, row[label] if label else -1, captions))
    return found


SEVERAL = {"b.png": ["two", "zwei"], "a.png": ["one"], "deep/c.png": ["three, with a comma"]}


def table(kind: str, given: dict[str, object], column: str, rest: dict[str, object] | None = None) -> bytes:
    """A metadata file of one of the kinds."""
    content = [{"file_name": name, column: value, **(rest or {})} for name, value in given.items()]
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode()
    if kind == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(content[0]))
        writer.writeheader()
        writer.writerows(content)
        return buffer.getvalue().encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(content), raw)
    return raw.getvalue()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_captions_in_metadata(peer, tmp_path, kind):
    given = {name: texts[0] if kind == "csv" else texts for name, texts in SEVERAL.items()}
    files = {f"test/metadata.{kind}": table(kind, given, "text", {"language": "en"})}
    files |= {f"train/metadata.{kind}": table(kind, {"t.png": given["b.png"]}, "text", {"language": "de"})}
    files |= {f"test/{name}": image(shade) for shade, name in enumerate(SEVERAL)} | {"train/t.png": image(99)}
    folder = lay(tmp_path / "words", files)
    loaded = peer.load_dataset("imagefolder", data_dir=str(folder))
    for split in ("test", "train"):
        assert sorted(rows(ours(folder, split))) == sorted(theirs(loaded[split], text="text"))
    assert ours(folder).retrieval
    assert {json.loads(one.metadata)["language"] for one in ours(folder)} == {"en"}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_in_metadata(peer, tmp_path, kind):
    numbers = {name: label for label, name in enumerate(SEVERAL)}
    files = {f"metadata.{kind}": table(kind, numbers, "label"), "classnames.txt": "cat\ndog\nowl\n"}
    folder = lay(tmp_path / "pets", files | {name: image(shade) for shade, name in enumerate(SEVERAL)})
    loaded = peer.load_dataset("imagefolder", data_dir=str(folder), split="train")  # its word for no split
    assert sorted(rows(ours(folder))) == sorted(theirs(loaded, label="label"))


def test_folders_of_classes(peer, tmp_path):
    paths = [
        f"{split}/{name}/{i}.png" for split in ("test", "train") for name in ("owl", "Cat", "dog_1") for i in (0, 1)
    ]
    folder = lay(tmp_path / "pets", {path: image(shade) for shade, path in enumerate(paths)})
    loaded = peer.load_dataset("imagefolder", data_dir=str(folder))
    for split in ("test", "train"):
        assert sorted(rows(ours(folder, split))) == sorted(theirs(loaded[split], label="label"))
    names = [name.replace("_", " ") for name in loaded["test"].features["label"].names]
    assert list(ours(folder).classes) == names


def described(peer, count: int):
    """A data set of theirs, with labels that have names."""
    label = peer.ClassLabel(names=["cat", "dog", "owl"])
    features = peer.Features({"image": peer.Image(), "label": label})
    content = {
        "image": [{"bytes": image(i), "path": None} for i in range(count)],
        "label": [i % 3 for i in range(count)],
    }
    return peer.Dataset.from_dict(content, features=features)


@pytest.mark.parametrize("together", [True, False])
def test_what_save_to_disk_writes(peer, tmp_path, together):
    made = described(peer, 7)
    if together:
        made = peer.DatasetDict({"test": made, "train": made.select([1, 2])})
        made.save_to_disk(str(tmp_path / "pets"), num_shards={"test": 3, "train": 1})
    else:
        made.save_to_disk(str(tmp_path / "pets"), num_shards=3)
    loaded = peer.load_from_disk(str(tmp_path / "pets"))
    examples = ours(tmp_path / "pets")
    assert rows(examples) == theirs(loaded["test"] if together else loaded, label="label")
    assert examples.classes == ("cat", "dog", "owl")
    if together:
        assert rows(ours(tmp_path / "pets", "train")) == theirs(loaded["train"], label="label")


def test_parquet_as_push_to_hub_writes_it(peer, tmp_path):
    (tmp_path / "pets/data").mkdir(parents=True)
    described(peer, 5).to_parquet(str(tmp_path / "pets/data/test-00000-of-00001.parquet"))
    loaded = peer.load_dataset("parquet", data_files=str(tmp_path / "pets/data/*.parquet"), split="train")
    assert rows(ours(tmp_path / "pets")) == theirs(loaded, label="label")


def test_several_captions_saved_to_disk(peer, tmp_path):
    features = peer.Features({"image": peer.Image(), "caption": peer.List(peer.Value("string"))})
    content = {"image": [{"bytes": image(i), "path": None} for i in range(3)], "caption": list(SEVERAL.values())}
    peer.Dataset.from_dict(content, features=features).save_to_disk(str(tmp_path / "words"))
    loaded = peer.load_from_disk(str(tmp_path / "words"))
    assert rows(ours(tmp_path / "words")) == theirs(loaded, text="caption")
