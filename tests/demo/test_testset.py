"""The test sets are what CLIP_benchmark and our evaluation read, and share no image with the site."""

from __future__ import annotations

import re

import numpy as np
import pytest

from infra.formats.testset import EvalSet
from infra.run.context import Context
from infra.run.manifest import MANIFEST, Artifact
from workflows.demo import scenes, testset, website

CONFIG = testset.Config(seen_per_class=2, unseen_per_class=3, captioned=20, seen_to_learn=1, image_size=64)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    context = Context(tmp_path_factory.mktemp("testset"), stage="testset")
    manifest = testset.run(CONFIG, {}, context)
    context.store.write(MANIFEST, manifest.to_bytes())
    return Artifact.load(context.store)


@pytest.mark.parametrize(("name", "split", "classes", "per_class", "combinations"), [
    ("seen", "test", 30, 2, scenes.SEEN),
    ("seen", "train", 30, 1, scenes.SEEN),
    ("unseen", "test", 36, 3, scenes.UNSEEN),
])  # fmt: skip
def test_the_labelled_sets_hold_each_class_equally_often(artifact, name, split, classes, per_class, combinations):
    examples = EvalSet.open(artifact, name, split)
    assert len(examples.classes) == classes
    assert all("{c}" in template for template in examples.templates)
    labels = [examples.classes[sample.label] for sample in examples]
    assert {label: labels.count(label) for label in labels} == {scenes.name(*pair): per_class for pair in combinations}
    assert {sample.image.size for sample in examples} == {(64, 64)}


def test_images_show_their_label(artifact):
    """By an oracle of its own: the most saturated pixels have the class's hue, or for black there are dark ones."""
    import colorsys

    hues = {"red": 0.0, "yellow": 0.14, "green": 0.37, "blue": 0.62, "purple": 0.795}
    examples = EvalSet.open(artifact, "seen", "test")
    for sample in examples:
        colour = examples.classes[sample.label].split()[0]
        pixels = np.asarray(sample.image, np.float32).reshape(-1, 3) / 255
        strongest = pixels[np.argsort(np.ptp(pixels, axis=1))[-30:]].mean(axis=0)
        hue, saturation, _ = colorsys.rgb_to_hsv(*strongest.tolist())
        if colour == "black":
            assert pixels.max(axis=1).min() < 0.15
            assert saturation < 0.4
        else:
            assert min(abs(hue - hues[colour]), 1 - abs(hue - hues[colour])) < 0.05, (sample.key, colour)


def test_every_caption_of_the_retrieval_set_belongs_to_one_image(artifact):
    examples = EvalSet.open(artifact, "captions", "test")
    assert examples.retrieval
    captions = [caption for sample in examples for caption in sample.captions]
    assert len(captions) == 5 * CONFIG.captioned
    assert len(set(captions)) == len(captions)


def test_the_seeds_are_none_of_the_sites():
    web = website.build(300)
    on_site = {image.scene.seed for image in web.images.values()}
    assert max(on_site) < website.TEST_SEEDS
    assert {(image.scene.shape, image.scene.colour) for image in web.images.values()} == set(scenes.SEEN)
    unseen = [re.compile(rf"\b{scenes.name(*pair)}\b") for pair in scenes.UNSEEN]
    texts = [text for page in web.pages.values() for shown in page.shown for _, text in shown.texts]
    assert not [text for text in texts if any(name.search(text) for name in unseen)]


def test_two_runs_give_the_same_bytes(artifact, tmp_path):
    assert testset.run(CONFIG, {}, Context(tmp_path, stage="testset")) == artifact.manifest
