"""Pointing against loops over patches and boxes, and boxes against the pixels that a shape changes."""

from __future__ import annotations

import json
from dataclasses import replace

import evaluation_samples as samples
import numpy as np
import open_clip
import pytest
import torch
from embedded_by import embedded, unit
from PIL import Image

from evaluation import evaluate
from evaluation.tasks import Localisation
from infra.encoder.open_clip import load_encoder
from infra.encoder.patch_features import Attention, PatchFeatures, Value
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context
from infra.run.manifest import Artifact
from workflows.demo import drawing, testset
from workflows.demo.compositions import pair

PHRASES = [["one"], ["one", "two"], ["two", "three"], ["three"]]
BOXES = [[[0, 0, 24, 20]], [[24, 0, 24, 20], [0, 0, 48, 40]], [[20, 18, 9, 9], [0, 20, 8, 20]], [[1, 1, 2, 2]]]
TEXTS = {"one": [1, 0, 0], "two": [0, 1, 0], "three": [0, 0, 1]}


class Patches:
    """Random patches of every image, two of the last one's alike."""

    def encode_patches(self, images, way):
        assert way == Attention()
        for number, image in enumerate(images):
            assert image.size == (48, 40)
            found = unit(np.random.default_rng(number).normal(size=(12, 3)))
            if number == 3:
                found[:] = found[0]
            yield found.reshape(3, 4, 3)


def data(folder, boxes):
    members = []
    for number, (phrases, own) in enumerate(zip(PHRASES, boxes, strict=True)):
        members += [
            (f"{number}.png", samples.picture(number)),
            (f"{number}.txt", "\n".join(phrases).encode()),
            (f"{number}.json", json.dumps({"boxes": own}).encode()),
        ]
    files = {
        "data/p/dataset_type.txt": b"localisation\n",
        "data/p/test/nshards.txt": b"1\n",
        "data/p/test/0.tar": samples.tar(members),
    }
    found = embedded(
        EvalSet.open(samples.write_artifact(folder, files), "p", "test"), lambda n, sample: [1, n, 0], TEXTS.get
    )
    return type(found)(**{**vars(found), "encoder": Patches})


