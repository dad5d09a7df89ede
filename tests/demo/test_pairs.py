"""Statements about two images are true of the pixels, and neither words, images nor what these show tell alone."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest
from test_compositions import blobs

from infra.formats.testset import EvalSet
from infra.run.context import Context
from infra.run.manifest import MANIFEST, Artifact
from training.data.index import captions_of
from workflows.demo import testset
from workflows.demo.compositions import kept_apart
from workflows.demo.drawing import render_side_by_side
from workflows.demo.pairs import KINDS, compare


def truth(one, statement) -> str:
    """Told from where the pixels of either image have which colour; which shape has it the items say."""
    pixels = render_side_by_side((one.left, one.right), 160)
    halves = [blobs(half) for half in np.split(pixels, 2, axis=1)]
    for composition, areas in zip((one.left, one.right), halves, strict=True):
        for item in composition.items:
            apart = [np.linalg.norm(np.subtract(place, np.multiply(item.place, 160))) for place in areas[item.colour]]
            assert min(apart) < 12, "the item is where it is said to be"
    colours = [{item.shape: item.colour for item in composition.items} for composition in (one.left, one.right)]
    if found := re.fullmatch(r"the (\w+) (\w+) is in the (left|right) image", statement):
        return str(colours[found[3] == "right"].get(found[2]) == found[1]).lower()
    if found := re.fullmatch(r"the (\w+) has (one|two) colours? in (both|these) images", statement):
        return str(len({shown[found[1]] for shown in colours}) == (1 if found[2] == "one" else 2)).lower()
    found = re.fullmatch(r"more shapes are (\w+) in the (left|right) image", statement)
    left, right = (len(areas[found[1]]) for areas in halves)
    return str(left > right if found[2] == "left" else right > left).lower()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unseen", [False, True])
def test_statements_are_true_as_said_and_nothing_alone_tells(kind, unseen):
    for seed in range(12):
        both = compare(kind, seed, unseen=unseen)
        assert [[truth(one, statement) for statement in one.statements] for one in both] == [
            ["true", "false"],
            ["false", "true"],
        ]
        assert [one.answers for one in both] == [("true", "false"), ("false", "true")]
        assert both[0].statements == both[1].statements
        bags = [
            tuple(
                Counter(getattr(item, what) for item in one.left.items + one.right.items)
                for what in ("shape", "colour")
            )
            for one in both
        ]
        assert bags[0] == bags[1]
        for one in both:
            things = {(item.shape, item.colour): item for item in one.left.items}
            assert one.fresh == kept_apart(*things.values()) == unseen


def test_where_colours_are_tells_nothing_of_whether_a_shape_has_changed():
    """Of ``same``, which layout of colours the second image has is as likely in either pair."""
    kept = Counter()
    for seed in range(200):
        for one, answer in zip(compare("same", seed), ("true", "false"), strict=True):
            layouts = [
                [item.colour for item in sorted(c.items, key=lambda item: item.place)] for c in (one.left, one.right)
            ]
            kept[answer, layouts[0] == layouts[1]] += 1
    assert all(70 < number < 130 for number in kept.values())
    assert len(kept) == 4


def test_the_set_is_read_and_learnt_from(tmp_path):
    context = Context(tmp_path, stage="testset")
    small = {"seen_per_class": 1, "unseen_per_class": 1, "captioned": 2, "analogies": 1, "compositions": 1}
    manifest = testset.run(testset.Config(**small, image_size=32, questions=2, questions_to_learn=3), {}, context)
    context.store.write(MANIFEST, manifest.to_bytes())
    artifact = Artifact.load(context.store)
    for split, groups in (("test", 2), ("unseen", 2), ("train", 3)):
        samples = list(EvalSet.open(artifact, "pairs", split))
        assert len(samples) == groups * len(KINDS) * 2
        for sample in samples:
            assert sample.image.size == (64, 32)
            told = [
                f"{words} {answer}"
                for words, answer in zip(sample.captions, json.loads(sample.metadata)["answers"], strict=True)
            ]
            assert captions_of({"json": sample.metadata.encode()}, "json:text") == told
