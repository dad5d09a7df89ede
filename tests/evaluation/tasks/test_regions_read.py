"""Test sets with a detector's regions: a model that reads these against its own answers to one pair at a time."""

from __future__ import annotations

import io
import json

import evaluation_samples as samples
import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from evaluation.checks import check_folder
from evaluation.embedded import open_embedded
from evaluation.tasks import Matching, MultipleChoice, Retrieval, VisualQuestionAnswering
from infra.encoder.config import EncoderConfig
from infra.errors import DataError
from infra.formats.shards import read_samples
from infra.formats.testset import EvalSet
from infra.fusion.co_attention import CoAttention, RegionShape
from infra.fusion.heads import Heads
from infra.fusion.network import Layout
from infra.fusion.single_stream import SingleStream
from infra.fusion.towers import lengths_of, word_embedding
from infra.run.context import Context
from infra.run.manifest import Artifact
from workflows.demo import regions, testset

pytestmark = pytest.mark.long  # models

NAMES = ["red", "blue", "yes", "circle"]
MOST = 3
REGIONS = RegionShape(MOST, regions.FEATURES, 5)
LISTED = {"kind": "co_attention", "layers": 2, "regions": list(REGIONS), "matching": True, "answers": NAMES}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The demo's sets, whose images of several shapes have regions; those of the set ``regions`` nothing else."""
    context = Context(tmp_path_factory.mktemp("sets"))
    small = {"seen_per_class": 1, "unseen_per_class": 1, "captioned": 2, "compositions": 1, "analogies": 1}
    manifest = testset.run(testset.Config(**small, image_size=32, questions=2, regions=1), {}, context)
    return Artifact(context.store, manifest)


def saved(folder, model_files, fusion, config):
    weights = {name: tensor.contiguous() for name, tensor in fusion.state_dict().items()}
    files = {
        **model_files,
        "data/fusion/config.json": json.dumps(config).encode(),
        "data/fusion/model.safetensors": safetensors.torch.save(weights),
    }
    return samples.write_artifact(folder, files, stage="train")


@pytest.fixture(scope="module")
def model(model_files, tmp_path_factory):
    """A random ViLBERT with every head, that was trained with the detector's classes."""
    torch.manual_seed(1)
    heads = Heads(vocabulary=49408, matching=True, answers=len(NAMES))
    fusion = CoAttention(open_clip.CLIP(**samples.MODEL), 2, REGIONS, heads)
    torch.nn.init.normal_(fusion.match_head.weight, std=3.0)
    torch.nn.init.normal_(fusion.answer_head[-1].weight, std=3.0)
    return saved(tmp_path_factory.mktemp("model"), model_files, fusion, {**LISTED, "vocabulary": 49408})


def opened(folder, model, sets, name):
    vectors = samples.embed_here(folder / f"vectors-{name}", model, sets, name)
    loaded = EncoderConfig().matcher(model, batch_size=3, cpus=1, gpus=0)
    return open_embedded(vectors, EvalSet.open(sets, name, "test"), lambda: None, lambda: loaded)


def detected(sets, name):
    """Each sample of a set as numpy reads it: feature and box of its surest regions."""
    with sets.store.open(f"data/{name}/test/0.tar") as source:
        read = [
            [np.load(io.BytesIO(sample[part]))[:MOST] for part in ("regions.npy", "boxes.npy")]
            for sample in read_samples(source)
        ]
    return [torch.from_numpy(np.hstack(both).astype(np.float32)) for both in read]


def fused(loaded, table, text):
    """The fused tokens of one text beside the regions of one image, without padding."""
    tokens = loaded.encoder.tokenize([text])
    lengths = lengths_of(tokens)
    with torch.no_grad():
        words = loaded.fusion.read_texts(loaded.encoder.model, tokens, lengths)
        seen = loaded.fusion.read_images(loaded.encoder.model, table[None])
        layout = Layout(lengths, torch.device("cpu"))
        return loaded.fusion.fuse(loaded.encoder.model, words, layout, seen, torch.tensor([0]))


def matches(loaded, table, text):
    return float(loaded.fusion.match_head(fused(loaded, table, text)[-1]).detach())


