"""Answers to questions, against the model asked one question at a time, and the baselines counted in loops."""

from __future__ import annotations

import json
from collections import Counter

import evaluation_samples as samples
import open_clip
import pytest
import safetensors.torch
import torch

from evaluation.embedded import open_embedded
from evaluation.tasks import VisualQuestionAnswering
from infra.encoder_config import EncoderConfig
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.fusion.single_stream import SingleStream

pytestmark = pytest.mark.long  # models

NAMES = ["red", "blue", "yes"]
ASKED = [["what colour?"], ["what colour?", "is it round?"], ["is it round?"], ["what colour?"], ["what colour?"]]
RIGHT = [["red"], ["blue", "yes"], ["no"], ["red"], ["blue"]]


@pytest.fixture
def data(model_files, tmp_path):
    """A random ViLT that answers, and five images with questions."""
    torch.manual_seed(1)
    fusion = SingleStream(open_clip.CLIP(**samples.MODEL), vocabulary=None, matching=False, answers=3)
    torch.nn.init.normal_(fusion.answer_head[-1].weight, std=3.0)
    config = {"kind": "single_stream", "vocabulary": None, "matching": False, "answers": NAMES}
    weights = {name: tensor.contiguous() for name, tensor in fusion.state_dict().items()}
    files = {
        **model_files,
        "data/fusion/config.json": json.dumps(config).encode(),
        "data/fusion/model.safetensors": safetensors.torch.save(weights),
    }
    model = samples.write_artifact(tmp_path / "model", files, stage="train")
    members = []
    for number, (questions, answers) in enumerate(zip(ASKED, RIGHT, strict=True)):
        fields = {"answers": answers, "category": "one" if len(answers) == 1 else "two"}
        members += [
            (f"{number}.png", samples.picture(number)),
            (f"{number}.txt", "\n".join(questions).encode()),
            (f"{number}.json", json.dumps(fields).encode()),
        ]
    tests = {
        "data/asked/dataset_type.txt": b"visual_question_answering\n",
        "data/asked/test/nshards.txt": b"1\n",
        "data/asked/test/0.tar": samples.tar(members),
    }
    dataset = samples.write_artifact(tmp_path / "tests", tests, name="b" * 64)
    vectors = samples.embed_here(tmp_path / "vectors", model, dataset, "asked")
    examples = EvalSet.open(dataset, "asked", "test")
    matcher = EncoderConfig().matcher(model, batch_size=2, cpus=1, gpus=0)
    return open_embedded(vectors, examples, lambda: None, lambda: matcher)


def test_answers_and_baselines(data):
    found = VisualQuestionAnswering(dataset="asked").evaluate(data)
    model, pictures = data.matcher(), list(data.pictures())

    def says(image, question):
        return NAMES[int(model.answer([pictures[image]], [[question]]).argmax())]

    pairs = [(image, *pair) for image in range(5) for pair in zip(ASKED[image], RIGHT[image], strict=True)]
    table = found.tables["answers"]
    assert table["given"] == [says(image, question) for image, question, _ in pairs]
    acc = sum(says(image, question) == answer for image, question, answer in pairs) / 6
    other = sum(says((image - 2) % 5, question) == answer for image, question, answer in pairs) / 6
    assert found.metrics["acc"].value == pytest.approx(acc)
    assert found.metrics["acc_other_image"].value == pytest.approx(other)
    counts = Counter((question, answer) for _, question, answer in pairs)
    best = max(counts["what colour?", "red"], counts["what colour?", "blue"])
    assert found.metrics["blind_acc"].value == pytest.approx((best + 1) / 6)
    assert found.groups["categories"]["two"]["acc"].images == 1
    assert found.facts["answers_the_model_has_not"] == 1
    assert {metric.images for metric in found.metrics.values()} == {5}


def test_an_answer_for_each_question(data):
    data.metadata[1] = json.dumps({"answers": ["blue"]})
    with pytest.raises(DataError, match="not an answer for each question"):
        VisualQuestionAnswering(dataset="asked").evaluate(data)
