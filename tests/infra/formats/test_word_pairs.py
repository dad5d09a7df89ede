"""Files of rated pairs of words as they are published: what is read of each, what is left out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet, SetFiles, WordPairs, find_sets
from infra.store import open_store


def pairs(folder: Path, name: str, text: str, form: WordPairs | None = None) -> tuple[EvalSet, list[tuple]]:
    """The set of one file, and its pairs: words, rating, category."""
    (folder / "ws").mkdir(exist_ok=True)
    (folder / "ws" / name).write_text(text)
    (key, (found, files)), *more = find_sets([f"ws/{name}"], forms=[form] if form else ()).items()
    assert not more
    examples = found.open(SetFiles.of(open_store(str(folder)), *key, files))
    told = [(one.captions, json.loads(one.metadata)) for one in examples.packed(0)]
    return examples, [(*words, told["rating"], told.get("category")) for words, told in told]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("combined.csv", "Word 1,Word 2,Human (mean)\na,b,6.77\n\"tiger\",cat,7.35\n", ("tiger", "cat", 7.35, None)),
        ("combined.tab", "Word 1\tWord 2\tHuman (mean)\na\tb\t6.77\ntiger\tcat\t7\n", ("tiger", "cat", 7.0, None)),
        (
            "SimLex-999.txt",
            "word1\tword2\tPOS\tSimLex999\tconc(w1)\tconc(w2)\tconcQ\tAssoc(USF)\tSimAssoc333\tSD(SimLex)\n"
            "old\tnew\tA\t1.58\t2.72\t2.81\t2\t7.25\t1\t0.41\nsmart\tintelligent\tA\t9.2\t1.75\t2.46\t1\t7.11\t1\t0.67\n",
            ("smart", "intelligent", 9.2, "A"),
        ),
        ("SimVerb-3500.txt", "take\tremove\tV\t6.81\tSYNONYMS\ngo\trun\tV\t4\tNONE\n", ("go", "run", 4.0, "V")),
        ("MEN_dataset_natural_form_full", "sun sunlight 50.000000\nauto car 49.5\n", ("auto", "car", 49.5, None)),
        ("MEN_dataset_lemma_form_full", "sun-n sunlight-n 50.0\nburn-v cold-j 9\n", ("burn", "cold", 9.0, "v-j")),
        ("rw.txt", "squishy\tsoft\t5.88\t8\t3\t6\nfoxes\tdogs\t1.5\t1\t2\t9\n", ("foxes", "dogs", 1.5, None)),
        (
            "word_similarity.csv",
            "ID,POS,ENG 1,ENG 2,Annotator 1,Annotator 2,Annotator 3\n1,N,cup,mug,5,4,6\n2,V,go,ice cream,,1,2\n",
            ("go", "ice cream", 1.5, "V"),
        ),
        ("word_similarity.csv", "Word 1,Word 2,Human (mean),1,2\na,b,3,9,9\nc,d,4,9,9\n", ("c", "d", 4.0, None)),
        ("word_similarity.txt", "gem;jewel;3.94\nnoon;mid_day;3.9\n", ("noon", "mid day", 3.9, None)),
    ],
    ids=["ws353", "ws353-tab", "simlex", "simverb", "men", "men-lemmas", "rw", "multi-simlex", "raters", "rg65"],
)  # fmt: skip
def test_published_files_are_read_as_they_are(tmp_path, name, text, expected):
    examples, found = pairs(tmp_path, name, text)
    assert (examples.kind, examples.pictured, len(found)) == ("word_similarity", False, 2)
    assert found[1] == expected
    assert examples.left_out() == []


def test_bad_lines_are_left_out_and_told_by_their_number(tmp_path):
    good = "".join(f"{word},b,2\n" for word in "uvwxyz")
    text = (
        f"# a comment\nWord 1,Word 2,Human (mean)\n\nlove,sex,6.77\nhalf\na,,1\nc,d,much\ntiger,cat,nan\n{good},b,2\n"
    )
    examples, found = pairs(tmp_path, "combined.csv", text)
    assert [one for one, *_ in found] == ["love", *"uvwxyz"]
    told = [(one.problem, one.error.message.split(" of ")[0]) for one in examples.left_out()]
    assert told == [
        ("too few fields", "line 5"),
        ("no two words", "line 6"),
        ("no rating", "line 7"),
        ("no rating", "line 8"),
        ("no two words", "line 15"),
    ]


def test_columns_and_files_of_other_names_are_told(tmp_path):
    text = "one,freq,other,judged\ncat,12,dog,3\ncup,7,mug,9\n"
    form = WordPairs(file="mine.txt", words=("one", "3"), rating=("judged",))
    _, found = pairs(tmp_path, "mine.txt", text, form)
    assert found[1] == ("cup", "mug", 9.0, None)
    with pytest.raises(DataError, match="no column 'judgd'"):
        pairs(tmp_path, "mine.txt", text, WordPairs(file="mine.txt", rating=("judgd",)))
    assert find_sets(["ws/mine.txt", "ws/readme.txt"]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "word1,word2,freq,length\na,b,1,2\nc,d,3,4\n",
        "a,b\nc,d\n",
        "a,mostly,1\nc,,2\nd,,3\ne,,4\n",
        "1,2,3\n4,5,6\n",
    ],
    ids=["empty", "several-numbers", "no-number", "mostly-bad", "no-words"],
)
def test_files_of_something_else_are_refused(tmp_path, text):
    with pytest.raises(DataError, match=r"rated pairs|words with ratings") as caught:
        pairs(tmp_path, "combined.csv", text)
    assert (
        "mostly" not in text
        or "1 of 4 lines that are, by columns 1 and 2 as words and 3 as rating" in caught.value.found
    )


def test_of_several_files_the_whole_set_is_read(tmp_path):
    paths = [f"MEN/MEN_dataset_{end}" for end in ("lemma_form.dev", "lemma_form_full", "natural_form_full")]
    (files,) = [files for _, files in find_sets([*paths, "MEN/README"]).values()]
    assert files == ["MEN/MEN_dataset_natural_form_full"]
    with pytest.raises(ConfigError, match="no test set 'x'"):
        EvalSet.at(open_store(str(tmp_path)), "x", "test")
