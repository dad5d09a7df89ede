"""Prompts in files: templates, class names, or prompts of each class's own, of one test set or many, in any language.

::

    {class: [prompt, ...]}            as CuPL (Pratt et al., 2023) publishes what a language model says of classes
    {set: {class: [prompt, ...]}}     CLIP_benchmark's custom template file
    {set: [template, ...]}            CLIP_benchmark's templates, with {c} (or {}) for the class
    {set: [class name, ...]}          CLIP_benchmark's class names, in the order of the labels
    *.txt                             templates or class names of any set, one a line

One file is in the language of the evaluation. Several are in the languages that their names begin with, or that their
folders are called: ``de_classnames.json``, ``de_zeroshot_classification_templates.json``, ``fr.json``, ``th/x.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.errors import DataError
from infra.formats.testset.texts import decoded, prompts, read_lines, readable
from infra.store import Store

__all__ = ["PROMPT_FILES", "languages_of_files", "read_prompts"]

PROMPT_FILES = (".json", ".txt")

_LANGUAGE = re.compile(r"(?P<code>[a-z]{2,3}(?:-[A-Za-z]{2,4})?)(?:[/._].*)?")

Prompts = list[list[str]]
"""The prompts of each class, by label."""


@dataclass(frozen=True)
class _Texts:
    """Names, templates and prompts of a set in one language."""

    names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    by_class: Mapping[str, Sequence[str]] | None = None


def read_prompts(
    store: Store, paths: Sequence[str], dataset: str, classes: Sequence[str], templates: Sequence[str], language: str
) -> dict[str, Prompts]:
    """The prompts of each class of the set ``dataset``, by language, from files below ``store``.

    ``classes``, ``templates`` and ``language`` are the set's own: names that a file lacks. Raises DataError for what is
    in no known form, or not for all classes.
    """
    found: dict[str, _Texts] = {}
    waiting = list(languages_of_files(paths, language, store.url).items())
    # A second time for prompts under the names that another file of the language has for the classes.
    for path, code in [*waiting, *waiting]:
        known = found.get(code, _Texts())
        read = _read(store, path, _names(dataset), (*classes, *known.names)) if (path, code) in waiting else None
        if read is not None:
            waiting.remove((path, code))
            found[code] = _both(known, read, store.locate(path))
    if not found:
        raise DataError(
            f"no file at {store.url} has prompts of {dataset}",
            expected=f"a key {dataset!r}, or the names of its classes ({', '.join(classes[:3])}, ...)",
            found=", ".join(paths[:5]),
        )
    own = _Texts(templates=tuple(templates))
    return {
        code: _prompts(replace(texts, templates=texts.templates or own.templates) if code == language else texts,
                       classes, f"{store.url} ({code})", own_language=code == language)
        for code, texts in found.items()
    }  # fmt: skip


def languages_of_files(paths: Collection[str], language: str, place: str) -> dict[str, str]:
    """The language of each file: ``language`` if there is only one. Raises DataError for a name that tells none."""
    if len(paths) == 1:
        return dict.fromkeys(paths, language)
    found = {path: match["code"] for path in sorted(paths) if (match := _LANGUAGE.fullmatch(path))}
    if wrong := sorted(set(paths) - set(found)):
        raise DataError(
            f"{wrong[0]} of {place} does not say in what language its prompts are",
            expected="one file, or names that begin with a language: de_classnames.json, de.json, de/prompts.json",
            found=", ".join(sorted(paths)[:5]),
        )
    return found


def _names(dataset: str) -> tuple[str, ...]:
    """The names under which a set may stand in a file: ``wds_vtab-pets_test`` is ``vtab/pets``, or just ``pets``."""
    plain = re.sub(r"_(?:test|train|val)$", "", dataset.removeprefix("wds_"))
    names = (dataset, plain, plain.replace("-", "/", 1), dataset.rpartition("/")[2], plain.rpartition("-")[2])
    return tuple(dict.fromkeys(names))


def _read(store: Store, path: str, names: Sequence[str], classes: Sequence[str]) -> _Texts | None:
    """The prompts in a file of the set with one of these ``names``; None if it is of other sets."""
    place = store.locate(path)
    if path.endswith(".txt"):
        return _lines([line for line in read_lines(store, path) if line], place)
    try:
        content = json.loads(decoded(store.read(path), place))
    except ValueError as error:
        raise DataError(f"{place} is not JSON", found=str(error)) from None
    if not isinstance(content, dict):
        return _lines(content, place)
    named = next((content[name] for name in names if name in content), None)
    if named is None and not {_folded(name) for name in classes} & {_folded(name) for name in content}:
        return None
    chosen = content if named is None else named
    if isinstance(chosen, dict):
        return _Texts(by_class={name: _list(texts, f"class {name!r} of {place}") for name, texts in chosen.items()})
    return _lines(chosen, place)


def _lines(given: Any, place: str) -> _Texts:  # noqa: ANN401 - JSON
    """Templates, if all have a place for the class, or names, if none has."""
    texts = [text.replace("{}", "{c}") for text in _list(given, place)]
    held = ["{c}" in text for text in texts]
    if any(held) and not all(held):
        raise DataError(
            f"{place} has a template without a place for the class",
            expected="{c} in each, or in none if they are names of classes",
            found=repr(texts[held.index(False)]),
        )
    return _Texts(templates=tuple(texts)) if held[0] else _Texts(names=tuple(texts))


def _list(texts: Any, place: str) -> list[str]:  # noqa: ANN401 - JSON
    """``texts``, or one text alone, without blank ones at their ends. Raises DataError for anything else, or none."""
    given = [texts] if isinstance(texts, str) else texts
    if not isinstance(given, list) or not given or not all(isinstance(one, str) and one.strip() for one in given):
        found = json.dumps(texts, ensure_ascii=False)[:100]
        raise DataError(f"{place} has no prompts", expected="a list of texts, none of them blank", found=found)
    return [one.strip() for one in given]


def _both(one: _Texts, other: _Texts, place: str) -> _Texts:
    """Merge two files of a language. Raises DataError if both have the same kind of texts."""
    for name in ("names", "templates", "by_class"):
        if getattr(one, name) and getattr(other, name):
            raise DataError(f"{place} is the second file of its language with {name} of the set", expected="one")
    return _Texts(one.names or other.names, one.templates or other.templates, one.by_class or other.by_class)


def _prompts(texts: _Texts, classes: Sequence[str], place: str, *, own_language: bool) -> Prompts:
    """The prompts of each class. Raises DataError for too few or too many names, or classes without a prompt."""
    if texts.names and len(texts.names) != len(classes):
        raise DataError(
            f"the class names at {place} do not fit the set", expected=f"{len(classes)} names",
            found=f"{len(texts.names)}",
        )  # fmt: skip
    names = texts.names or classes
    if texts.by_class is not None:
        return _of_each_class(texts.by_class, names, classes, place)
    if texts.names and not texts.templates and not own_language:
        raise DataError(
            f"{place} has names of classes and no prompts", expected="templates in the same language",
            fix='a file with the template "{c}" asks with the bare names',
        )  # fmt: skip
    each = prompts(names, texts.templates)
    return [each[start : start + len(each) // len(names)] for start in range(0, len(each), len(each) // len(names))]


def _of_each_class(
    by_class: Mapping[str, Sequence[str]], names: Sequence[str], classes: Sequence[str], place: str
) -> Prompts:
    folded = {_folded(key): list(texts) for key, texts in by_class.items()}
    found = [folded.get(_folded(name)) or folded.get(_folded(own)) for name, own in zip(names, classes, strict=True)]
    missing = [name for name, texts in zip(names, found, strict=True) if not texts]
    if missing:
        raise DataError(
            f"{place} has no prompts of {len(missing)} of {len(classes)} classes",
            expected=f"prompts of {missing[0]!r} and all others",
            found=", ".join(list(by_class)[:5]),
        )
    filled = zip(names, (texts for texts in found if texts), strict=True)
    return [[text.replace("{c}", name) for text in texts] for name, texts in filled]


def _folded(name: str) -> str:
    return readable(name).casefold()
