"""The texts of a test set: class names and prompt templates, in CLIP_benchmark's files, whatever form the images have.

::

    {name}/dataset_type.txt                        one of KINDS, where the samples do not tell
    {name}/classnames.txt                          a class per line, in label order
    {name}/zeroshot_classification_templates.txt   a prompt per line, with {c} for the class
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeGuard

from infra.errors import DataError
from infra.formats.testset.named_texts import named_texts
from infra.store import Store

__all__ = [
    "CAPTIONS",
    "CLASSES",
    "KINDS",
    "LABELS",
    "TEMPLATES",
    "decoded",
    "prompts",
    "read_classes",
    "read_cues",
    "read_kind",
    "read_languages",
    "read_lines",
    "read_templates",
    "readable",
]

CLASSES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"

LABELS = ("label", "labels", "class", "cls", "target")
CAPTIONS = ("caption", "captions", "text", "texts", "txt", "sentence", "sentences", "sentences_raw", "raw")
"""Names of columns that hold labels and captions, where a table says no more of them."""


KINDS = {
    "classification": "an image has one of the set's classes",
    "multilabel": "an image has any number of the set's classes",
    "retrieval": "all captions of an image are right",
    "analogies": "the captions of an image are the values of its attributes",
    "associations": "the captions of an image are cues, its json tells for which it is right",
    "localisation": "the captions of an image are phrases, its json has a box for each",
    "visual_question_answering": "the captions of an image are questions, its json has the answers",
    "multiple_choice": "the captions of an image are choices, its json says of which steps",
    "word_similarity": "the captions of a sample are two words, its json has their rating; no images",
    "word_analogies": "the captions of a sample are words, its json has questions by their numbers; no images",
    "image_caption_selection": "the first caption of an image is right, the others are wrong",
}
"""Kinds of test sets, as ``dataset_type.txt`` names them; the last is CLIP_benchmark's name of the task."""


def read_kind(store: Store, otherwise: str) -> str:
    """The kind of the set by its ``dataset_type.txt``, ``otherwise`` if there is none. Raises DataError."""
    kind = (read_lines(store, "dataset_type.txt") or (otherwise,))[0].lower()
    if kind not in KINDS:
        raise DataError(
            f"test set {store.url!r} is of a kind clipline cannot score",
            expected=f"{', '.join(KINDS)} in dataset_type.txt",
            found=kind,
        )
    return kind


def prompts(classes: Sequence[str], templates: Sequence[str] = ()) -> list[str]:
    """Return the prompts of all classes, those of a class side by side; without templates, CLIP's 80 for ImageNet."""
    if templates:
        # Not str.format: a template comes from a file, and {c.__class__} should stay what it is, text.
        return [template.replace("{c}", name) for name in classes for template in templates]
    return prompts(classes, named_texts("open_clip:openai_imagenet", "templates"))


def read_classes(store: Store, path: str = CLASSES) -> tuple[str, ...]:
    """The classes by label. Two may have the same name, as in ImageNet, but none a blank one: labels would shift."""
    classes = read_lines(store, path)
    if "" in classes:
        raise DataError(
            f"{store.locate(path)} has a class without a name",
            expected="a name in each line, in the order of the labels",
            found=f"line {classes.index('') + 1} of {len(classes)} is blank",
            fix="name the class, or remove the line if it stands for none",
        )
    return classes


def read_templates(store: Store, path: str = TEMPLATES) -> tuple[str, ...]:
    """The prompts, none if the file is missing. Raises DataError for one without a place for the class."""
    templates = tuple(line for line in read_lines(store, path) if line)
    if without := [line for line in templates if "{c}" not in line]:
        raise DataError(
            f"{store.locate(path)} has a template without a place for the class",
            expected="{c} in each line",
            found=repr(without[0]),
        )
    return templates


def read_lines(store: Store, path: str) -> tuple[str, ...]:
    """Return the lines of a small text file, without blank ones at its end; none if the file is missing."""
    if not store.exists(path):
        return ()
    text = decoded(store.read(path), store.locate(path))
    return tuple(line.strip() for line in text.rstrip().split("\n")) if text.strip() else ()


def read_languages(metadata: str, captions: int, what: str) -> list[str]:
    """The language of each of a sample's captions by its ``metadata``, "" where that says none.

    Raises DataError, with ``what`` it is of, if it names too many or few.
    """
    fields = json.loads(metadata) if metadata else {}
    named = fields.get("languages", [fields.get("language", "")] * captions)
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named) or len(named) != captions:
        raise DataError(
            f"{what} does not say what language its captions are in",
            expected=f"a list languages of {captions} codes in its json, or one language",
            found=json.dumps(named, ensure_ascii=False)[:80],
        )
    return named


def read_cues(metadata: str, captions: int, what: str) -> list[tuple[str, bool]]:
    """Name of the cue that each of a sample's captions is, by its ``metadata``, and if the sample is right for it.

    Raises DataError, with ``what`` it is of, unless there is one of each for every caption.
    """
    fields = json.loads(metadata) if metadata else {}
    cues, right = fields.get("cues"), fields.get("right")
    if not (_are(cues, (str, int), captions) and _are(right, (bool,), captions)):
        raise DataError(
            f"{what} does not say which cues it is asked for",
            expected=f"cues, a list of {captions} names, and right, {captions} of true or false, in its json",
            found=json.dumps({"cues": cues, "right": right}, ensure_ascii=False)[:120],
        )
    return list(zip(map(str, cues), right, strict=True))


def _are(values: object, types: tuple[type, ...], count: int) -> TypeGuard[list[Any]]:
    return isinstance(values, list) and len(values) == count and all(type(one) in types for one in values)


def decoded(text: bytes, place: str) -> str:
    """``text`` as UTF-8, without a byte order mark. Raises DataError that names the ``place``."""
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8", found=str(error)) from None


def readable(name: str) -> str:
    """A class name as it stands in a sentence: ``golden_retriever`` was written so for want of a space."""
    return " ".join(name.replace("_", " ").split())
