"""Shards of regions are adopted in place: what of them is broken is counted, and training passes over it."""

import io

import numpy as np
import pytest

from infra.errors import DataError
from infra.formats.shards import TarWriter, read_samples
from infra.run.context import Context
from infra.run.manifest import MANIFEST, Artifact
from infra.store import LocalStore
from pipelines import adopt
from training.config import Config as Training
from training.data.loader import Loader
from training.data.samples import Samples, Shards
from training.data.tokens import Tokenizer
from training.distributed.world import World
from workflows.demo import regions, testset
from workflows.demo.scenes import COMBINATIONS

SHAPE = {"most_regions": 6, "features": regions.FEATURES, "classes": len(COMBINATIONS), "negatives_among": 2}


def tokenize(texts):
    return np.stack([np.frombuffer(text.encode().ljust(99, b"\0")[:99], np.uint8).astype(np.int64) for text in texts])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The demo's test sets, with the set of regions."""
    context = Context(tmp_path_factory.mktemp("made"), stage="testset")
    small = {"seen_per_class": 1, "unseen_per_class": 1, "captioned": 2, "analogies": 1, "compositions": 1}
    manifest = testset.run(testset.Config(**small, image_size=32, regions=3), {}, context)
    context.store.write(MANIFEST, manifest.to_bytes())
    (tar,) = Artifact.load(context.store).files("data/regions/train/", ".tar")
    assert manifest.facts["images"]["regions/train"] == tar.rows
    with context.store.open(tar.path) as source:
        return list(read_samples(source))


def write(folder, samples):
    folder.mkdir(parents=True)
    with (folder / "00000.tar").open("wb") as sink, TarWriter(sink) as tar:
        for sample in samples:
            for extension, data in sample.items():
                if extension != "__key__":
                    tar.add(f"{sample['__key__']}.{extension}", data)
    return folder


def adopted(folder, **options):
    config = adopt.Config(path=str(folder), contents=adopt.RegionShards(**options))
    return adopt.run(config, {}, Context(folder.with_name(f"{folder.name}-adopted"), stage="adopt"))


def npy(array):
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def test_broken_samples_are_counted_and_passed_over(made, tmp_path):
    damaged = [dict(sample) for sample in made]
    damaged[0]["regions.npy"] = npy(np.zeros((3, 7), np.float16))  # the first must not say what is right
    damaged[0]["boxes.npy"] = npy(np.array([[0, 0, 1, 1]] * 3, np.float16))
    damaged[0]["classes.npy"] = npy(np.full((3, 2), 0.5, np.float16))
    damaged[4]["boxes.npy"] = b"none"
    del damaged[5]["boxes.npy"]
    folder = write(tmp_path / "damaged", damaged)
    funnel = adopted(folder).funnel
    assert (funnel.entered, funnel.kept) == (len(made), len(made) - 3)
    assert funnel.dropped == {
        "regions.npy has 7 columns, not 32": 1, "boxes.npy is no .npy file": 1, "no boxes.npy": 1
    }  # fmt: skip
    assert adopted(folder, looked_at=4).funnel.entered == 4

    config = Training(batch_size=8, objective={"kind": "vilbert", **SHAPE})
    shards = Shards(LocalStore(folder), ["00000.tar"])
    source = Samples(
        shards,
        World(),
        tokenize=Tokenizer(tokenize),
        min_side=16,
        folder=tmp_path / "cache",
        regions=config.objective.regions({}),
    )
    assert (len(source), source.incomplete) == (len(made) - 1, 1)
    loader = Loader(source, config, World(), (16, 16))
    seen = set()
    for batch in loader.batches(0, 48):
        for table, number, text in zip(batch.images.numpy(), batch.numbers.tolist(), batch.texts.numpy(), strict=True):
            sample = damaged[number + (number >= 5)]
            seen.add(number)
            own = [np.load(io.BytesIO(sample[name]))[:6] for name in ("regions.npy", "boxes.npy", "classes.npy")]
            assert table[: len(own[0])] == pytest.approx(np.hstack(own), abs=2e-3)
            assert not table[len(own[0]) :].any()
            assert bytes(text.astype(np.uint8)).rstrip(b"\0") == sample["txt"]
    assert loader.corrupt == {0, 4}
    assert seen == set(range(len(source))) - loader.corrupt


def test_shards_without_regions_are_refused(made, tmp_path):
    plain = [{name: data for name, data in sample.items() if name != "regions.npy"} for sample in made]
    with pytest.raises(DataError, match="no sample") as error:
        adopted(write(tmp_path / "plain", plain))
    assert "no regions.npy" in error.value.found


def test_a_detector_sees_what_is_drawn(made):
    """Of each thing there is a region, in its place; its class is right most of the time, never all of the time."""
    from workflows.demo.compositions import CATEGORIES, pair
    from workflows.demo.drawing import boxes

    right, images = [], [one for number in range(30) for category in CATEGORIES for one in pair(category, number)]
    for image in images:
        found = regions.detect(image)
        assert len(found.boxes) == len(image.items) + 1
        for item, (left, top, width, height) in zip(image.items, boxes(image, 1), strict=True):
            place = np.clip((left, top, left + width, top + height), 0, 1)
            (row,) = (abs(found.boxes - place).max(1) < 1e-6).nonzero()[0]
            right.append(COMBINATIONS[found.classes[row].argmax()] == (item.shape, item.colour))
    assert 0.8 < np.mean(right) < 1


def test_two_images_side_by_side_have_the_regions_of_both():
    from infra.formats.region_shape import RegionShape
    from infra.formats.regions import pack, read_regions
    from workflows.demo.pairs import compare

    one, _ = compare("same", 5)
    alone = RegionShape(6, regions.FEATURES, len(COMBINATIONS))
    table = pack(read_regions(regions.members(one)), alone._replace(pictures=2))
    for image, half in zip((one.left, one.right), (table[:6], table[6:]), strict=True):
        assert half == pytest.approx(pack(regions.detect(image), alone), abs=5e-3)
