"""Google's file of word analogies and BATS's folders: what is read, left out and refused."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from infra.errors import DataError
from infra.formats.testset import EvalSet, find_sets
from infra.store import open_store

GOOGLE = """: capital-common-countries
Athens Greece Baghdad Iraq
Athens Greece Oslo New_York
half a line
: gram1-adjective-to-adverb

calm calmly rare rarely
"""
BATS = {
    "1_Inflectional_morphology/I01 [noun - plural_reg].txt": "cat\tcats\ndog\tdogs/doggies\nlonely\n",
    "3_Encyclopedic_semantics/E01 [country - capital].txt": "oslo norway\nrome italy\n",
}


def opened(folder: Path, files: dict[str, str]) -> EvalSet:
    for path, text in files.items():
        (folder / "words" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "words" / path).write_text(text)
    return EvalSet.at(open_store(str(folder)), "words", "test")


def asked(examples: EvalSet) -> dict[str, list[tuple[str, ...]]]:
    """The questions in words, by section."""
    return {
        one.key: [tuple(one.captions[word] for word in question) for question in json.loads(one.metadata)["questions"]]
        for one in examples.packed(0)
    }


def test_googles_file_is_read_by_section(tmp_path):
    examples = opened(tmp_path, {"questions-words.txt": GOOGLE, "vocabulary.txt": "red\nblue\nred\n"})
    assert (examples.kind, examples.pictured) == ("word_analogies", False)
    assert asked(examples) == {
        "capital-common-countries": [("Athens", "Greece", "Baghdad", "Iraq"), ("Athens", "Greece", "Oslo", "New York")],
        "gram1-adjective-to-adverb": [("calm", "calmly", "rare", "rarely")],
        "vocabulary.txt": [],
    }
    categories = [json.loads(one.metadata).get("category") for one in examples.packed(0)]
    assert categories == ["semantic", "syntactic", None]
    assert [one.error.message.split(" of ")[0] for one in examples.left_out()] == ["line 4"]
    assert list(examples.packed(0))[2].captions == ("red", "blue")


def test_folders_of_bats_ask_every_two_lines(tmp_path):
    examples = opened(tmp_path, BATS)
    assert list(find_sets([f"BATS_3.0/{path}" for path in BATS])) == [("BATS_3.0", "test")]
    found = asked(examples)
    assert found["I01 [noun - plural_reg]"] == [
        ("cat", "cats", "dog", "dogs", "doggies"),
        ("dog", "dogs", "cat", "cats"),
    ]
    assert len(found["E01 [country - capital]"]) == len(list(permutations(range(2), 2)))
    assert [one.problem for one in examples.left_out()] == ["no word with answers"]


def test_a_file_without_a_question_is_refused(tmp_path):
    with pytest.raises(DataError, match="no analogies"):
        opened(tmp_path, {"word_analogies.txt": ": section\none two three\n"})
