"""Read word analogies, king - man + woman = queen, from Google's file and from folders in BATS's form.

::

    {name}/questions-words.txt                Google's: a line ": section", then a question of four words a line
    {name}/word_analogies.txt                 the same, of any other set; also questions-phrases.txt
    {name}/1_Inflectional_morphology/I01 [noun - plural_reg].txt, ...
                                              BATS's: a file for each section, in it a word and its answers a line,
                                              "big<TAB>bigger/larger"; every two lines make a question
    {name}/vocabulary.txt                     optional: words more to find answers among, one a line

A sample is a section: its captions are its distinct words, its json has the questions by their numbers: the three words
that are given, and then the right answers. Without a vocabulary, answers are found among all words of the set.
A line that is no question is left out, and counted. All have one split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import permutations
from typing import ClassVar

from pydantic import Field

from infra.errors import DataError
from infra.formats.testset.evalset import Broken, EvalSet, Form, Packed, SetFiles
from infra.formats.testset.texts import decoded, readable
from infra.store import Store

__all__ = ["VOCABULARY", "WordAnalogies"]

VOCABULARY = "vocabulary.txt"

_SPLIT = "test"
_LINES = re.compile(r"(?:questions-(?:words|phrases)|word_analogies)\.txt")
_PAIRS = re.compile(r"(?P<name>.+)/(?P<category>\d_[^/]+)/(?P<section>[A-Z]\d\d \[[^/]*\])\.txt")

_Question = tuple[tuple[str, str, str], tuple[str, ...]]
"""Three words, and the right answers for the fourth."""


class WordAnalogies(Form):
    """Questions of four words in sections; there are no images."""

    kind: ClassVar[str] = "word_analogies"
    precedence: ClassVar[int] = 10  # what has images beside it is a set of images
    layout: ClassVar[str] = "questions-words.txt, word_analogies.txt, or BATS's folders"

    file: str | None = Field(None, description="name of the file in Google's form; none: one of those that are known")

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in sorted(paths):
            if self._has_lines(path):
                found.setdefault((path.rpartition("/")[0], _SPLIT), []).append(path)
            elif self.file is None and (match := _PAIRS.fullmatch(path)):
                found.setdefault((match["name"], _SPLIT), []).append(path)
        return found

    def _has_lines(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return bool(_LINES.fullmatch(name)) if self.file is None else name == self.file

    def open(self, files: SetFiles) -> EvalSet:
        pairs = [path for path in files.paths if _PAIRS.fullmatch(f"x/{path}")]
        lines = [path for path in files.paths if self._has_lines(path)]
        more = VOCABULARY if VOCABULARY in files.paths else None
        read = partial(_samples, files.store, tuple(lines), tuple(pairs), more)
        if not any(isinstance(one, Packed) and one.key != VOCABULARY for one in read(0)):
            raise DataError(
                f"test set {files.name!r} has no analogies",
                expected="lines of four words, or of a word and its answers",
                found=", ".join((*lines, *pairs)),
            )
        return EvalSet(
            name=files.name,
            split=files.split,
            store=files.store,
            kind="word_analogies",
            classes=(),
            templates=(),
            parts={0: 0},
            read=read,
            pictured=False,
            strict=False,
        )


def _samples(
    store: Store, lines: Sequence[str], pairs: Sequence[str], vocabulary: str | None, _: int
) -> Iterator[Packed | Broken]:
    """The sections in the order of the files, and the vocabulary, which asks nothing."""
    for path in lines:
        yield from _of_lines(store, path)
    for path in pairs:
        yield from _of_pairs(store, path)
    if vocabulary is not None:
        words = dict.fromkeys(filter(None, (readable(line) for _, line in _lines(store, vocabulary))))
        if words:
            yield Packed(VOCABULARY, b"", -1, tuple(words), json.dumps({"questions": []}))


def _of_lines(store: Store, path: str) -> Iterator[Packed | Broken]:
    """Google's sections. Those whose names begin with ``gram`` are its syntactic ones, the others its semantic ones."""
    sections: dict[str, list[_Question]] = {}
    name = ""
    for number, line in _lines(store, path):
        if line.startswith(":"):
            name = line[1:].strip()
            continue
        words = [readable(word) for word in (line.split("\t") if "\t" in line else line.split())]
        if len(words) == 4 and all(words):
            first, second, third, answer = words
            sections.setdefault(name, []).append(((first, second, third), (answer,)))
        else:
            yield _broken(store, path, number, line, "no four words")
    parted = any(name.startswith("gram") for name in sections)
    for name, questions in sections.items():
        yield _section(name, questions, ("syntactic" if name.startswith("gram") else "semantic") if parted else "")


def _of_pairs(store: Store, path: str) -> Iterator[Packed | Broken]:
    """A section of BATS: of every two lines the first, with its first answer, asks for the answers of the second."""
    match = _PAIRS.fullmatch(f"x/{path}")
    assert match is not None
    known: list[tuple[str, tuple[str, ...]]] = []
    for number, line in _lines(store, path):
        word, _, rest = line.strip().partition("\t") if "\t" in line else line.strip().partition(" ")
        answers = tuple(dict.fromkeys(filter(None, map(readable, rest.split("/")))))
        if word.strip() and answers:
            known.append((readable(word), answers))
        else:
            yield _broken(store, path, number, line, "no word with answers")
    questions = [((one, firsts[0], other), right) for (one, firsts), (other, right) in permutations(known, 2)]
    if questions:
        yield _section(match["section"], questions, match["category"])


def _section(name: str, questions: Sequence[_Question], category: str) -> Packed:
    words: dict[str, int] = {}
    numbers = [[words.setdefault(word, len(words)) for word in (*given, *right)] for given, right in questions]
    told = {"questions": numbers, **({"category": category} if category else {})}
    return Packed(name or "all", b"", -1, tuple(words), json.dumps(told, ensure_ascii=False))


def _broken(store: Store, path: str, number: int, line: str, problem: str) -> Broken:
    return Broken(problem, DataError(f"line {number} of {store.locate(path)} has {problem}", found=line[:100]))


def _lines(store: Store, path: str) -> list[tuple[int, str]]:
    """The lines that say anything, with their numbers from 1."""
    lines = decoded(store.read(path), store.locate(path)).splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
