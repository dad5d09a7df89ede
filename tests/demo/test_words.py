"""The demo's sets of words: what their truth is by the captions themselves, and that they are read as they are."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from infra.formats.testset import EvalSet
from infra.run.context import Context
from infra.run.manifest import Artifact
from workflows.demo import testset
from workflows.demo.scenes import captions, compose, full_captions
from workflows.demo.words import rated_pairs


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    context = Context(tmp_path_factory.mktemp("words"))
    small = {"seen_per_class": 1, "unseen_per_class": 1, "captioned": 1, "compositions": 1, "analogies": 1}
    return Artifact(context.store, testset.run(testset.Config(**small, image_size=32, words=True), {}, context))


def told(examples: EvalSet) -> list[tuple[tuple[str, ...], dict]]:
    assert examples.left_out() == []
    return [(one.captions, json.loads(one.metadata)) for one in examples.packed(0)]


def test_ratings_are_what_the_captions_of_scenes_tell(artifact):
    """Values of an attribute by all captions that hold a wording; two wordings of one attribute are in no caption."""
    pairs = told(EvalSet.open(artifact, "word_pairs", "test"))
    category = {wording: fields["category"] for words, fields in pairs for wording in words}
    meant, together = defaultdict(set), set()
    for number in range(3000):
        scene = compose(number)
        for caption in (*captions(scene), *full_captions(scene)):
            inside = [
                word for word in category if f" {word.lower()} " in f" {caption.lower().replace(',', ' ').strip('.')} "
            ]
            # a wording inside a longer one is not the wording: "on the left side", "medium-sized"
            inside = [word for word in inside if not any(word != one and word in one for one in inside)]
            for word in inside:
                meant[word].add(getattr(scene, category[word]))
            together |= {
                frozenset((one, other)) for one in inside for other in inside if category[one] == category[other]
            }
    assert {word: len(values) for word, values in meant.items()} == dict.fromkeys(category, 1)
    for (one, other), fields in pairs:
        assert (fields["rating"] == 1) == (meant[one] == meant[other]), (one, other)
        assert 0 <= fields["rating"] <= 1
        assert frozenset((one, other)) not in together
    by = {
        name: [fields["rating"] for _, fields in pairs if fields["category"] == name] for name in set(category.values())
    }
    assert {name: (len(found) > 25, len({*found}) > 1, 1 in found) for name, found in by.items()} == dict.fromkeys(
        ("size", "texture", "position"), (True, True, True)
    )  # fmt: skip


def test_ratings_of_what_lies_apart():
    rated = {frozenset(pair): rating for *pair, _, rating in rated_pairs()}
    assert rated[frozenset(("tiny", "huge"))] == 0
    assert rated[frozenset(("tiny", "mid-sized"))] == 0.5
    assert rated[frozenset(("tiny", "small"))] == 1
    assert rated[frozenset(("at the upper left", "in the bottom right corner"))] == 0
    assert rated[frozenset(("at the top", "in the middle"))] == pytest.approx(1 - 1 / 8**0.5, abs=1e-3)


def test_analogies_change_one_attribute_alike(artifact):
    sections = told(EvalSet.open(artifact, "word_analogies", "test"))
    assert [len(fields["questions"]) for _, fields in sections] == [900, 900]
    for words, fields in sections:
        for question in fields["questions"]:
            (c1, s1), (c2, s2), (c3, s3), (c4, s4) = (words[number].split() for number in question)
            assert len({(c1, s1), (c2, s2), (c3, s3), (c4, s4)}) == 4
            assert ((c1, c2, s1, s3) == (c3, c4, s2, s4)) or ((s1, s2, c1, c3) == (s3, s4, c2, c4))