def test_questions_are_answered_by_regions(model, sets, tmp_path):
    data = opened(tmp_path, model, sets, "vqa")
    found = VisualQuestionAnswering(dataset="vqa").evaluate(data).tables["answers"]
    loaded, tables = data.matcher(), detected(sets, "vqa")
    assert data.pictured and len(tables) == len(data.keys)
    for table, question, given in zip(tables, found["question"], found["given"], strict=True):
        logits = loaded.fusion.answer_head(fused(loaded, table, question)[-1])
        assert given == NAMES[int(logits.argmax())]
    assert len(set(found["given"])) > 1
    ranked = VisualQuestionAnswering(dataset="vqa", candidates=("red", "yes")).evaluate(data).tables["answers"]["given"]
    assert set(ranked) <= {"red", "yes"}


def test_two_pictures_have_the_regions_in_their_halves(model, model_files, sets, tmp_path):
    torch.manual_seed(2)
    heads = Heads(answers=2, images=2)
    fusion = CoAttention(open_clip.CLIP(**samples.MODEL), 1, REGIONS._replace(classes=0), heads)
    described = {
        **LISTED,
        "layers": 1,
        "vocabulary": None,
        "matching": False,
        "answers": ["true", "false"],
        "images": 2,
    }
    data = opened(
        tmp_path, saved(tmp_path / "both", model_files, fusion, {**described, "regions": [MOST, 32, 0]}), sets, "pairs"
    )
    loaded = data.matcher()
    assert loaded.regions == (MOST, 32, 0, 2)
    logits = loaded.answer(data.seen_by(loaded), data.captions_of_images())
    asked = iter(logits)
    with sets.store.open("data/pairs/test/0.tar") as source:
        for sample in read_samples(source):
            features, boxes = (np.load(io.BytesIO(sample[part])) for part in ("regions.npy", "boxes.npy"))
            halves = []
            for side in range(2):
                own = [row for row in range(len(boxes)) if (boxes[row, 0] + boxes[row, 2] >= 1) == bool(side)][:MOST]
                moved = boxes[own].astype(np.float32) * (2, 1, 2, 1) - (side, 0, side, 0)
                halves.append(torch.from_numpy(np.hstack([features[own], moved]).astype(np.float32)))
            assert all(len(half) for half in halves)
            for question in sample["txt"].decode().split("\n"):
                states = [fused(loaded, half, question)[-1] for half in halves]
                expected = loaded.fusion.answer_head(torch.cat(states)).detach().numpy()
                assert next(asked) == pytest.approx(expected, abs=2e-3)


def test_images_without_pixels_are_matched(model, sets, tmp_path):
    """Retrieval by matching alone, as ViLBERT's paper has it, against every pair alone; and words and matching."""
    data = opened(tmp_path, model, sets, "regions")
    loaded, tables, captions = data.matcher(), detected(sets, "regions"), data.captions
    logits = np.array([[matches(loaded, table, text) for text in captions] for table in tables])
    every = max(logits.shape)
    found = Retrieval(dataset="regions", rerank=every, recall_at=(1,)).evaluate(data)
    own = logits[data.image_of, data.text_of]
    better = found.tables["text_queries"]["better"]
    assert better.tolist() == (logits[:, data.text_of] > own).sum(axis=0).tolist()
    assert not found.figures and not [name for name in found.metrics if name.startswith("encoders")]

    half, texts = len(tables) // 2, data.text_of.tolist()
    assert texts == list(range(len(texts)))  # an image has one caption, unlike all others
    right = [
        (float(row[number] > 0) + float(row[(number - half) % len(texts)] <= 0)) / 2
        for number, row in enumerate(logits)
    ]
    scores = Matching(dataset="regions").evaluate(data)
    assert scores.metrics["itm_acc"].value == pytest.approx(np.mean(right))
    assert 0 < scores.metrics["itm_acc"].value < 1
    assert scores.metrics["mlm_acc1"].images == len(tables)

    with pytest.raises(DataError, match="no pixels") as error:
        Retrieval(dataset="regions", rerank=every - 1).evaluate(data)
    assert f"rerank={every} or more" in error.value.expected
    with pytest.raises(DataError, match="no vector of sample '000000'"):
        Retrieval(dataset="regions").evaluate(data)
    with pytest.raises(DataError, match="'000000' has regions and no pixels"):
        next(data.pictures())


