"""Prompts by name and in files: CLIP_benchmark's, CuPL's and open_clip's, in one language or several."""

from __future__ import annotations

import json
import subprocess
import sys

import open_clip
import pytest

from infra.errors import DataError
from infra.formats.testset import prompts
from infra.formats.testset.named_texts import named_texts
from infra.formats.testset.prompt_files import read_prompts
from infra.store import open_store

CLASSES = ("apple pie", "Baby back ribs")


def read(folder, files: dict[str, object], dataset="food", templates=("the {c}",), language="en", classes=CLASSES):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))
    return read_prompts(open_store(str(folder)), list(files), dataset, classes, templates, language)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("open_clip:imagenet", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("open_clip:openai_imagenet", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("open_clip:simple_imagenet", open_clip.SIMPLE_IMAGENET_TEMPLATES),
        ("open_clip:SIMPLE_IMAGENET_TEMPLATES", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ],
)
def test_templates_by_name_are_open_clips(name, theirs):
    assert prompts(["a $dog", "cat"], named_texts(name, "templates")) == [
        template(one) for one in ("a $dog", "cat") for template in theirs
    ]


def test_class_names_by_name_are_open_clips():
    assert named_texts("open_clip:imagenet", "classnames") == tuple(open_clip.IMAGENET_CLASSNAMES)


def test_constants_of_any_module_will_do(tmp_path, monkeypatch):
    (tmp_path / "my_words.py").write_text('KINDS = ["a", "b"]\nASK = (lambda c: f"is it {c}?", "{c}!")\nTHREE = 3\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert named_texts("my_words:KINDS", "classnames") == ("a", "b")
    assert named_texts("my_words:ASK", "templates") == ("is it {c}?", "{c}!")
    with pytest.raises(ValueError, match="it has ASK, KINDS"):
        named_texts("my_words:THREE", "templates")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("open_clip:cifar", "it has OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES"),
        ("a photo of {c}", "is neither"),
        ("no_such_module:X", "cannot be imported"),
    ],
)
def test_names_that_are_not_there_say_what_is(name, words):
    with pytest.raises(ValueError, match=words):
        named_texts(name, "templates")


def test_names_load_no_torch():
    code = (
        "import sys; from evaluation.tasks import ZeroShot; t = ZeroShot(dataset='x', templates='open_clip:imagenet')"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(len(t.templates), 'torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["80", "False"]


# --- files ------------------------------------------------------------------------------------------------------------

CUPL = {"apple_pie": ["a pie with a lattice", "warm"], "baby back ribs": ["ribs on a plate {c}"], "sushi": ["rice"]}
OF_CUPL = [["a pie with a lattice", "warm"], ["ribs on a plate Baby back ribs"]]


@pytest.mark.parametrize("content", [CUPL, {"food": CUPL, "pets": {"cat": ["x"]}}])
def test_prompts_of_each_class(tmp_path, content):
    """CuPL's form, and CLIP_benchmark's, which has one for each set."""
    assert read(tmp_path, {"cupl.json": content}) == {"en": OF_CUPL}


@pytest.mark.parametrize("name", ["food", "vtab/food", "wds_vtab-food_test", "wds_food"])
def test_a_set_is_found_by_its_names(tmp_path, name):
    """CLIP_benchmark drops ``vtab/``; its downloads are called ``wds_vtab-food_test``."""
    content = {"food": ["a {c} dish", "{c}"], "other": ["x"]}
    assert read(tmp_path, {"x.json": content}, name) == {
        "en": [["a apple pie dish", "apple pie"], ["a Baby back ribs dish", "Baby back ribs"]]
    }


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"food": ["pie", "ribs"]}, [["the pie"], ["the ribs"]]),  # names, with the set's own templates
        (["no {}", "{c}"], [["no apple pie", "apple pie"], ["no Baby back ribs", "Baby back ribs"]]),
        ("the only {c}\n\n", None),
    ],
)
def test_names_and_templates(tmp_path, content, found):
    suffix = ".txt" if isinstance(content, str) else ".json"
    expected = found or [["the only apple pie"], ["the only Baby back ribs"]]
    assert read(tmp_path, {f"x{suffix}": content}) == {"en": expected}


def test_each_language_has_its_files(tmp_path):
    files = {
        "de_classnames.json": {"food": ["Apfelkuchen", "Rippchen"], "more": ["x"]},
        "de_zeroshot_classification_templates.json": {"food": ["ein Bild von {c}", "{c}"]},
        "en_classnames.json": {"food": ["pie", "ribs"]},
        "fr.json": {"apple pie": ["une tarte"], "baby back ribs": ["des côtes", "de porc"]},
        "th/prompts.txt": "รูป {c}",
        "it_classnames.json": {"other": ["x"]},
    }
    assert read(tmp_path, files) == {
        "de": [["ein Bild von Apfelkuchen", "Apfelkuchen"], ["ein Bild von Rippchen", "Rippchen"]],
        "en": [["the pie"], ["the ribs"]],
        "fr": [["une tarte"], ["des côtes", "de porc"]],
        "th": [["รูป apple pie"], ["รูป Baby back ribs"]],
    }


def test_classes_may_be_named_as_the_language_names_them(tmp_path):
    files = {
        "de_classnames.json": {"food": ["Kuchen", "Rippchen"]},
        "de_x.json": {"Kuchen": ["süß"], "Rippchen": "fett"},
    }
    assert read(tmp_path, files, language="de") == {"de": [["süß"], ["fett"]]}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"x.json": {"apple pie": ["warm"]}}, "no prompts of 1 of 2 classes"),
        ({"x.json": {"pets": ["a {c}"]}}, "no file at .* has prompts of food"),
        ({"x.json": {"food": ["one"]}}, "class names at .* do not fit the set"),
        ({"x.json": {"food": ["a {c}", "b"]}}, "template without a place"),
        ({"x.json": {"food": [""]}}, "has no prompts"),
        ({"x.json": {"food": []}}, "has no prompts"),
        ({"x.json": {"food": {"apple pie": [1], "baby back ribs": ["x"]}}}, "class 'apple pie' of .* has no prompts"),
        ({"x.json": "{"}, "is not JSON"),
        ({"de.json": ["{c}"], "prompts.json": ["{c}"]}, "does not say in what language"),
        ({"de.json": ["{c}"], "de_b.json": ["a {c}"]}, "is the second file of its language"),
        ({"de.json": {"food": ["a", "b"]}, "en.json": ["{c}"]}, "has names of classes and no prompts"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, files)
