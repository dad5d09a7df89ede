"""Scores in the middle of training: those the evaluation stages would find, for any number of ranks."""

import gzip
import io
import json
import threading

import numpy as np
import pytest
import torch
from nesting import nested
from PIL import Image
from small_data import MODEL, draw, encode

from infra import metrics, ranking
from infra.encoder.open_clip import load_encoder
from infra.errors import ConfigError, Preempted
from infra.formats.shards import TarWriter
from infra.formats.testset import EvalSet, prompts
from infra.run.context import Context
from infra.store import LocalStore
from training import train, validate
from training.checkpoint.manifests import complete
from training.config import Validation as Validated
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train as run_loop

pytestmark = pytest.mark.long  # trains

CLASSES = ("red", "green", "blue", "yellow")


def write_set(folder, members, **lines):
    (folder / "test").mkdir(parents=True)
    sink = io.BytesIO()
    with TarWriter(sink) as tar:
        for number, (extension, value) in enumerate(members):
            tar.add(f"{number:04d}.png", encode(draw(number)[0]))
            tar.add(f"{number:04d}.{extension}", value.encode())
    (folder / "test/0.tar").write_bytes(sink.getvalue())
    (folder / "test/nshards.txt").write_text("1")
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text(text)


@pytest.fixture(scope="module")
def tests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tests")
    templates = "a {c} disc\na {c} bar"
    write_set(
        folder / "colours",
        [("cls", str(number % 4)) for number in range(13)],
        classnames="\n".join(CLASSES),
        zeroshot_classification_templates=templates,
    )
    captions = [("txt", f"{draw(number)[1]}\nanother {number % 3}") for number in range(7)]
    write_set(folder / "captions", captions, dataset_type="retrieval")
    return folder


def go(folder, shards, tests, heard=None, **changes):
    """The validations of a run, by samples seen; ``heard`` hears of everything."""
    found, files = {}, []

    def emit(event):
        if heard:
            heard(event)
        if event.kind == "metrics" and any(name.startswith("validation/") for name in event.values):
            found[event.step] = event.values
        if event.kind in ("file", "image"):
            files.append(event.path)

    store = LocalStore(shards)
    settings = {
        "model__architecture": MODEL,
        "batch_size": 8,
        "samples": 64,
        "optimizer__lr": 3e-3,
        "log_every": 16,
        "checkpoint__every": 64,
        "validation__sets": ("colours", "captions"),
        "validation__every": 32,
    }
    config = train.Config(**nested({**settings, **changes}))
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    context = Context(folder, emit=emit)
    inputs = Inputs({"shards": shards}, LocalStore(tests) if tests else None)
    run_loop(config, inputs, context, World.join(torch.device("cpu")))
    return found, files


def test_as_the_evaluation_of_the_written_model_for_any_number_of_ranks(ranks, shards, tests, tmp_path):
    (found, files), *_ = ranks(1, go, tmp_path / "one", shards, tests)
    assert sorted(found) == [0, 32, 64]
    names = ("colours-errors", "captions-retrieval")
    assert files == [f"validation/{samples:012d}/{name}.png" for samples in (0, 32, 64) for name in names]
    assert all((tmp_path / "one" / path).read_bytes().startswith(b"\x89PNG") for path in files)
    encoder = load_encoder(tmp_path / "one/data")
    colours = EvalSet.at(LocalStore(tests), "colours", "test")
    samples = list(colours)
    images = encoder.encode_images([sample.image for sample in samples])
    classifier = metrics.ensemble(encoder.encode_texts(prompts(CLASSES, colours.templates)), 4)
    classified = metrics.classify(images, classifier, [sample.label for sample in samples])
    captions = list(EvalSet.at(LocalStore(tests), "captions", "test"))
    wordings = list(dict.fromkeys(text for sample in captions for text in sample.captions))
    retrieved = ranking.retrieve(
        encoder.encode_images([sample.image for sample in captions]),
        encoder.encode_texts(wordings),
        [wordings.index(text) for sample in captions for text in sample.captions],
        [number for number, sample in enumerate(captions) for _ in sample.captions],
    )
    expected = {f"validation/colours/{name}": metric.value for name, metric in classified.metrics().items()}
    recalls = retrieved.metrics((1, 5)).items()
    expected |= {f"validation/captions/{name.replace('@', '_at_')}": metric.value for name, metric in recalls}
    assert found[64] == pytest.approx(expected)
    assert len(expected) == 2 + 6

    (again, shown), (others, unshown) = ranks(2, go, tmp_path / "two", shards, tests)
    assert again == {step: pytest.approx(values) for step, values in found.items()}
    assert others == {}
    assert (shown, unshown) == (files, [])


