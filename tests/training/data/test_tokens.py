"""Captions: the tokens of open_clip's tokenizer, and where captions are found."""

import json

import numpy as np
import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from training.data.index import captions_of
from training.data.tokens import PROBES, Tokenizer, padded

THEIRS = open_clip.get_tokenizer("ViT-B-32")
OURS = Tokenizer(THEIRS)

CAPTIONS = [
    *PROBES,
    "A red disc, 20% off!!! (new)",
    "!",
    "a&amp;b &copy; &#x41;",
    "<start_of_text> x <END_OF_TEXT>",
    "tab\there\x0bthere\x85\u2028end",
    "İstanbul ǅ ß ſ K Å",
    "don't DON'T don’t 'S 's",
    "x" * 500,
    "word " * 200,
    "\x1b[31mred\x1b[0m \x00 \x7f",
]


@given(st.one_of(st.text(), st.text(st.characters(max_codepoint=127)), st.sampled_from(CAPTIONS)))
def test_tokens_are_open_clips(text):
    assert (OURS(text) == THEIRS([text])[0].numpy()).all()


def test_lengths_end_with_the_end_of_text():
    for text, tokens in zip(CAPTIONS, OURS.ragged(CAPTIONS), strict=True):
        ends = np.flatnonzero(THEIRS([text])[0].numpy() == THEIRS.eot_token_id)
        assert len(tokens) == ends[-1] + 1
        assert (len(ends) > 1) == ("<end_of_text>" in text.lower())
    assert OURS.dtype == "<u2"


@pytest.mark.parametrize("context", [8, 16])
def test_short_contexts_cut_as_open_clip_does(context):
    theirs = open_clip.SimpleTokenizer(context_length=context)
    ours = Tokenizer(theirs)
    assert (np.stack([ours(text) for text in CAPTIONS]) == theirs(CAPTIONS).numpy()).all()


def test_other_tokenizers_keep_their_tokens_and_padding():
    theirs = open_clip.SimpleTokenizer(context_length=12, clean="canonicalize", reduction_mask="")
    ours = Tokenizer(theirs)
    assert ours.dtype == "<u4"
    assert (np.stack([ours(text) for text in CAPTIONS]) == theirs(CAPTIONS).numpy()).all()

    def padded_by_one(texts):  # as SigLIP's: the end of the text is the padding
        rows = np.ones((len(texts), 6), np.int64)
        for row, text in zip(rows, texts, strict=True):
            row[: min(6, len(text))] = [ord(letter) for letter in text[:6]]
        return rows

    ours = Tokenizer(padded_by_one)
    for text in ("", "cat", "elephant", "\x01\x01"):
        assert (ours(text) == padded_by_one([text])[0]).all()
    assert [len(tokens) for tokens in ours.ragged(["", "cat", "elephant"])] == [0, 3, 6]


def test_its_identity_tells_tokenizers_apart():
    others = [open_clip.SimpleTokenizer(context_length=76), open_clip.SimpleTokenizer(clean="whitespace")]
    known = {Tokenizer(other).identity for other in others} | {OURS.identity}
    assert len(known) == 3
    assert Tokenizer(open_clip.SimpleTokenizer()).identity == OURS.identity


def test_one_that_draws_at_random_is_refused():
    with pytest.raises(ConfigError, match="different tokens for the same caption"):
        Tokenizer(open_clip.SimpleTokenizer(reduction_mask="random"))


def test_padding_puts_each_caption_in_its_row():
    flat = np.arange(1, 11, dtype=np.uint16)
    rows = padded(flat, np.array([7, 0, 3]), np.array([10, 3, 3]), 4, 99)
    assert rows.tolist() == [[8, 9, 10, 99], [1, 2, 3, 99], [99] * 4]
    assert rows.dtype == np.int64


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("txt", "one\ntwo\n", ["one\ntwo\n"]),
        ("txt", "\ufeffone", ["one"]),
        ("txt:lines", "one\n\n two \r\n", ["one", "two"]),
        ("txt:lines", "one\u2028half\vtwo\n", ["one\u2028half\vtwo"]),
        ("json:caption", json.dumps({"caption": "one"}), ["one"]),
        ("json:captions", json.dumps({"captions": ["one", None, "", " ", 3, ["x"], "two"]}), ["one", "two"]),
    ],
)
def test_captions_are_found_by_their_key(key, text, expected):
    assert captions_of({key.partition(":")[0]: text.encode()}, key) == expected


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("txt", b"\xff\xfe"),
        ("txt:lines", b" \n"),
        ("json:caption", b"{}"),
        ("json:caption", b"[]"),
        ("json:caption", b"{"),
        ("json:caption", b'{"caption": 3}'),
        ("json:caption", b'{"caption": ""}'),
        ("json:caption", b'{"caption": []}'),
        ("json:caption", b'{"caption": [" "]}'),
        ("json:caption", b'{"caption": {"en": "one"}}'),
        ("json:caption", b"[" * 100_000),
        ("txt", b""),
        ("txt", b" \n"),
    ],
)
def test_what_is_no_caption_is_a_value_error(key, data):
    with pytest.raises(ValueError):
        captions_of({key.partition(":")[0]: data}, key)