def test_choices_are_ranked_by_matching(model, sets, tmp_path):
    data = opened(tmp_path, model, sets, "reasons")
    found = MultipleChoice(dataset="reasons", score="matching").evaluate(data).tables["choices"]
    loaded = data.matcher()
    for number, (table, choices) in enumerate(zip(detected(sets, "reasons"), data.captions_of_images(), strict=True)):
        scores = [matches(loaded, table, choice) for choice in choices]
        assert found["answer_right"][number] == (int(np.argmax(scores[:4])) == 0)
        assert found["rationale_right"][number] == (int(np.argmax(scores[4:])) == 0)


def test_a_model_of_pixels_reads_pixels(model_files, sets, tmp_path):
    torch.manual_seed(3)
    fusion = SingleStream(open_clip.CLIP(**samples.MODEL), Heads(answers=len(NAMES)))
    described = {"kind": "single_stream", "vocabulary": None, "matching": False, "answers": NAMES}
    data = opened(tmp_path, saved(tmp_path / "vilt", model_files, fusion, described), sets, "vqa")
    loaded = data.matcher()
    given = loaded.answer(data.seen_by(loaded), data.captions_of_images())
    assert given == pytest.approx(loaded.answer(data.pictures(), data.captions_of_images()), abs=1e-6)


def test_what_lacks_regions_is_told(model, sets, tmp_path):
    """A sample without them by its name, regions of another width, and all kinds of it before anything runs."""
    data = opened(tmp_path, model, sets, "captions")
    with pytest.raises(DataError, match="regions of sample '000000' cannot be read") as error:
        Matching(dataset="captions").evaluate(data)
    assert error.value.found == "no regions.npy"

    with sets.store.open("data/regions/test/0.tar") as source:
        given = [{name: data for name, data in sample.items() if name != "__key__"} for sample in read_samples(source)]
    given[1]["boxes.npy"] = b"none"
    given[2] |= {"png": samples.picture(1)}
    members = [(f"{number}.{name}", data) for number, sample in enumerate(given) for name, data in sample.items()]
    files = {
        "data/some/dataset_type.txt": b"retrieval",
        "data/some/test/nshards.txt": b"1",
        "data/some/test/0.tar": samples.tar(members),
    }
    some = samples.write_artifact(tmp_path / "some", files)
    (report,) = check_folder(str(tmp_path / "some/data"))
    assert report.holds.broken == {"boxes.npy is no .npy file": 1}
    assert (report.holds.with_pixels, report.holds.with_regions) == (1, len(given) - 1)
    assert [key for key, _ in EvalSet.open(some, "some", "test").encoded(0)] == ["2"]

    loaded = EncoderConfig().matcher(model, batch_size=3, cpus=1, gpus=0)
    narrow = next(iter(EvalSet.open(sets, "regions", "test").regions()))
    with pytest.raises(DataError, match="trained on other regions") as error:
        loaded.match([narrow._replace(features=narrow.features[:, :7])], [["a red circle"]])
    assert error.value.found == f"regions.npy has 7 columns, not {regions.FEATURES}"


def test_clipline_tasks_knows_what_regions_are_for(sets):
    against = {f"{one.name}/{one.split}": one.against for one in check_folder(sets.store.url + "/data", decode=False)}
    assert "needs pixels, unless it has rerank, and" in against["regions/test"]["zeroshot_retrieval"]
    assert against["regions/test"]["matching"] == ""
    assert against["vqa/test"]["visual_question_answering"] == ""
    assert against["choices/test"]["image_caption_selection"] == ""


def test_masked_words_are_guessed_beside_regions(model, sets, tmp_path):
    """One text and one image at a time gives what a batch gives."""
    data = opened(tmp_path, model, sets, "regions")
    loaded, given = data.matcher(), data.captions_of_images()
    right, masked = loaded.guess_words(data.seen_by(loaded), given, 0.5)
    alone = [loaded.guess_words([one], [own], 0.5) for one, own in zip(data.seen_by(loaded), given, strict=True)]
    assert right.tolist() == [int(one[0]) for one, _ in alone]
    assert masked.tolist() == [int(one[0]) for _, one in alone]
    assert word_embedding(loaded.encoder.model).shape[0] == len(loaded.fusion.word_bias)