def test_validating_changes_no_byte_and_a_profile_is_written(ranks, shards, tests, tmp_path):
    ranks(1, go, tmp_path / "with", shards, tests)
    ((_, files),) = ranks(1, without_tests, tmp_path / "without", shards)
    one, other = ((tmp_path / name / "data").iterdir() for name in ("with", "without"))
    assert {path.name: path.read_bytes() for path in one} == {path.name: path.read_bytes() for path in other}
    assert files == ["profiles/000000000040.json.gz", "profiles/000000000040.txt"]
    trace = json.loads(gzip.decompress((tmp_path / "without/profiles/000000000040.json.gz").read_bytes()))
    assert any("addmm" in event.get("name", "") for event in trace["traceEvents"])
    assert "aten::addmm" in (tmp_path / "without/profiles/000000000040.txt").read_text()


def without_tests(folder, shards):
    return go(folder, shards, None, validation__sets=(), profile_at=8)


def test_training_goes_on_while_the_scores_are_worked_out(shards, tests, tmp_path, monkeypatch):
    later, started, score = threading.Event(), [], validate.Encoded.__call__

    def scored_later(encoded):
        assert not started or later.wait(60)  # but for the one before training
        started.append(True)
        return score(encoded)

    def heard(event):
        if event.kind == "metrics" and "loss" in event.values and event.step > 32:
            later.set()

    monkeypatch.setattr(validate.Encoded, "__call__", scored_later)
    found, _ = go(tmp_path, shards, tests, heard)
    assert sorted(found) == [0, 32, 64]


def best(folder, shards, tests):
    rules = {
        "checkpoint__every": None,
        "checkpoint__keep": 1,
        "checkpoint__keep_best": 2,
        "checkpoint__best_metric": "captions/mean_recall_at_1",
    }
    return go(folder, shards, tests, validation__every=16, **rules)


def test_the_best_are_those_that_were_scored(ranks, shards, tests, tmp_path):
    ((found, _),) = ranks(1, best, tmp_path, shards, tests)
    assert sorted(found) == [0, 16, 32, 48, 64]
    seals = [seals[0] for seals in complete(LocalStore(tmp_path))]
    for seal in seals:
        assert {f"validation/{name}": value for name, value in seal.metrics.items()} == found[seal.samples]
    ranking = sorted(set(found) - {0}, key=lambda at: (-found[at]["validation/captions/mean_recall_at_1"], at))
    assert {seal.samples for seal in seals} == {*ranking[:2], 64}


def test_a_profile_is_taken_of_a_run_under_way_when_a_file_asks_for_it(shards, tmp_path):
    (tmp_path / "profile").touch()
    _, files = go(tmp_path, shards, None, validation__sets=())
    assert files == ["profiles/000000000056.json.gz", "profiles/000000000056.txt"]
    assert not (tmp_path / "profile").exists()


def test_a_set_that_is_not_there_is_said_so(ranks, shards, tests, tmp_path):
    assert "no test set 'birds'" in ranks(1, refused, tmp_path, shards, tests, ("birds",))[0]
    assert "no test sets to validate on" in ranks(1, refused, tmp_path, shards, None, ("birds",))[0]


def refused(folder, shards, tests, names):
    try:
        go(folder, shards, tests, validation__sets=names)
    except ConfigError as error:
        return str(error)
    except Preempted:
        return ""
    return ""


def test_images_are_prepared_as_open_clip_does(tests):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from training.model.build import build
    from training.validate import Validation

    towers = build(MODEL, 0, World())
    validation = Validation(LocalStore(tests), Validated(sets=("colours",), images=5), towers, World(), 4)
    (one,) = validation._sets
    assert len(one.images) == 5
    transform = image_transform_v2(PreprocessCfg(**towers.description["preprocess_cfg"]), is_train=False)
    image = Image.fromarray(np.ascontiguousarray(draw(3)[0]))
    torch.testing.assert_close(towers.normalise(one.images[3:4])[0], transform(image), atol=1e-5, rtol=1e-5)
