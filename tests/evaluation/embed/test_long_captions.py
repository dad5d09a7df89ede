"""Captions beyond a model's context: which they are, how many, and what the means of their parts are."""

from __future__ import annotations

import json

import evaluation_samples as samples
import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest

from evaluation import evaluate
from evaluation.embed import Config
from evaluation.embed.long_captions import AverageSentences, AverageWindows, LongCaptions
from evaluation.embed.parts import windows
from evaluation.embed.work import encode_captions
from evaluation.evaluate import work
from evaluation.tasks import Retrieval
from infra.encoder.open_clip import load_encoder
from infra.run.context import Context, ShardOutput

CONTEXT = samples.MODEL["text_cfg"]["context_length"]  # 16: 14 tokens between the first and the last


def at_most(count: int):
    return lambda text: len(text.split()) <= count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c d e f g", ["a b c", "d e f", "g"]),
        ("  a\n b ", ["a b"]),
        ("", []),
    ],
)
def test_windows_have_as_many_words_as_fit(text, expected):
    assert [" ".join(one.split()) for one in windows(text, at_most(3))] == expected


def test_a_word_that_does_not_fit_is_taken_apart_between_characters():
    found = windows("ab " + "語" * 7 + "e\u0301" * 2 + " z", lambda text: len(text) <= 4)
    assert found == ["ab", "語語語語", "語語語e\u0301"[:3], "e\u0301e\u0301", "z"]
    assert windows("abc", lambda text: False) == ["a", "b", "c"]


def test_sentences_weigh_the_same_and_one_that_is_too_long_is_windows():
    text = "A cat. It sat on the mat, e.g. here! 猫がいる。とても長い。"
    found = AverageSentences().texts(text, at_most(4))
    assert [part for part, _ in found][:1] == ["A cat."]
    assert [part for part, _ in found][-2:] == ["猫がいる。", "とても長い。"]
    assert sum(weight for _, weight in found) == pytest.approx(round(sum(weight for _, weight in found)))
    assert found[0][1] == found[-1][1] == 1


def test_kinds_of_ones_own_are_taken():
    class FirstAndLast(LongCaptions):
        def texts(self, caption, fits):
            return [(caption.split()[0], 1.0), (caption.split()[-1], 1.0)]

    assert Config(sets=("x",), long_captions="first_and_last").long_captions == FirstAndLast()
    assert "long_captions" not in Config(sets=("x",)).identity()


# --- with a model -----------------------------------------------------------------------------------------------------


@pytest.fixture
def encoder(model):
    return load_encoder(model)


@pytest.mark.long
def test_what_is_cut_is_what_has_more_tokens_than_the_context(encoder):
    """By open_clip's own count of tokens, at the very border, with the token 0 (a bare exclamation mark), too."""
    tokenizer = open_clip.SimpleTokenizer()
    texts = [" ".join(["cat"] * count) for count in range(20)] + ["!" * 30, "!?" * 7, "!a" * 7, "!a" * 8, "ж" * 9]
    texts += [f"{'cat ' * 13}!x", f"{'cat ' * 14}!x", f"{'cat ' * 14}!", f"{'cat ' * 13}!"]
    counts = np.array([len(tokenizer.encode(text)) + 2 for text in texts])
    assert encoder.is_cut(texts).tolist() == (counts > CONTEXT).tolist()
    assert {int(count) for count in counts} >= {CONTEXT - 1, CONTEXT, CONTEXT + 1}
    assert encoder.is_cut([]).shape == (0,)


@pytest.mark.long
def test_a_caption_that_fits_stays_to_the_last_bit(encoder):
    captions = ["a cat", "a dog. a cat", "a cat"]
    plain = encoder.encode_texts(["a cat", "a dog. a cat"])
    for long_captions in (AverageWindows(), AverageSentences()):
        texts, beyond = encode_captions(encoder, captions, long_captions)
        assert not beyond.any()
        assert (texts == plain[[0, 1, 0]]).all()


@pytest.mark.long
def test_means_are_those_of_their_parts(encoder):
    """In closed form: a window twice is the window; two that differ are their mean by characters, normalised."""
    one, other = "cat " * 13 + "cat", "blue " * 9 + "sky"  # 14 tokens, which is all there is room for, and 10
    captions = [f"{one} {one}", f"{one} {other}", "A red cat sits here. " + "The big dog runs very far away now, too."]
    first, second = encoder.encode_texts([one, other])
    cat, dog = encoder.encode_texts(["A red cat sits here.", "The big dog runs very far away now, too."])
    texts, beyond = encode_captions(encoder, captions[:2], AverageWindows())
    assert beyond.all()
    assert texts[0] == pytest.approx(first, abs=1e-6)
    mean = len(one) * first + len(other) * second
    assert texts[1] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    texts, _ = encode_captions(encoder, captions[2:], AverageSentences())
    assert texts[0] == pytest.approx((cat + dog) / np.linalg.norm(cat + dog), abs=1e-6)


LONG = "a picture of a very small red circle on a large and very empty grey sheet of paper"


@pytest.mark.long
def test_how_many_are_cut_is_in_every_result(model, tmp_path, caplog):
    members = []
    for i in range(6):
        captions = [f"circle {i}", f"{LONG} {i}"][: 1 + i % 2]
        members += [(f"s{i}.png", samples.picture(i)), (f"s{i}.txt", "\n".join(captions).encode())]
    files = {"dataset_type.txt": b"retrieval", "test/nshards.txt": b"1", "test/0.tar": samples.tar(members)}
    words = samples.write_artifact(tmp_path / "words", {f"data/words/{path}": data for path, data in files.items()})
    found = {}
    for kind in ("cut", "average_windows"):
        vectors = samples.embed_here(tmp_path / kind, model, words, "words", long_captions=kind)
        assert vectors.manifest.facts["beyond_context"] == {"words/test": 3}
        assert f"words/test: 3 texts are longer than the model's context ({kind})" in caplog.text
        output = ShardOutput(Context(tmp_path / f"out_{kind}").store, "words")
        config = evaluate.Config(task=Retrieval(dataset="words"), bootstrap=20)
        record = work.evaluate(config, {"embeddings": vectors, "dataset": words}, output)
        assert record.facts["beyond_context"] == {kind: 3}
        rows = pq.read_table(tmp_path / f"out_{kind}/data/text_queries.parquet").to_pylist()
        assert [row["context"] for row in rows] == ["beyond" if LONG in row["caption"] else "fits" for row in rows]
        table = pq.read_table(tmp_path / f"out_{kind}/data/context.parquet").to_pylist()
        assert [(row["group"], row["images"]) for row in table] == [("beyond", 3), ("fits", 6)]
        found[kind] = table
        (result,) = (tmp_path / f"out_{kind}/data").glob("words_*.json")
        assert json.loads(result.read_text())["metrics"]
    assert found["cut"][1] == found["average_windows"][1]  # those that fit
    # Cut, the long ones are one text, as all begin alike; whole, each is its own.
    assert len({str(row) for row in pq.read_table(tmp_path / "cut/data/words/test/00000.parquet").to_pylist()}) == 6
