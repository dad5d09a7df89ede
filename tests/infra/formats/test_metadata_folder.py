"""Images beside metadata tables: what the peer does not have, or lets pass. For the rest see test_datasets_peer.py."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from infra.errors import DataError
from infra.formats.testset import Broken, EvalSet
from infra.store import open_store
from pipelines import adopt


def image(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def at(folder, files: dict[str, str], images=("a.png", "b.png", "deep/c.png"), split="test") -> EvalSet:
    for path, data in (files | {f"{split}/{name}": image(shade) for shade, name in enumerate(images)}).items():
        (folder / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "set" / path).write_bytes(data.encode() if isinstance(data, str) else data)
    return EvalSet.at(open_store(str(folder)), "set", split)


NAMED = "file_name,label\na.png,golden_retriever\nb.png,cat\ndeep/c.png,cat\n"


def test_labels_may_be_names(tmp_path):
    examples = at(tmp_path, {"test/metadata.csv": NAMED})
    assert examples.classes == ("cat", "golden retriever")
    assert [(sample.key, sample.label) for sample in examples] == [
        ("test/a.png", 1),
        ("test/b.png", 0),
        ("test/deep/c.png", 0),
    ]
    examples = at(tmp_path, {"classnames.txt": "owl\ncat\ngolden retriever\n"})
    assert [sample.label for sample in examples] == [2, 1, 1]


def test_tables_further_below_belong_to_the_set(tmp_path):
    rows = '{"file_name": "a.png", "text": "one"}\n\n{"file_name": "b.png", "text": ["two", "drei"]}\n'
    below = '{"file_name": "c.png", "text": "4"}'
    examples = at(tmp_path, {"test/metadata.jsonl": rows, "test/deep/metadata.jsonl": below})
    assert [(sample.key, sample.captions) for sample in examples] == [
        ("test/deep/c.png", ("4",)),
        ("test/a.png", ("one",)),
        ("test/b.png", ("two", "drei")),
    ]


def test_other_columns_are_metadata_and_the_set_says_its_kind(tmp_path):
    rows = [{"file_name": name, "captions": ["right", "wrong"], "category": "swap"} for name in ("a.png", "b.png")]
    files = {"test/metadata.jsonl": "\n".join(map(json.dumps, rows)), "dataset_type.txt": "image_caption_selection"}
    examples = at(tmp_path, files)
    assert examples.kind == "image_caption_selection"
    assert {json.loads(sample.metadata)["category"] for sample in examples} == {"swap"}


def test_adopting_takes_tables_and_images(tmp_path):
    at(tmp_path, {"test/metadata.csv": NAMED})
    config = adopt.Config(path=str(tmp_path), contents="testsets")
    names = ("metadata.csv", "a.png", "b.png", "deep/c.png")
    assert set(config.files) == {f"set/test/{name}" for name in names}


def test_each_broken_row_is_told_and_counted(tmp_path):
    rows = "file_name,label\na.png,0\nb.png,7\nc.png,1\ndeep/c.png,\n"
    examples = at(tmp_path, {"test/metadata.csv": rows, "classnames.txt": "cat\ndog\n"})
    seen = list(examples.checked(0))
    assert [one.problem if isinstance(one, Broken) else "" for one in seen] == [
        *("", "no valid label", "no image", "no valid label"),
    ]
    with pytest.raises(DataError, match=r"row 2 of .*metadata\.csv has no valid label"):
        list(examples)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"test/metadata.csv": "file_name,label\na.png,0\nb.png,1\n"}, "numbers without names"),
        ({"test/metadata.csv": "name,text\na.png,x\n"}, "does not name the images"),
        ({"test/metadata.csv": "file_name,id\na.png,x\n"}, "no captions and no labels"),
        ({"test/metadata.csv": "file_name,text,caption\na.png,x,y\n"}, "several columns that could be the captions"),
        ({"test/metadata.csv": "file_name,text\na.png,x,y\n"}, "other fields than its head"),
        ({"test/metadata.csv": "file_name,text\n"}, "has no rows"),
        ({"test/metadata.jsonl": '{"file_name": "a.png"'}, "line 1 of .* is not JSON"),
        ({"test/metadata.jsonl": "[1]"}, "line 1 of .* is no object"),
        ({"test/metadata.parquet": "no table"}, "cannot be read as a table"),
        ({"test/metadata.csv": NAMED, "dataset_type.txt": "retrieval"}, "does not fit its dataset_type.txt"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        at(tmp_path, files)
