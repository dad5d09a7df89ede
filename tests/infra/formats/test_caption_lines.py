"""Captions as lines: Flickr's files as they go around, and what is wrong with some of them."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from infra.errors import DataError
from infra.formats.testset import EvalSet, find_sets
from infra.store import open_store


def image(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def read(folder, files: dict[str, str], split="test", images=("10", "20", "30")) -> list[tuple[int, tuple[str, ...]]]:
    for path, text in files.items():
        (folder / "flickr" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "flickr" / path).write_text(text)
    for name in images:
        (folder / "flickr/flickr30k-images").mkdir(parents=True, exist_ok=True)
        (folder / f"flickr/flickr30k-images/{name}.png").write_bytes(image(int(name)))
    examples = EvalSet.at(open_store(str(folder)), "flickr", split)
    assert examples.retrieval
    return [(sample.image.getpixel((0, 0))[0], sample.captions) for sample in examples]


TOKEN = """10.png#0\tTwo young guys with shaggy hair , look at their hands .
10.png#1\tTwo men in green , "talking" .
20.png#0\tA man's hat
10.png#2\tTwo friends
30.png#0\tA child
"""
OF_TOKEN = [
    (10, ("Two young guys with shaggy hair , look at their hands .", 'Two men in green , "talking" .', "Two friends")),
    (20, ("A man's hat",)),
    (30, ("A child",)),
]
# One line of the table of Flickr30k lacks the mark before its comment.
BARS = """image_name| comment_number| comment
10.png| 0| Two young guys | talk .
10.png| 1| Two men, "green" .
20.png| 4   A dog runs across the grass .
"""
KARPATHY = """image,caption
10.png,"The man, with ""pierced"" ears"
10.png,A man, in a hat, smiles
20.png,A dog
"""


def test_tokens(tmp_path):
    assert read(tmp_path, {"results_20130124.token": TOKEN}) == OF_TOKEN


@pytest.mark.parametrize("name", ["test.txt", "flickr30k_test.txt", "Flickr_8k.testImages.txt"])
def test_a_list_beside_them_has_the_split(tmp_path, name):
    files = {"results_20130124.token": TOKEN, name: "30.png\n10\n", name.replace("test", "train"): "20\n"}
    assert read(tmp_path, files) == [OF_TOKEN[0], OF_TOKEN[2]]
    assert read(tmp_path, files, "train") == [OF_TOKEN[1]]
    with pytest.raises(DataError, match="no caption of '40'"):
        read(tmp_path, files | {name: "40.png\n10\n"})


def test_a_table_with_bars_and_its_line_without_one(tmp_path):
    assert read(tmp_path, {"results.csv": BARS}) == [
        (10, ("Two young guys | talk .", 'Two men, "green" .')),
        (20, ("A dog runs across the grass .",)),
    ]


@pytest.mark.parametrize("name", ["captions.txt", "flickr30k_test_karpathy.txt"])
def test_commas_with_and_without_quotation_marks(tmp_path, name):
    assert read(tmp_path, {name: KARPATHY}) == [
        (10, ('The man, with "pierced" ears', "A man, in a hat, smiles")),
        (20, ("A dog",)),
    ]


def test_clip_benchmark_reads_its_file_equally(tmp_path):
    """As its class Flickr does: a head, and lines that are cut behind ``.jpg,``."""
    lines = [f"{name}.jpg,A caption of {name}, with a comma" for name in ("1", "1", "2")]
    (tmp_path / "flickr").mkdir()
    (tmp_path / "flickr/flickr30k_val_karpathy.txt").write_text("\n".join(["image,caption", *lines]))
    for name in "12":
        Image.new("RGB", (8, 8)).save(tmp_path / f"flickr/{name}.jpg")
    theirs: dict[str, list[str]] = {}
    for line in lines:
        theirs.setdefault(line.split(".jpg,")[0], []).append(line.split(".jpg,")[1])
    found = EvalSet.at(open_store(str(tmp_path)), "flickr", "val")
    assert [list(sample.captions) for sample in found] == list(theirs.values())


def test_the_hubs_table_has_lists_and_splits(tmp_path):
    rows = [("10.png", "test", ["one", "two"]), ("20.png", "train", ["three"]), ("30.png", "test", ['a "b", c'])]
    lines = [
        f'"{json.dumps(texts).replace(chr(34), chr(34) * 2)}","[0, 1]",{split},{name},7' for name, split, texts in rows
    ]
    files = {"flickr_annotations_30k.csv": "\n".join(["raw,sentids,split,filename,img_id", *lines])}
    assert read(tmp_path, files) == [(10, ("one", "two")), (30, ('a "b", c',))]
    assert read(tmp_path, files, "train") == [(20, ("three",))]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"captions.txt": 'image,caption\n10.png,"open\n20.png,A dog\n'}, "line 3 of .* is not a row"),
        ({"captions.txt": "image,caption\n10.png\n"}, "line 2 of .* is not a row"),
        ({"captions.txt": "picture,words\n10.png,a\n"}, "no columns of images and captions"),
        ({"x.token": "10.png#0\ta\n20.png b\n"}, "line 2 of .* has no caption"),
        ({"x.token": "10.png#0\ta\n50.png#0\tb\n"}, "'50.png' of .* is not there once"),
        ({"x.token": "10.png#0\ta\n", "captions.txt": KARPATHY}, "several files have captions"),
        ({"captions.csv": "image,caption\n"}, "has no image of split"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, files)


def test_it_takes_no_set_that_others_read():
    paths = ["coco/dataset_coco.json", "coco/captions.txt", "coco/a.jpg", "x/test/a/1.jpg", "x/test/b/1.jpg"]
    found = find_sets([*paths, "x/notes.txt", "y/captions.txt"])
    kinds = {key: form.kind for key, (form, _) in found.items()}
    assert kinds["coco", "test"] == "captions_json"
    assert kinds["x", "test"] == "image_folder"
    assert ("y", "test") not in kinds
