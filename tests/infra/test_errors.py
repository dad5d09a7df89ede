"""Errors cross process borders whole, carry their exit codes, and never carry a secret."""

from __future__ import annotations

import inspect
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import errors
from infra.errors import CliplineError, ConfigError, LeaseLost, Preempted, redact, redact_values

TREE = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, CliplineError)]


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling_with_all_it_says(cls):
    from ray import cloudpickle

    error = cls("it broke", expected="one", found="two", fix="do three")
    for dumps, loads in ((pickle.dumps, pickle.loads), (cloudpickle.dumps, cloudpickle.loads)):
        back = loads(dumps(error))
        assert type(back) is cls
        assert vars(back) == vars(error)
        assert str(back) == "it broke\n  expected: one\n  found: two\n  fix: do three"


def test_the_tree_drawn_in_the_docstring_is_the_tree():
    drawn = dict(line.lstrip(" │├└─").split()[:2] for line in errors.__doc__.splitlines() if line.startswith("    "))
    assert drawn == {cls.__name__: str(cls.exit_code) for cls in TREE}
    assert set(drawn) <= set(errors.__all__)


def test_exit_codes_are_those_of_sysexits():
    assert (CliplineError.exit_code, ConfigError.exit_code, LeaseLost.exit_code, Preempted.exit_code) == (1, 2, 73, 75)


def test_an_error_says_only_what_it_was_given():
    assert str(CliplineError("it broke", fix="mend it")) == "it broke\n  fix: mend it"
    assert str(CliplineError("no", found="https://me:pw@host/x")) == "no\n  found: https://***@host/x"


SECRETS = [  # (text, the part that must not remain)
    ("https://user:hunter2@host/path", "hunter2"),
    ("https://user:p@ss:word@host/path", "ss:word"),
    ("postgresql://clip:hunter2@db:5432/mlflow", "hunter2"),
    ("https://ghp_abc@github.com/x.git", "ghp_abc"),
    ("password=hunter2", "hunter2"),
    ("PASSWORD = hunter2", "hunter2"),
    ("MLFLOW_TRACKING_PASSWORD: hunter2", "hunter2"),
    ("password=a,b;rest", "a,b"),
    ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr"),
    ("aws_access_key_id is AKIAIOSFODNN7EXAMPLE", "AKIA"),
    ('{"secretAccessKey": "wJalrXUtnFEMI"}', "wJalr"),
    ("{'token': 'abc def'}", "abc"),
    ('"api_key": "with \\"quotes\\" inside", "n": 1', "quotes"),
    ('a trace in JSON: \\"api_key\\": \\"hunter2\\", \\"n\\": 1', "hunter2"),
    ("https://b.s3.amazonaws.com/k?X-Amz-Credential=AK%2Fs3&X-Amz-Signature=fe5f80", "fe5f80"),
    ("https://acc.blob.core.windows.net/c?sv=2024&sig=Zm9v%3D", "Zm9v"),
    ("Authorization: Bearer abcdef", "abcdef"),
    ("Authorization: Basic dXNlcjpwYXNz", "dXNl"),
    ("sent bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP", "eyJ"),
    ("cloned with ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_0"),
    ("login hf_ABCDEFGHIJKLMNOPQRSTUVWX", "hf_A"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS, ids=[text[:30] for text, _ in SECRETS])
def test_secrets_are_masked(text, secret):
    assert secret in text
    assert secret not in redact(text)
    assert "***" in redact(text)


INNOCENT = [
    "https://example.org/~user@host?email=a@b.org",
    "https://example.org?to=a@b.org",
    'see "http://a.example", "b@c.example"',
    "tokenizer=ViT-B-32, max_tokens=77 tokens: 77",
    "keys=3 monkey=1 key: value",
    "basic configuration, a bearer of news",
    "s3://bucket/prefix and C:\\path",
    "PWD=/home/me design=bold",
]


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_the_rest_of_the_text_stays():
    assert redact("GET https://u:p@h/a?token=t&page=2 failed") == "GET https://***@h/a?token=***&page=2 failed"
    assert redact('{"token": "t", "n": [1, 2]}') == '{"token": "***", "n": [1, 2]}'


def test_redacting_long_text_takes_linear_time():
    for text in ("a-" * 200_000, "token" * 80_000, '\\"' * 100_000, "://" * 100_000, "password='" * 20_000):
        redact(text)  # a backtracking pattern would run into the suite's timeout


@given(st.text())
def test_redacting_twice_changes_nothing(text):
    assert redact(redact(text)) == redact(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.sampled_from(["token", "AWS_SECRET_ACCESS_KEY", "db-password", "sig"]))
def test_redacted_values_keep_their_shape_and_lose_the_secret(value, key):
    document = {"plain": value, key: "hunter2", "deep": [{key: ["hunter2", {"x": "hunter2"}]}]}
    masked = redact_values(document)
    assert "hunter2" not in json.dumps(masked)
    assert set(masked) == {"plain", key, "deep"}
    assert json.loads(json.dumps(masked)) == masked


def test_redacted_values_are_redacted_inside_their_texts_too():
    assert redact_values({"message": "token=abc", "count": 3}) == {"message": "token=***", "count": 3}
    assert redact_values({"token_count": 3, "token": 3}) == {"token_count": 3, "token": 3}
