"""Test sets in the forms people have them: what is found, what is read, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet, Form, SetFiles, find_sets
from infra.store import open_store
from pipelines import adopt

CLASSES = ["apple_pie", "baby back ribs", "tiramisu"]


def image(shade: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(buffer, kind)
    return buffer.getvalue()


def shades(examples: EvalSet) -> list[int]:
    return [sample.image.getpixel((0, 0))[0] for sample in examples]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def at(folder: Path, name: str, split: str = "test") -> EvalSet:
    return EvalSet.at(open_store(str(folder)), name, split)


# --- a folder for each class ------------------------------------------------------------------------------------------


FOLDERS = {
    "food/test/tiramisu/b.png": image(30),
    "food/test/tiramisu/a.JPG": image(20, "JPEG"),
    "food/test/apple_pie/z.png": image(10),
    "food/test/tiramisu/deeper/c.png": image(40),
    "food/train/apple_pie/t.png": image(50),
    "food/train/tiramisu/t.png": image(60),
    "food/test/apple_pie/notes.md": b"no image",
    "food/.cache/x/y.png": image(0),
}


def test_folders_are_classes_in_order_of_their_names(tmp_path):
    examples = at(write(tmp_path, FOLDERS), "food")
    assert examples.classes == ("apple pie", "tiramisu")  # as torchvision orders them
    assert [(sample.key, sample.label) for sample in examples] == [
        ("test/apple_pie/z.png", 0),
        ("test/tiramisu/a.JPG", 1),
        ("test/tiramisu/b.png", 1),
        ("test/tiramisu/deeper/c.png", 1),
    ]
    assert shades(examples) == [10, 20, 30, 40]
    assert shades(at(tmp_path, "food", "train")) == [50, 60]
    assert not examples.retrieval


def test_labels_are_those_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    write(tmp_path, {f"x/test/{name}/0.png": image(1) for name in ("b", "B", "a_c", "Z", "é", "a")})
    theirs = ImageFolder(str(tmp_path / "x/test"))
    assert {sample.key.split("/")[1]: sample.label for sample in at(tmp_path, "x")} == theirs.class_to_idx


def test_without_splits_a_folder_is_the_test_split(tmp_path):
    write(tmp_path, {"vtab/x/cat/1.png": image(1), "vtab/x/dog/1.png": image(2)})
    assert shades(at(tmp_path, "vtab/x")) == [1, 2]


def test_names_and_prompts_come_from_files(tmp_path):
    files = FOLDERS | {
        "food/classnames.txt": b"pie\ncake\n",
        "food/zeroshot_classification_templates.txt": b"a photo of {c}\n",
    }
    examples = at(write(tmp_path, files), "food")
    assert (examples.classes, examples.templates) == (("pie", "cake"), ("a photo of {c}",))


def test_folders_that_are_numbers_are_labels(tmp_path):
    files = {f"v2/{label}/a.png": image(label) for label in (0, 1, 2, 10)}
    with pytest.raises(DataError, match="numbers without names"):
        at(write(tmp_path, files), "v2")
    write(tmp_path, {"v2/classnames.txt": "\n".join(f"c{label}" for label in range(11)).encode()})
    assert {sample.label for sample in at(tmp_path, "v2")} == {0, 1, 2, 10}
    assert [sample.label for sample in at(tmp_path, "v2")] == shades(at(tmp_path, "v2"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"n01440764/a.png": b"", "n01443537/a.png": b""}, "WordNet's numbers"),
        ({"a/a.png": b"", "b/a.png": b"", "classnames.txt": b"one\ntwo\nthree\n"}, "does not fit the folders"),
    ],
)
def test_names_that_cannot_be_told_are_refused(tmp_path, files, words):
    write(tmp_path, {f"x/{path}": data for path, data in files.items()})
    with pytest.raises(DataError, match=words):
        at(tmp_path, "x")


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path, {"x/a/good.png": image(1), "x/b/bad.png": image(2)[:40]})
    with pytest.raises(DataError, match=r"b/bad\.png"):
        shades(at(tmp_path, "x"))


# --- tables -----------------------------------------------------------------------------------------------------------


def table(rows: int = 5, labels: list[int] | None = None, names: list[str] | None = CLASSES, **columns) -> pa.Table:
    images = [{"bytes": image(place), "path": f"{place}.png"} for place in range(rows)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    found = {"image": pa.array(images, kind)}
    features: dict = {"image": {"_type": "Image"}}
    if names is not None:
        found["label"] = pa.array(labels or [place % 3 for place in range(rows)], pa.int64())
        features["label"] = {"names": names, "_type": "ClassLabel"}
    made = pa.table(found | columns)
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def parquet(rows: pa.Table, group: int = 2) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, row_group_size=group)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "path",
    ["data/test-00000-of-00001.parquet", "test-00000-of-00001-a1b2.parquet", "test.parquet", "test/0000.parquet"],
)
def test_parquet_of_the_hub_is_read(tmp_path, path):
    examples = at(write(tmp_path, {f"food/{path}": parquet(table())}), "food")
    assert examples.classes == ("apple pie", "baby back ribs", "tiramisu")
    assert [(sample.key, sample.label) for sample in examples] == [(f"{path}:{i}", i % 3) for i in range(5)]
    assert shades(examples) == [0, 1, 2, 3, 4]


def test_row_groups_are_shards_and_rows_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("infra.formats.testset.arrow_files.SHARD", 3)
    first, second = parquet(table(7)), parquet(table(2))
    write(tmp_path, {"x/test-00000-of-00002.parquet": first, "x/test-00001-of-00002.parquet": second})
    examples = at(tmp_path, "x")
    assert [len(list(examples.packed(shard))) for shard in range(examples.shards)] == [4, 3, 2]
    assert [sample.key.rpartition(":")[2] for sample in examples] == [*"0123456", "0", "1"]
    alone = pickle.loads(pickle.dumps(examples.alone(1)))
    assert [sample.key for sample in alone.packed(1)] == [f"test-00000-of-00002.parquet:{row}" for row in (4, 5, 6)]


def test_captions_are_a_text_or_a_list(tmp_path):
    several = table(2, names=None, caption=pa.array([["one", " two "], ["three", ""]]))
    one = table(2, names=None, text=pa.array(["one", "two"]))
    write(tmp_path, {"a/test.parquet": parquet(several), "b/test.parquet": parquet(one)})
    assert [sample.captions for sample in at(tmp_path, "a")] == [("one", "two"), ("three",)]
    assert [sample.captions for sample in at(tmp_path, "b")] == [("one",), ("two",)]
    assert at(tmp_path, "a").retrieval


def test_a_column_of_splits_picks_rows(tmp_path):
    rows = table(3, names=None, caption=pa.array(["a", "b", "c"]), split=pa.array(["train", "test", "test"]))
    write(tmp_path, {"flickr30k/test-00000-of-00001.parquet": parquet(rows)})
    assert [sample.captions for sample in at(tmp_path, "flickr30k")] == [("b",), ("c",)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (table(2, labels=[0, 3]), "row 1 of .*x/test.parquet has no valid label"),
        (table(2, labels=[0, -1]), "kept secret"),
        (table(2, names=[]), "the classes of .* have no names"),
        (table(2, names=None), "no column of labels or captions"),
        (table(2, names=None, caption=pa.array(["a", " "])), "row 1 of .* has no caption"),
        (table(2, names=None, caption=pa.array(["a", "b"]), text=pa.array(["a", "b"])), "several columns"),
        (table(2).set_column(0, "image", pa.array([{"bytes": None, "path": "/a"}] * 2)), "only the path /a"),
        (table(2).set_column(0, "image", pa.array(["a.png", "b.png"])), "no column of images"),
    ],
)
def test_a_bad_table_is_named_with_its_row(tmp_path, rows, words):
    write(tmp_path, {"x/test.parquet": parquet(rows)})
    with pytest.raises(DataError, match=words):
        list(at(tmp_path, "x"))


@pytest.mark.parametrize("data", [b"version https://git-lfs/spec/v1\n", b"", parquet(table())[:-9]])
def test_a_file_that_is_no_table_is_named(tmp_path, data):
    write(tmp_path, {"x/test.parquet": data})
    with pytest.raises(DataError, match=r"x/test\.parquet cannot be read as a table"):
        at(tmp_path, "x")


def test_one_of_several_labels_is_chosen_by_a_form(tmp_path):
    features = {name: {"names": ["a", "b", "c"], "_type": "ClassLabel"} for name in ("fine_label", "coarse_label")}
    rows = table(2, names=None, fine_label=pa.array([0, 1]), coarse_label=pa.array([2, 2]))
    rows = rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    write(tmp_path, {"cifar100/test.parquet": parquet(rows)})
    with pytest.raises(DataError, match="several columns that could be the label") as caught:
        at(tmp_path, "cifar100")
    assert "fine_label" in caught.value.fix
    form = {"kind": "hub_parquet", "label": "coarse_label"}
    found = find_sets(["cifar100/test.parquet"], (), adopt.TestSets(forms=(form,)).forms)
    files = SetFiles.of(open_store(str(tmp_path)), "cifar100", "test", ["cifar100/test.parquet"])
    assert [sample.label for sample in found["cifar100", "test"][0].open(files)] == [2, 2]


def arrow(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)
    return buffer.getvalue()


def saved(files: list[str], split: str | None = "test") -> bytes:
    """As datasets.save_to_disk writes state.json."""
    return json.dumps({"_data_files": [{"filename": name} for name in files], "_split": split}).encode()


def test_saved_datasets_are_read_in_the_order_of_their_state(tmp_path):
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    parts = {names[0]: arrow(table(3)), names[1]: arrow(table(2))}
    alone = {f"alone/{name}": data for name, data in parts.items()} | {"alone/state.json": saved(names)}
    both = {f"both/test/{name}": data for name, data in parts.items()} | {"both/test/state.json": saved(names)}
    more = {"both/dataset_dict.json": b'{"splits": ["test", "special"]}', "alone/dataset_info.json": b"{}"}
    more |= {"both/special/state.json": saved(names[:1], "special"), f"both/special/{names[0]}": arrow(table(1))}
    write(tmp_path, alone | both | more)
    assert shades(at(tmp_path, "alone")) == shades(at(tmp_path, "both")) == [0, 1, 2, 0, 1]
    assert shades(at(tmp_path, "both", "special")) == [0]
    assert [sample.key for sample in at(tmp_path, "alone")][2:4] == [f"{names[0]}:2", f"{names[1]}:0"]
    with pytest.raises(DataError, match="another split than asked for"):
        at(tmp_path, "alone", "train")
    (tmp_path / "alone" / names[1]).unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow is missing"):
        list(at(tmp_path, "alone"))


# --- captions as JSON -------------------------------------------------------------------------------------------------


def sentences(*texts: str) -> list[dict]:
    return [{"raw": text} for text in texts]


KARPATHY = {
    "images": [
        {"filename": "b.png", "filepath": "val2014", "split": "test", "sentences": sentences("one", "two ")},
        {"filename": "a.png", "filepath": "train2014", "split": "restval", "sentences": sentences("three")},
        {"filename": "a.png", "filepath": "val2014", "split": "test", "sentences": sentences("four")},
    ]
}
OWN = {
    "images": [{"id": 7, "file_name": "b.png"}, {"id": 9, "file_name": "a.png"}],
    "annotations": [
        {"image_id": 9, "caption": "four"},
        {"image_id": 7, "caption": "one"},
        {"image_id": 7, "caption": "two"},
    ],
}
LIST = [{"image": "val2014/b.png", "caption": ["one", "two"]}, {"image": "val2014/a.png", "caption": "four"}]


@pytest.mark.parametrize(
    ("path", "content", "split"),
    [
        ("dataset_coco.json", KARPATHY, "test"),
        ("annotations/captions_val2014.json", OWN, "val"),
        ("coco_karpathy_test.json", LIST, "test"),
    ],
)
def test_captions_beside_images(tmp_path, path, content, split):
    write(tmp_path, {f"coco/{path}": json.dumps(content).encode()})
    write(tmp_path, {f"coco/images/val2014/{name}.png": image(shade) for name, shade in (("a", 1), ("b", 2))})
    if split == "test":
        write(tmp_path, {"coco/images/train2014/a.png": image(3)})
    examples = at(tmp_path, "coco", split)
    assert [(sample.captions, sample.image.getpixel((0, 0))[0]) for sample in examples] == [
        (("one", "two"), 2),
        (("four",), 1),
    ]


def test_an_image_that_is_missing_is_named(tmp_path):
    write(tmp_path, {"coco/dataset_coco.json": json.dumps(KARPATHY).encode(), "coco/val2014/b.png": image(1)})
    with pytest.raises(DataError, match=r"val2014/a.png.* is not there once") as caught:
        at(tmp_path, "coco")
    assert caught.value.found == "no such file; in all 1 of 2 images"


# --- together ---------------------------------------------------------------------------------------------------------


def test_adopt_takes_sets_of_all_forms_by_content(tmp_path):
    files = FOLDERS | {
        "vtab/pets/data/test-00000-of-00001.parquet": parquet(table()),
        "vtab/pets/data/train-00000-of-00001.parquet": parquet(table()),
        "vtab/pets/README.md": b"about",
        "coco/dataset_coco.json": json.dumps(KARPATHY).encode(),
        "coco/val2014/a.png": image(1),
        "coco/val2014/b.png": image(2),
    }
    write(tmp_path / "eval", files)
    config = adopt.Config(path=str(tmp_path / "eval"), contents="testsets")
    assert set(config.files) == {
        *(path for path in FOLDERS if path.startswith("food/test/") and not path.endswith(".md")),
        "vtab/pets/data/test-00000-of-00001.parquet",
        "coco/dataset_coco.json",
        "coco/val2014/a.png",
        "coco/val2014/b.png",
    }
    wanted = adopt.TestSets(sets=("vtab/pets",), splits=("test", "train"))
    assert len(adopt.Config(path=str(tmp_path / "eval"), contents=wanted).files) == 2
    with pytest.raises(ConfigError, match="there is no test set 'pets'") as caught:
        _ = adopt.Config(path=str(tmp_path / "eval"), contents=adopt.TestSets(sets=("pets",))).files
    assert "vtab/pets/test" in str(caught.value)


class Flat(Form):
    """class-number.png, all in one folder: a form of a user's own."""

    kind = "flat"

    def find(self, paths, splits):
        names = {path.rpartition("/")[0] for path in paths if path.endswith("/flat.txt")}
        return {(name, "test"): [path for path in paths if path.startswith(f"{name}/")] for name in names}

    def open(self, files):
        from infra.formats.testset import Packed, read_lines

        classes = read_lines(files.store, "flat.txt")

        def read(path):
            yield Packed(path, files.store.read(path), classes.index(path.partition("-")[0]), ())

        images = [path for path in files.paths if path.endswith(".png") and "/" not in path]
        return EvalSet(files.name, "test", files.store, "classification", classes, (), dict(enumerate(images)), read)


def test_a_form_of_ones_own_comes_first(tmp_path):
    write(tmp_path, {"x/flat.txt": b"dog\ncat\n", "x/cat-1.png": image(3), "x/dog-1.png": image(4), "x/a/b.png": b""})
    assert [(sample.label, sample.image.getpixel((0, 0))[0]) for sample in at(tmp_path, "x")] == [(1, 3), (0, 4)]