def test_pointing_and_its_baselines(tmp_path):
    found = Localisation(dataset="p", patches="attention").evaluate(data(tmp_path, BOXES))
    everything = np.mean([TEXTS[phrase] for own in PHRASES for phrase in own], axis=0)
    expected = {"pointing_acc": [], "blind_acc": [], "centre_acc": []}
    for number, (phrases, boxes) in enumerate(zip(PHRASES, BOXES, strict=True)):
        patches = unit(np.random.default_rng(number).normal(size=(12, 3)))

        def hit(x, y, box):
            return box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]

        for phrase, box in zip(phrases, boxes, strict=True):
            inside = [hit(48 * (n % 4 + 0.5) / 4, 40 * (n // 4 + 0.5) / 3, box) for n in range(12)]
            for name, text in (("pointing_acc", TEXTS[phrase]), ("blind_acc", everything)):
                best = np.argmax(patches @ text)
                expected[name].append(np.mean(inside) if number == 3 else inside[best])
            expected["centre_acc"].append(hit(24, 20, box))
    for name, values in expected.items():
        assert found.metrics[name].value == pytest.approx(np.mean(values)), name
        assert found.metrics[name].images == 4
    assert 0 < found.metrics["pointing_acc"].value < 1
    assert found.tables["phrases"]["right"] == pytest.approx([float(one) for one in expected["pointing_acc"]])


@pytest.mark.parametrize("wrong", [[], [[0, 0, 1]], [[0, 0, 0, 5]], "no"])
def test_a_box_for_each_phrase(tmp_path, wrong):
    with pytest.raises(DataError, match="not a box for each phrase"):
        Localisation(dataset="p", patches="attention").evaluate(data(tmp_path, [wrong, *BOXES[1:]]))


@pytest.mark.parametrize("category", ["attribute", "count", "relation"])
def test_boxes_are_those_of_the_pixels(category):
    for seed in range(4):
        composition, _ = pair(category, seed)
        boxes = drawing.boxes(composition, 128)
        for number, (left, top, width, height) in enumerate(boxes):
            rest = composition.items[:number]
            before, after = (
                drawing.render_composition(replace(composition, items=items), 128).astype(int)
                for items in (rest, (*rest, composition.items[number]))
            )
            changed = np.abs(after - before).max(axis=2)
            down, across = np.nonzero(changed > changed.max() / 2)  # pixels that are half inside
            seen = across.min(), down.min(), across.max() + 1, down.max() + 1
            assert seen == pytest.approx((left, top, left + width, top + height), abs=1.5)


@torch.inference_mode()
def test_patches_by_value_attend_to_themselves_alone():
    """Each patch through the last block by itself; by attention, the pooled token is the model's own feature."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**{**samples.MODEL, "vision_cfg": {**samples.MODEL["vision_cfg"], "layers": 2}}).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = Value().features(model, images)
    assert found.shape == (2, 2, 2, 16)
    first, last = model.visual.transformer.resblocks
    tokens = first(model.visual._embeds(images))
    for place in range(4):
        (alone,) = model.visual.ln_post(last(tokens[:, place + 1 : place + 2])).unbind(1)
        vector = alone @ model.visual.proj
        assert found[:, place // 2, place % 2].numpy() == pytest.approx(vector.numpy(), abs=1e-6)
    mixed = Attention().features(model, images)
    both = model.visual.ln_post(last(tokens))[:, 1:] @ model.visual.proj
    assert mixed.flatten(1, 2).numpy() == pytest.approx(both.numpy(), abs=1e-6)
    with pytest.raises(DataError, match="no place among its texts"):
        Value().features(torch.nn.Linear(2, 2), images)


def test_a_way_of_your_own_takes_the_patches(tmp_path):
    """A member of the family, by its kind and with a field of its own; vectors get unit length."""

    class Pixels(PatchFeatures):
        scale: float = 1.0

        def features(self, model, images):
            return self.scale * images[:, :, ::16, ::16].permute(0, 2, 3, 1) + 5

    task = Localisation(dataset="p", patches={"kind": "pixels", "scale": 2})
    assert task.patches == Pixels(scale=2)
    assert evaluate.Config(task=task.model_dump()).task == task
    model = samples.write_artifact(tmp_path / "model", samples.model_files(), stage="train")
    (found,) = load_encoder(model).encode_patches([Image.new("RGB", (40, 60), (255, 0, 255))], task.patches)
    seen = 2 * np.array([2, -2, 2]) + 5  # the mean is 0.5, the deviation 0.25
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found, np.broadcast_to(seen / np.linalg.norm(seen), found.shape), rtol=1e-6)


def test_the_demos_boxes_are_of_what_their_phrases_name(tmp_path):
    few = dict.fromkeys(("seen_per_class", "unseen_per_class", "captioned", "compositions", "analogies"), 1)
    context = Context(tmp_path)
    manifest = testset.run(testset.Config(**few, boxes=3, image_size=64), {}, context)
    examples = EvalSet.open(Artifact(context.store, manifest), "boxes", "test")
    assert (examples.kind, len(list(examples))) == ("localisation", 3)
    for number, sample in enumerate(examples):
        shown, _ = pair("attribute", 9 * testset.TEST_SEEDS + number)
        assert sample.image.size == (64, 64)
        assert sample.captions == tuple(f"a {item.colour} {item.shape}" for item in shown.items)
        middles = [(left + wide / 2, top + high / 2) for left, top, wide, high in json.loads(sample.metadata)["boxes"]]
        np.testing.assert_allclose(middles, [np.multiply(item.place, 64) for item in shown.items], atol=4)
