"""Re-ranking and matching by a fusion model, against its own answers to one pair at a time, compared in loops."""

from __future__ import annotations

import json

import evaluation_samples as samples
import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from evaluation import evaluate
from evaluation.embedded import open_embedded
from evaluation.evaluate import work
from evaluation.reranking import reranked
from evaluation.tasks import Matching, Retrieval
from infra import ranking
from infra.encoder.config import EncoderConfig
from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet
from infra.fusion.heads import Heads
from infra.fusion.network import Fusion, Layout
from infra.fusion.towers import encode_images, encode_texts, lengths_of, token_widths
from infra.run.context import Context, ShardOutput

pytestmark = pytest.mark.long  # models


@pytest.fixture(scope="module")
def fused_files(model_files):
    """The tiny model with a random fusion encoder whose heads are large enough to differ."""
    torch.manual_seed(1)
    fusion = Fusion(token_widths(open_clip.CLIP(**samples.MODEL)), 2, Heads(vocabulary=49408, matching=True))
    torch.nn.init.normal_(fusion.match_head.weight, std=3.0)
    weights = {name: tensor.contiguous() for name, tensor in fusion.state_dict().items()}
    config = {"layers": 2, "vocabulary": 49408, "matching": True}
    return {
        **model_files,
        "data/fusion/config.json": json.dumps(config).encode(),
        "data/fusion/model.safetensors": safetensors.torch.save(weights),
    }


@pytest.fixture
def fused(fused_files, tmp_path):
    return samples.write_artifact(tmp_path / "fused", fused_files, stage="train")


@pytest.fixture
def data(fused, holdout, tmp_path):
    vectors = samples.embed_here(tmp_path / "vectors", fused, holdout, "holdout")
    examples = EvalSet.open(holdout, "holdout", "test")
    return open_embedded(vectors, examples, lambda: None, lambda: matcher(fused))


def matcher(model):
    return EncoderConfig().matcher(model, batch_size=7, cpus=1, gpus=0)


def one_by_one(fused, data) -> np.ndarray:
    """The logit of every image and distinct caption, each pair alone."""
    loaded = matcher(fused)
    clip, fusion, tokenizer = loaded.encoder.model, loaded.fusion, open_clip.get_tokenizer("ViT-B-32")
    pixels = [loaded.encoder.pixels([loaded.encoder.prepare(image)]) for image in data.pictures()]
    logits = np.empty((len(pixels), len(data.captions)), np.float32)
    with torch.no_grad():
        for column, caption in enumerate(data.captions):
            tokens = tokenizer([caption], context_length=16)
            lengths = lengths_of(tokens)
            _, words = encode_texts(clip, tokens, lengths)
            for row, image in enumerate(pixels):
                _, patches = encode_images(clip, image)
                layout = Layout(lengths, words.device)
                seen = fusion(words, layout, patches, torch.zeros(1, dtype=torch.long))
                logits[row, column] = fusion.match(seen, layout.ends)
    return logits


def ranked_in_loops(data, logits, k) -> list[tuple[int, int, int]]:
    """For each query, best first: candidates by logit, the others by cosine; better, level and right of its best."""
    cosines = data.images @ data.texts.T
    captions = list(zip(data.image_of.tolist(), data.text_of.tolist(), strict=True))
    found = []
    for image in range(len(data.images)):
        chosen = set(np.argsort(-cosines[image], kind="stable")[:k].tolist())
        score = [
            (text in chosen, logits[image, text] if text in chosen else cosines[image, text]) for _, text in captions
        ]
        mine = [one for one, (owner, _) in zip(score, captions, strict=True) if owner == image]
        wrong = [one for one, (owner, _) in zip(score, captions, strict=True) if owner != image]
        best = max(mine)
        found.append((sum(one > best for one in wrong), wrong.count(best), mine.count(best)))
    for owner, text in captions:
        chosen = set(np.argsort(-cosines[:, text], kind="stable")[:k].tolist())
        score = [(image in chosen, logits[image, text] if image in chosen else cosines[image, text])
                 for image in range(len(data.images))]  # fmt: skip
        found.append((sum(one > score[owner] for one in score), score.count(score[owner]) - 1, 1))
    return found


def all_ranks(found: ranking.Retrieved) -> list[tuple[int, int, int]]:
    by_image = zip(found.image_better.tolist(), found.image_equal.tolist(), found.image_right.tolist(), strict=True)
    by_text = zip(found.text_better.tolist(), found.text_equal.tolist(), strict=True)
    return [*by_image, *((better, equal, 1) for better, equal in by_text)]


@pytest.mark.parametrize("k", [1, 4, 1000])
def test_ranks_are_those_of_loops(fused, data, k):
    """With every answer a candidate, the ranks are those of matching alone."""
    logits = one_by_one(fused, data)
    cells = np.divmod(np.arange(logits.size), logits.shape[1])
    exact = data.match(*cells).reshape(logits.shape)
    np.testing.assert_allclose(exact, logits, atol=1e-4)
    retrieved = ranking.retrieve(data.images, data.texts, data.text_of, data.image_of)
    found = reranked(data, retrieved, k)
    assert all_ranks(found) == ranked_in_loops(data, exact, k)
    if k == 4:
        assert all_ranks(found) != all_ranks(retrieved)
    if k == 1000:
        own = exact[data.image_of, data.text_of]
        np.testing.assert_array_equal(found.text_better, (exact[:, data.text_of] > own).sum(axis=0))


