"""Captioning's scores against plain loops over all words, and the whole task on a model that writes."""

from __future__ import annotations

import random
from math import exp, log

import evaluation_samples as samples
import numpy as np
import pytest
from embedded_by import embedded
from sacrebleu.metrics.bleu import BLEU

from evaluation.cider import Consensus
from evaluation.intervals import interval, resampled
from evaluation.tasks import Captioning
from evaluation.tasks.work.captioning import bleu, words
from infra.captioning.config import Beam
from infra.errors import ConfigError
from infra.formats.testset import EvalSet

IMAGES = 30


def drawn(seed=0):
    """References of some images, and captions that are like them in part."""
    draw = random.Random(seed)
    known = [f"w{number}" for number in range(20)]
    references = [
        [[draw.choice(known) for _ in range(draw.randint(2, 11))] for _ in range(draw.randint(1, 4))]
        for _ in range(IMAGES)
    ]
    written = [
        draw.choice(own)[: draw.randint(2, 9)] + [draw.choice(known) for _ in range(draw.randint(0, 2))]
        for own in references
    ]
    return written, references


def cider(written, references):
    """CIDEr-D as the paper writes it, with dense vectors over all n-grams of a length."""
    scores = np.zeros(len(written))

    def grams(text, n):
        return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]

    for n in (1, 2, 3, 4):
        every = sorted({gram for own in [*references, written] for text in own for gram in grams(text, n)})
        within = [{gram for text in own for gram in grams(text, n)} for own in references]
        rarity = np.array([log(len(references) / max(1, sum(gram in own for own in within))) for gram in every])

        def vector(text, n=n, every=every, rarity=rarity):
            return np.array([grams(text, n).count(gram) for gram in every]) * rarity

        for image, (text, own) in enumerate(zip(written, references, strict=True)):
            mine = vector(text)
            for reference in own:
                theirs = vector(reference)
                sizes = np.linalg.norm(mine) * np.linalg.norm(theirs)
                if sizes > 0:
                    alike = np.minimum(mine, theirs) @ theirs / sizes
                    short = exp(-((len(text) - len(reference)) ** 2) / (2 * 6**2))
                    scores[image] += 10 * alike * short / len(own) / 4
    return scores


def test_cider_is_the_papers():
    written, references = drawn()
    written[3] = []
    found = Consensus(references).scores(written, range(IMAGES))
    assert found == pytest.approx(cider(written, references), rel=1e-12)
    assert found[3] == 0
    assert Consensus(references).scores([own[0] for own in references], range(IMAGES)).mean() > 3


def test_bleu_of_a_set_and_of_a_resample_is_sacrebleus():
    written, references = drawn(1)
    metric = bleu(written, references)

    def peer(images):
        most = max(len(own) for own in references)
        texts = [" ".join(written[image]) for image in images]
        streams = [
            [" ".join(references[image][n]) if n < len(references[image]) else None for image in images]
            for n in range(most)
        ]
        return BLEU(tokenize="none", force=True, smooth_method="none").corpus_score(texts, streams).score / 100

    assert metric.value == pytest.approx(peer(range(IMAGES)), rel=1e-9)
    rng = np.random.default_rng(0)
    images = rng.integers(0, IMAGES, IMAGES)
    counts = np.bincount(images, minlength=IMAGES)[None].astype(float)
    assert metric.resampled(counts)[0] == pytest.approx(peer(images), rel=1e-9)
    assert bleu([["no"]], [[["yes", "it", "is"]]]).value == 0


def test_words():
    assert words("A red-ish Circle, isn't it?") == ["a", "red", "ish", "circle", "isn't", "it"]


class Says:
    """Writes the first reference of every image but the last, whose first word alone."""

    def write(self, images, decoding):
        assert decoding.kind == "beam"
        texts = [f"{number} red circle at the top" for number, _ in enumerate(images)]
        return [*texts[:-1], "5"]


@pytest.fixture
def data(tmp_path):
    members = []
    for number in range(6):
        text = f"{number} red circle at the top\na {number} disc in red"
        members += [(f"{number}.png", samples.picture(number)), (f"{number}.txt", text.encode())]
    files = {
        "data/c/dataset_type.txt": b"retrieval\n",
        "data/c/test/nshards.txt": b"1\n",
        "data/c/test/0.tar": samples.tar(members),
    }
    examples = EvalSet.open(samples.write_artifact(tmp_path / "tests", files), "c", "test")
    return embedded(examples, lambda number, sample: [1, number], lambda text: [1, 0], captioner=Says)


def test_captions_are_scored_with_a_baseline_and_intervals(data):
    found = Captioning(dataset="c", decoding=Beam(beams=2)).evaluate(data)
    table = found.tables["captions"]
    assert table["caption"][-1] == "5"
    references = [[words(text) for text in own] for own in table["references"]]
    written = [words(text) for text in table["caption"]]
    assert found.metrics["CIDEr"].value == pytest.approx(cider(written, references).mean())
    turned = cider(written, references[3:] + references[:3]).mean()
    assert found.metrics["CIDEr_other_image"].value == pytest.approx(turned)
    assert turned < 0.1 * found.metrics["CIDEr"].value
    assert found.metrics["words"].value == pytest.approx((5 * 6 + 1) / 6)
    metrics = list(found.metrics.values())
    for metric, column in zip(metrics, resampled(metrics).T, strict=True):
        bounds = interval(metric, column)
        assert bounds.low <= bounds.value <= bounds.high
    assert found.facts["different_captions"] == 6


def test_the_model_is_needed(data):
    with pytest.raises(ConfigError, match="write captions"):
        Captioning(dataset="c").evaluate(type(data)(**{**vars(data), "captioner": type(data).captioner}))
