"""Scenes: everything a caption says is true of the image, and nothing depends on when or at what size it is drawn."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from workflows.demo import scenes
from workflows.demo.drawing import render
from workflows.demo.scenes import Scene, captions, compose, full_captions

SCENE = Scene("circle", "red", "medium", "plain", "centre", "grey", 7)


def shape_mask(scene, side=128):
    """The pixels in which two renderings of different colour differ: the shape, without the background."""
    other = replace(scene, colour="blue" if scene.colour != "blue" else "yellow")
    return np.abs(render(scene, side).astype(int) - render(other, side).astype(int)).max(axis=2) > 40


def test_each_colour_and_shape_is_unseen_exactly_once():
    assert len(scenes.SEEN) == 30
    assert len(scenes.UNSEEN) == 6
    assert {shape for shape, _ in scenes.UNSEEN} == set(scenes.SHAPES)
    assert {colour for _, colour in scenes.UNSEEN} == set(scenes.COLOURS)


@pytest.mark.parametrize("position", scenes.POSITIONS)
@pytest.mark.parametrize("size", scenes.SIZES)
def test_the_shape_is_where_and_as_large_as_captions_say(position, size):
    for seed in range(6):
        mask = shape_mask(replace(SCENE, position=position, size=size, seed=seed))
        y, x = (axis.mean() / 128 for axis in np.nonzero(mask))
        limit = {"small": 0.08, "medium": 0.08, "large": 0.05}[size]
        assert (x < 0.5 - limit) == ("left" in position)
        assert (x > 0.5 + limit) == ("right" in position)
        assert (y < 0.5 - limit) == ("top" in position)
        assert (y > 0.5 + limit) == ("bottom" in position)
        lowest, highest = {"small": (0.09, 0.15), "medium": (0.17, 0.25), "large": (0.28, 0.38)}[size]
        assert lowest < mask.mean() < highest


@pytest.mark.parametrize("shape", scenes.SHAPES)
@pytest.mark.parametrize("position", ["top left", "bottom right"])
def test_the_shape_is_never_cut_off(shape, position):
    for seed in range(6):
        mask = shape_mask(replace(SCENE, shape=shape, position=position, size="large", seed=seed))
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_every_attribute_shows():
    choices = {
        "shape": scenes.SHAPES, "colour": scenes.COLOURS, "size": scenes.SIZES, "texture": scenes.TEXTURES,
        "position": scenes.POSITIONS, "background": scenes.BACKGROUNDS,
    }  # fmt: skip
    for field, values in choices.items():
        images = [render(replace(SCENE, **{field: value}), 64).astype(int) for value in values]
        for turn, one in enumerate(images):
            for other in images[:turn]:
                assert (np.abs(one - other).max(axis=2) > 25).mean() > 0.02, field


def test_backgrounds_are_duller_than_any_colour_but_black():
    for background in scenes.BACKGROUNDS:
        for seed in range(8):
            edge = render(replace(SCENE, size="small", background=background, seed=seed), 64)[0].astype(int)
            assert np.ptp(edge, axis=1).max() < 70
            assert edge.max(axis=1).min() > 55


def test_a_scene_is_the_same_image_at_every_side():
    for seed in range(10):
        scene = compose(seed)
        large = cv2.resize(render(scene, 512), (128, 128), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(large - render(scene, 128)).mean() < 3


def test_another_process_draws_the_same_bytes():
    code = (
        "import hashlib; from workflows.demo.drawing import render; from workflows.demo.scenes import compose; "
        "print(hashlib.sha256(b''.join(render(compose(n), 96).tobytes() for n in range(20))).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = hashlib.sha256(b"".join(render(compose(n), 96).tobytes() for n in range(20))).hexdigest()
    assert there == here


def test_captions_are_varied_and_name_colour_and_shape():
    for seed in range(200):
        scene = compose(seed)
        words = captions(scene)
        assert len(set(words)) == len(words) >= 10
        for text in (*words, *full_captions(scene)):
            assert scene.colour in text
            assert scene.shape in text
            assert len(text.split()) > 2
    assert len({text for seed in range(500) for text in captions(compose(seed))}) > 1500


def test_full_captions_tell_attributes_apart():
    scene = compose(3)
    for field, values in (("size", scenes.SIZES), ("texture", scenes.TEXTURES), ("position", scenes.POSITIONS),
                          ("background", scenes.BACKGROUNDS)):  # fmt: skip
        variants = [set(full_captions(replace(scene, **{field: value}))) for value in values]
        assert len(set.union(*variants)) == sum(len(variant) for variant in variants)