def test_the_task_has_both_rankings(fused, data, holdout, tmp_path):
    config = evaluate.Config(task=Retrieval(dataset="holdout", rerank=4), bootstrap=50)
    inputs = {"embeddings": data.source, "dataset": holdout}
    record = work.evaluate(config, {**inputs, "model": fused}, ShardOutput(Context(tmp_path / "out").store, "x"))
    plain = Retrieval(dataset="holdout").evaluate(data)
    found = {name: one["value"] for name, one in record.facts["metrics"].items()}
    assert {name: value for name, value in found.items() if name.startswith("encoders_")} == {
        f"encoders_{name}": pytest.approx(metric.value) for name, metric in plain.metrics.items()
    }
    again = reranked(data, ranking.retrieve(data.images, data.texts, data.text_of, data.image_of), 4)
    expected = again.metrics((1, 5, 10)) | again.median_ranks()
    assert {name: found[name] for name in expected} == pytest.approx({n: one.value for n, one in expected.items()})
    assert any(value != found[f"encoders_{name}"] for name, value in found.items() if not name.startswith("enc"))
    with pytest.raises(ConfigError, match="reads images and texts together, and has no model"):
        work.evaluate(config, inputs, ShardOutput(Context(tmp_path / "none").store, "x"))


def test_matching_is_that_of_single_pairs(fused, data):
    logits = one_by_one(fused, data)
    cosines = data.images @ data.texts.T
    expected = []
    for image in range(len(data.images)):
        mine = {int(text) for text in data.text_of[data.image_of == image]}
        wrong = next(text for text in np.argsort(-cosines[image], kind="stable") if text not in mine)
        expected.append((np.mean([logits[image, text] > 0 for text in mine]) + (logits[image, wrong] <= 0)) / 2)
    scores = Matching(dataset="holdout", words=False).evaluate(data)
    assert scores.metrics["itm_acc"].value == pytest.approx(np.mean(expected))
    assert set(scores.metrics) == {"itm_acc"}


def test_words_are_guessed_as_one_text_at_a_time(fused, data):
    """A batch of texts of different lengths is what each gives alone, and the guesses are the head's best words."""
    loaded = matcher(fused)
    given = data.captions_of_images()
    right, masked = loaded.guess_words(data.pictures(), given, 0.5)
    alone = [
        loaded.guess_words([image], [[caption]], 0.5)
        for image, own in zip(data.pictures(), given, strict=True)
        for caption in own
    ]
    assert right.tolist() == [int(one[0]) for one, _ in alone]
    assert masked.tolist() == [int(one[0]) for _, one in alone]
    assert (masked >= 1).all()
    words = lengths_of(loaded.encoder.tokenize([caption for own in given for caption in own])).numpy() - 2
    assert (masked <= words).all()
    assert 0.3 < masked.sum() / words.sum() < 0.7
    scores = Matching(dataset="holdout", mask_rate=0.5).evaluate(data)
    assert scores.metrics["mlm_acc1"].value == pytest.approx(right.sum() / masked.sum())


def test_a_model_that_always_says_red_is_right_where_red_was(fused, data):
    loaded = matcher(fused)
    texts = [caption for own in data.captions_of_images() for caption in own]
    red = loaded.encoder.tokenize(["red"])[0, 1].item()
    with torch.no_grad():
        loaded.fusion.word_bias[red] = 1000
    right, masked = loaded.guess_words(data.pictures(), data.captions_of_images(), 0.999999)
    assert right.tolist() == [text.split().count("red") for text in texts]
    assert 0 < right.sum() < masked.sum()
    assert masked.tolist() == (lengths_of(loaded.encoder.tokenize(texts)) - 2).tolist()


def test_a_model_without_a_fusion_encoder_is_refused(model, fused_files, tmp_path):
    with pytest.raises(DataError, match="has no fusion encoder"):
        matcher(model)
    config = json.dumps({"layers": 2, "vocabulary": None, "matching": True}).encode()
    torch.manual_seed(1)
    fusion = Fusion(token_widths(open_clip.CLIP(**samples.MODEL)), 2, Heads(matching=True))
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in fusion.state_dict().items()})
    files = {**fused_files, "data/fusion/config.json": config, "data/fusion/model.safetensors": weights}
    loaded = matcher(samples.write_artifact(tmp_path / "wordless", files, stage="train"))
    with pytest.raises(DataError, match="masked words"):
        loaded.guess_words([], [], 0.5)


def test_an_adopted_model_keeps_its_fusion_encoder(fused_files, tmp_path):
    from infra.store import open_store
    from pipelines import adopt

    folder = samples.write_artifact(tmp_path / "given", fused_files).store.child("data")
    paths = folder.paths()
    assert sorted(adopt.Model().pick(paths)) == sorted(path.removeprefix("data/") for path in fused_files)
    assert adopt.Model().check(open_store(folder.url), paths) == {}
