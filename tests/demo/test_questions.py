"""Answers are true of the pixels, and neither the words alone nor a bag of what is seen gives them away."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from test_compositions import SHAPES, blobs

from infra.formats.testset import EvalSet
from infra.run.context import Context
from infra.run.manifest import MANIFEST, Artifact
from training.data.index import captions_of
from workflows.demo import testset
from workflows.demo.compositions import Item, kept_apart
from workflows.demo.drawing import render_composition
from workflows.demo.questions import LABELS, QUESTIONS, STATEMENTS, ask
from workflows.demo.scenes import COLOURS, SEEN

KINDS = [*QUESTIONS, *STATEMENTS]
SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def truth(composition) -> str:
    """The answer, from the words and where the image has each colour; which shape has it the items say."""
    areas = blobs(render_composition(composition, 160))
    colour_of = {item.shape: item.colour for item in composition.items}
    text = composition.caption

    def side(shape, other, relation) -> bool:
        (one,), (two,) = areas[colour_of[shape]], areas[colour_of[other]]
        return float(np.dot(np.subtract(one, two), SIDES[relation])) > 20

    if found := re.fullmatch(r"what colour is the shape (.+) the (\w+)\?", text):
        return next(colour_of[shape] for shape in colour_of if shape != found[2] and side(shape, found[2], found[1]))
    if found := re.fullmatch(r"what colour is the (\w+)\?", text):
        return colour_of[found[1]]
    if found := re.fullmatch(r"what shape is (\w+)\?", text):
        return next(shape for shape, colour in colour_of.items() if colour == found[1])
    if found := re.fullmatch(r"is there a (\w+) (\w+)\?", text):
        return "yes" if colour_of.get(found[2]) == found[1] else "no"
    if found := re.fullmatch(r"how many shapes are (\w+)\?", text):
        return {2: "two", 3: "three", 4: "four"}[len(areas[found[1]])]
    if found := re.fullmatch(rf"the (\w+) is ({'|'.join(COLOURS)})", text):
        shown, right = colour_of.get(found[1]), found[2]
        return "neutral" if shown is None else "entailment" if shown == right else "contradiction"
    found = re.fullmatch(rf"the (\w+) is (.+) the ({SHAPES})", text)
    if not {found[1], found[3]} <= set(colour_of):
        return "neutral"
    return "entailment" if side(found[1], found[3], found[2]) else "contradiction"


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unseen", [False, True])
def test_answers_are_true(kind, unseen):
    for seed in range(15):
        group = ask(kind, seed, unseen=unseen)
        assert [truth(one.image) for one in group] == [one.answer for one in group], group[0].image.caption


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unseen", [False, True])
def test_neither_words_nor_a_bag_of_what_is_seen_tells_the_answer(kind, unseen):
    shown = Counter()
    for seed in range(60):
        group = ask(kind, seed, unseen=unseen)
        assert len({one.image.caption for one in group}) == 1
        answers = [one.answer for one in group]
        assert len(set(answers)) == len(answers) == (3 if kind in STATEMENTS else 2)
        if kind in STATEMENTS:
            assert answers == list(LABELS)
        if kind != "count":
            bags = [
                (Counter(item.shape for item in one.image.items), Counter(item.colour for item in one.image.items))
                for one in group
                if one.answer != "neutral"
            ]
            assert bags[0] == bags[1]
        for one in group:
            assert {(item.shape, item.colour) for item in one.image.items} <= set(SEEN)
            assert one.fresh == any(kept_apart(*two) for two in combinations(one.image.items, 2))
            assert one.fresh == unseen or one.answer == "neutral"
            shown.update(frozenset(item.shape for item in one.image.items) for _ in range(one.fresh))
    assert not unseen or len(shown) > 10


def test_what_is_kept_apart_tells_no_answer():
    """Of two shapes each is as often in any of its colours, of two colours each as often on any of its shapes."""
    things = [Item(shape, colour, (0, 0), 1) for shape, colour in SEEN]
    left = {"shape": Counter(), "colour": Counter()}
    for one, other in combinations(things, 2):
        exchanged = Item(one.shape, other.colour, (0, 0), 1), Item(other.shape, one.colour, (0, 0), 1)
        if one.shape != other.shape and one.colour != other.colour and set(exchanged) <= set(things):
            assert kept_apart(one, other) == kept_apart(other, one) == kept_apart(*exchanged)
            if not kept_apart(one, other):
                colours, shapes = frozenset((one.colour, other.colour)), frozenset((one.shape, other.shape))
                left["shape"].update([(colours, one.shape), (colours, other.shape)])
                left["colour"].update([(shapes, one.colour), (shapes, other.colour)])
    for found in left.values():
        assert len(found) == 15 * 4
        assert set(found.values()) == {4}


def test_shapes_are_apart_and_inside():
    for kind in KINDS:
        for seed in range(100):
            for one in ask(kind, seed):
                places = np.array([item.place for item in one.image.items])
                radius = max(item.radius for item in one.image.items)
                gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(len(places))
                assert gaps.min() > 2 * radius
                assert places.min() - radius > -0.01
                assert places.max() + radius < 1.01


def test_the_sets_are_read_and_learnt_from(tmp_path):
    context = Context(tmp_path, stage="testset")
    small = {"seen_per_class": 1, "unseen_per_class": 1, "captioned": 2, "analogies": 1, "compositions": 1}
    manifest = testset.run(testset.Config(**small, image_size=32, questions=2, questions_to_learn=3), {}, context)
    context.store.write(MANIFEST, manifest.to_bytes())
    artifact = Artifact.load(context.store)
    for name, kinds, group in (("vqa", QUESTIONS, 2), ("entailment", STATEMENTS, 3)):
        texts = {}
        for split, groups in (("test", 2), ("unseen", 2), ("train", 3)):
            examples = EvalSet.open(artifact, name, split)
            assert examples.kind == "visual_question_answering"
            samples = list(examples)
            assert len(samples) == groups * len(kinds) * group
            for sample in samples:
                fields = json.loads(sample.metadata)
                (question,), (answer,) = sample.captions, fields["answers"]
                assert captions_of({"json": sample.metadata.encode()}, "json:text") == [f"{question} {answer}"]
            texts[split] = {json.loads(sample.metadata)["fresh"] for sample in samples}
        assert texts == {"test": {False}, "unseen": {False, True} if name == "entailment" else {True}, "train": {False}}
