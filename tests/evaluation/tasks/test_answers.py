"""Answers to questions, against the model asked one question at a time, and the baselines counted in loops."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import evaluation_samples as samples
import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from evaluation.embedded import open_embedded
from evaluation.tasks import VisualQuestionAnswering
from infra.encoder.config import EncoderConfig
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.fusion.encoder import FusionEncoder
from infra.fusion.heads import Heads
from infra.fusion.network import Layout
from infra.fusion.single_stream import SingleStream
from infra.fusion.towers import lengths_of, word_embedding

pytestmark = pytest.mark.long  # models

NAMES = ["red", "blue", "yes"]
ASKED = [["what colour?"], ["what colour?", "is it round?"], ["is it round?"], ["what colour?"], ["what colour?"]]
RIGHT = [["red"], ["blue", "yes"], ["no"], ["red"], ["blue"]]


@pytest.fixture
def data(model_files, tmp_path):
    """A random ViLT that answers, and five images with questions."""
    torch.manual_seed(1)
    fusion = SingleStream(open_clip.CLIP(**samples.MODEL), Heads(answers=3))
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
    assert "unread_acc" not in found.metrics  # most images have one question, whose answer would be it
    assert found.metrics["blind_acc"].value == pytest.approx((best + 1) / 6)
    assert found.groups["categories"]["two"]["acc"].images == 1
    assert found.facts["answers_the_model_has_not"] == 1
    assert {metric.images for metric in found.metrics.values()} == {5}


def test_an_answer_for_each_question(data):
    data.metadata[1] = json.dumps({"answers": ["blue"]})
    with pytest.raises(DataError, match="not an answer for each question"):
        VisualQuestionAnswering(dataset="asked").evaluate(data)


def test_without_the_words_all_questions_of_an_image_get_one_answer(data):
    """Of three images, each with two questions, the most that one answer an image can be right."""
    answers = [["red", "blue"], ["yes", "yes"], ["red", "red"]]
    rows = [0, 2, 4]
    asked = replace(
        data,
        keys=[data.keys[row] for row in rows],
        image_of=np.repeat(np.arange(3), 2),
        text_of=np.array([0, 1] * 3),
        metadata=[json.dumps({"answers": own}) for own in answers],
        examples=[sample for number, sample in enumerate(data.examples) if number in rows],
    )
    found = VisualQuestionAnswering(dataset="asked").evaluate(asked)
    assert found.metrics["unread_acc"].value == pytest.approx(5 / 6)


def test_pictures_side_by_side_are_read_one_by_one(data):
    """Each is prepared alone, and the states are concatenated in their order."""
    encoder = data.matcher().encoder
    torch.manual_seed(2)
    fusion = SingleStream(encoder.model, Heads(answers=3, images=2)).eval()
    left, right = (sample.image.resize((20, 24)) for sample in list(data.examples)[:2])
    both = Image.new("RGB", (40, 24))
    both.paste(left, (0, 0))
    both.paste(right, (20, 0))
    reader = FusionEncoder(encoder, fusion, NAMES)
    found = reader.answer([both, both, both], [["what colour?"], [], ["is it round?", "what colour?"]])

    tokens = encoder.tokenize(["what colour?"])
    lengths = lengths_of(tokens)
    with torch.no_grad():
        words, layout = fusion.read_texts(encoder.model, tokens, lengths), Layout(lengths, torch.device("cpu"))
        states = []
        for picture in (left, right):
            seen = fusion.read_images(encoder.model, encoder.pixels([encoder.prepare(picture)]))
            states.append(fusion.fuse(encoder.model, words, layout, seen, torch.tensor([0]))[-1])
        expected = fusion.answer_head(torch.cat(states)).numpy()
    assert found.shape == (3, 3)
    assert found[0] == pytest.approx(expected, abs=1e-5)
    assert found[2] == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(found[1], expected, atol=1e-3)


def test_candidates_are_ranked_by_the_words_that_masks_stand_for(data):
    """One question and one candidate at a time, its tokens masked; a context too short cuts the question."""
    encoder = data.matcher().encoder
    model = encoder.model
    torch.manual_seed(3)
    fusion = SingleStream(model, Heads(vocabulary=model.vocab_size)).eval()
    torch.nn.init.normal_(fusion.word_bias)
    candidates, pictures = ["red", "light blue", "blue"], list(data.pictures())[:2]
    questions = [["what colour?"], ["what colour is it, and why do you think so, and since when?", "is it?"]]
    found = FusionEncoder(encoder, fusion).rank_answers(pictures, questions, candidates)
    expected = []
    for picture, own in zip(pictures, questions, strict=True):
        seen = fusion.read_images(model, encoder.pixels([encoder.prepare(picture)]))
        for question in own:
            asked, context = encoder.tokenize([question])[0].tolist(), encoder.tokenize(["a"]).shape[1]
            scores = []
            for candidate in candidates:
                words = [token for token in encoder.tokenize([candidate])[0].tolist() if token][1:-1]
                begins = min(asked.index(max(asked)), context - len(words) - 1)
                row = [*asked[:begins], *[model.vocab_size] * len(words), max(asked)]
                lengths = torch.tensor([len(row)])
                with torch.no_grad():
                    read = fusion.read_texts(model, torch.tensor([row]), lengths, masked=True)
                    fused = fusion.fuse(model, read, Layout(lengths, torch.device("cpu")), seen, torch.tensor([0]))
                    guessed = fusion.words(fused[begins:-1], word_embedding(model)).log_softmax(-1)
                scores.append(sum(float(guessed[place, word]) for place, word in enumerate(words)))
            expected.append(scores)
    assert found == pytest.approx(np.array(expected), abs=1e-3)
    assert len({len([t for t in encoder.tokenize([one])[0].tolist() if t]) for one in candidates}) == 2


def test_the_task_ranks_candidates(data):
    model = data.matcher().encoder.model
    reader = FusionEncoder(data.matcher().encoder, SingleStream(model, Heads(vocabulary=model.vocab_size)))
    told = replace(data, matcher=lambda: reader)
    found = VisualQuestionAnswering(dataset="asked", candidates=("red", "blue")).evaluate(told)
    scores = reader.rank_answers(data.pictures(), data.captions_of_images(), ("red", "blue"))
    assert found.tables["answers"]["given"] == [("red", "blue")[number] for number in scores.argmax(axis=1)]
    assert found.facts["answers_the_model_has_not"] == 2
    with pytest.raises(DataError, match="without masked words"):
        VisualQuestionAnswering(dataset="asked", candidates=("red", "blue")).evaluate(data)
