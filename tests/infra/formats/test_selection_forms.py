"""SugarCrepe's, Winoground's and WinoGAViL's own files: what is found, what is read, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from infra.errors import DataError
from infra.formats.testset import EvalSet, find_sets
from infra.store import open_store


def image(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def crepe(filename: str, caption: str, negative: str) -> dict[str, str]:
    return {"filename": filename, "caption": caption, "negative_caption": negative}


SUGAR_CREPE = {
    "sugar/swap_att.json": {"0": crepe("1.png", "a red cat and a blue dog", "a blue cat and a red dog")},
    "sugar/add_obj.json": {"7": crepe("2.png", "a cat", "a cat and a dog"), "3": crepe("1.png", "two", "two cats")},
}
WINOGROUND = [
    {"id": 5, "image_0": "ex_5_img_0", "image_1": "ex_5_img_1", "caption_0": "an old person kisses a young person",
     "caption_1": "a young person kisses an old person", "collapsed_tag": "Object", "num_main_preds": 1},
]  # fmt: skip


def opened(folder: Path, files: dict, name: str) -> EvalSet:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return EvalSet.at(open_store(str(folder)), name, "test")


def read(examples: EvalSet) -> list[tuple]:
    return [(one.key, one.image.getpixel((0, 0))[0], one.captions, json.loads(one.metadata)) for one in examples]


def test_a_file_of_sugar_crepe_is_a_category(tmp_path):
    images = {"sugar/val2017/1.png": image(10), "sugar/val2017/2.png": image(20), "sugar/val2017/3.png": image(30)}
    examples = opened(tmp_path, {**SUGAR_CREPE, **images}, "sugar")
    assert (examples.kind, examples.retrieval, examples.captioned) == ("image_caption_selection", False, True)
    assert read(examples) == [
        ("add_obj/7", 20, ("a cat", "a cat and a dog"), {"category": "add_obj"}),
        ("add_obj/3", 10, ("two", "two cats"), {"category": "add_obj"}),
        ("swap_att/0", 10, ("a red cat and a blue dog", "a blue cat and a red dog"), {"category": "swap_att"}),
    ]


@pytest.mark.parametrize("folder", ["wino", "wino/data"])
def test_a_line_of_winoground_is_a_group_of_two_images(tmp_path, folder):
    lines = "\n".join(map(json.dumps, WINOGROUND)).encode()
    files = {f"{folder}/examples.jsonl": lines, "wino/images/ex_5_img_0.png": image(50)}
    examples = opened(tmp_path, files | {"wino/images/ex_5_img_1.png": image(60)}, "wino")
    told = {"group": "5", "category": "Object"}
    assert read(examples) == [
        ("5/0", 50, ("an old person kisses a young person",), told),
        ("5/1", 60, ("a young person kisses an old person",), told),
    ]


GAVIL_HEAD = "ID,cue,candidates,associations,num_candidates"


def gavil(*rows: str) -> bytes:
    return "\n".join([GAVIL_HEAD, *rows]).encode()


def test_an_image_of_winogavil_has_the_cues_it_is_a_candidate_of(tmp_path):
    table = gavil(
        '7,Pogonophile,"[""bison"", ""st. ives""]","[""bison""]",2', '9,old,"[""bison"",""flea""]","[""flea""]",2'
    )
    shades = {"bison": 10, "st. ives": 20, "flea": 30, "unasked": 40}
    files = {f"g/winogavil_images/{name}.png": image(shade) for name, shade in shades.items()}
    examples = opened(tmp_path, {"g/winogavil_dataset.csv": table} | files, "g")
    assert examples.kind == "associations"
    assert read(examples) == [
        ("bison", 10, ("A pogonophile", "An old"), {"cues": ["7", "9"], "right": [True, False]}),
        ("st. ives", 20, ("A pogonophile",), {"cues": ["7"], "right": [False]}),
        ("flea", 30, ("An old",), {"cues": ["9"], "right": [True]}),
    ]


def test_other_files_are_not_taken_for_theirs():
    for paths in (["a/labels.json", "a/1.png"], ["a/examples.json", "a/1.png"], ["a/swap_att.json"]):
        assert not [key for key, (form, _) in find_sets(paths).items() if form.kind in ("sugar_crepe", "winoground")]


@pytest.mark.parametrize(("files", "message"), [
    ({"s/swap_att.json": {"0": crepe("9.png", "a", "b")}, "s/1.png": image(1)}, "'9.png' of .* is not there once"),
    ({"s/swap_att.json": {"0": crepe("1.png", "a", " ")}, "s/1.png": image(1)}, "'swap_att/0' of .* has a blank"),
    ({"s/swap_att.json": {"0": {"caption": "a"}}, "s/1.png": image(1)}, "is not in sugar_crepe's form"),
    ({"s/swap_att.json": [1], "s/1.png": image(1)}, "is not in sugar_crepe's form"),
    ({"s/swap_att.json": {}, "s/1.png": image(1)}, "is empty"),
    ({"s/swap_att.json": {"0": crepe("1.png", "a", "b")}, "s/x/1.png": image(1), "s/y/1.png": image(2)},
     "is not there once"),
    ({"s/examples.jsonl": b'{"id": 1}\n', "s/1.png": image(1)}, "is not in winoground's form"),
    ({"s/winogavil_dataset.csv": gavil('7, ,"[""1""]","[""1""]",1'), "s/1.png": image(1)}, "cue '7' has no text"),
    ({"s/winogavil_dataset.csv": gavil("7,a,[],[],0"), "s/1.png": image(1)}, "cue '7' has no candidate"),
    ({"s/winogavil_dataset.csv": gavil('7,a,"[""1"", ""1""]",[],2'), "s/1.png": image(1)}, "has a candidate twice"),
    ({"s/winogavil_dataset.csv": gavil('7,a,"[""1""]","[""1"",""2""]",1'), "s/1.png": image(1)}, "is no candidate"),
    ({"s/winogavil_dataset.csv": gavil('7,a,"[""2""]","[""2""]",1'), "s/1.png": image(1)}, "is not there once"),
    ({"s/winogavil_dataset.csv": gavil("7,a,1,2,0"), "s/1.png": image(1)}, "is not in winogavil's form"),
    ({"s/winogavil_dataset.csv": b"ID,cue\n7,a\n", "s/1.png": image(1)}, "is not in winogavil's form"),
    ({"s/examples.jsonl": b'\xff\n', "s/1.png": image(1)}, "is not UTF-8"),
])  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        opened(tmp_path, files, "s")
