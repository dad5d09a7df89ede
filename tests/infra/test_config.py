"""A configuration refuses what it does not know, and its identity is exactly what decides the result."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from infra.config import Choice, Config, Runtime, canonical_json, digest, flatten
from infra.errors import ConfigError


class Mode(StrEnum):
    BORDER = "border"
    CROP = "crop"


class Web(Config):
    agent: str = Field("clipline", description="name sent")
    timeout_s: Runtime[float] = Field(10.0, description="seconds")


class Rule(Choice):
    """A family."""


class Words(Rule):
    least: int = 2


class Chars(Rule):
    least: int = 2
    threads: Runtime[int] = 1


class InWords(Rule):
    code_version = 2


class Held(Config):
    rule: Rule = InWords()
    web: Web = Web(agent="robot")


class Example(Config):
    size: int = Field(256, gt=0, description="pixels")
    mode: Mode = Mode.BORDER
    web: Web = Web()
    rules: tuple[Rule, ...] = (Words(),)
    hosts: frozenset[str] = frozenset({"b", "a", "c"})
    extra: dict[str, Web] = Field(default_factory=dict)
    workers: Runtime[int | None] = Field(None, description="processes")


# --- refusing


def test_an_unknown_field_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError) as caught:
        Example(sise=3)
    assert "Example has no field 'sise'" in caught.value.message
    assert caught.value.fix == "did you mean 'size'?"
    assert "workers" in caught.value.expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"web": {"agnt": "x"}}, "Web has no field 'agnt'"),
        ({"rules": [{"kind": "chars", "leest": 3}]}, "Chars has no field 'leest'"),
        ({"extra": {"a": {"timeout": 3}}}, "Web has no field 'timeout'"),
    ],
)
def test_an_unknown_nested_field_is_refused_by_the_class_it_is_meant_for(values, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Example(**values)
    assert "did you mean" in caught.value.fix


def test_a_wrong_value_is_shown_with_what_was_expected():
    with pytest.raises(ConfigError) as caught:
        Example(size=-1)
    assert (caught.value.expected, caught.value.found) == ("Input should be greater than 0", "-1")
    assert caught.value.message.endswith("Example.size is not valid")
    with pytest.raises(ConfigError, match=r"Example\.rules\.0 is not valid"):
        Example(rules=[3])


def test_a_configuration_cannot_be_changed():
    config = Example()
    with pytest.raises(ValidationError, match="frozen"):
        config.size = 3


def test_replace_validates_and_leaves_the_original_alone():
    config = Example(size=3, web=Web(agent="me"))
    assert config.replace(size=4) == Example(size=4, web=Web(agent="me"))
    assert config.size == 3
    with pytest.raises(ConfigError, match="size"):
        config.replace(size=0)
    with pytest.raises(ConfigError, match="no field 'colour'"):
        config.replace(colour="red")


def test_what_would_make_two_configurations_look_the_same_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match=r"Runtime\[int | None\]"):
        type("Inner", (Config,), {"__annotations__": {"workers": Runtime[int] | None}, "workers": None})
    plain = type("Plain", (Config,), {"__annotations__": {"least": int}, "least": 2})
    with pytest.raises(TypeError, match="use a Choice"):
        type("Either", (Config,), {"__annotations__": {"rule": plain | Web}, "rule": Web()})


# --- identity


def test_runtime_fields_do_not_enter_the_identity_at_any_depth():
    fast = Example(workers=64, web=Web(timeout_s=1), rules=(Chars(threads=8),), extra={"a": Web(timeout_s=2)})
    slow = Example(rules=(Chars(),), extra={"a": Web()})
    assert fast.identity() == slow.identity()
    assert fast.identity() == {"rules": [{"kind": "chars"}], "extra": {"a": {}}}


@pytest.mark.parametrize(
    "change",
    [
        {"size": 255},
        {"mode": "crop"},
        {"web": Web(agent="other")},
        {"rules": (Chars(),)},  # same fields, same values, another class
        {"rules": (Words(), Words())},
        {"hosts": {"a"}},
        {"extra": {"a": Web()}},
    ],
    ids=str,
)
def test_every_deciding_field_enters_the_identity(change):
    assert digest(Example(**change).identity()) != digest(Example().identity())


def test_an_identity_is_plain_json():
    identity = Example(extra={"a": Web()}, hosts={"d", "c"}).identity()
    assert json.loads(canonical_json(identity)) == identity
    assert identity["hosts"] == ["c", "d"]


def test_only_what_differs_from_the_default_is_identity():
    assert Example().identity() == {}
    assert Example(size=256, web=Web(agent="clipline", timeout_s=1)).identity() == {}
    assert Example(web=Web(agent="other")).identity() == {"web": {"agent": "other"}}
    # relative to the default of the field that holds it, not of its own class
    assert Held(web=Web(agent="robot")).identity() == Held().identity()
    assert Held(web=Web()).identity()["web"] == {}


def test_a_field_added_with_a_default_changes_no_identity():
    """Or every finished artifact of the stage would be due again."""
    more = type("More", (Example,), {"__annotations__": {"later": int}, "later": 5, "__module__": __name__})
    values = {"size": 3, "rules": ["chars"]}
    assert more(**values).identity() == Example(**values).identity()
    assert more(**values, later=6).identity() == {**Example(**values).identity(), "later": 6}


def test_a_raised_code_version_of_a_nested_configuration_counts_even_at_its_default():
    assert Held().identity() == {"rule": {"kind": "in_words", "code_version": 2}}


def test_everything_that_decides_is_in_the_resolved_form():
    assert Example().resolved() == {
        "size": 256,
        "mode": "border",
        "web": {"agent": "clipline"},
        "rules": [{"kind": "words", "least": 2}],
        "hosts": ["a", "b", "c"],
        "extra": {},
    }


def test_parts_walks_every_nested_configuration():
    whole = Example(rules=(Words(), Chars()), extra={"a": Web()})
    assert [type(part).__name__ for part in whole.parts()] == ["Example", "Web", "Words", "Chars", "Web"]


# --- choices


@pytest.mark.parametrize("given", [Chars(least=3), {"kind": "chars", "least": 3}], ids=str)
def test_a_choice_is_given_as_an_instance_or_a_dictionary(given):
    assert Held(rule=given).rule == Chars(least=3)
    assert Held(rule="words").rule == Words()


def test_a_choice_survives_json():
    whole = Example(rules=(Words(), Chars(least=3, threads=4)))
    assert Example(**json.loads(whole.model_dump_json())) == whole


def test_a_choice_that_is_not_there_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="there is no Rule 'word'") as caught:
        Held(rule="word")
    assert caught.value.fix == "did you mean 'words'?"
    assert "chars, in_words, words" in caught.value.expected


def test_a_choice_of_a_module_that_is_not_imported_is_found_by_its_place(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(
        "from test_config import Rule\nclass Mine(Rule):\n    kind = 'mine'\n    bound: int = 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    held = Held(rule={"kind": "my_rules:Mine", "bound": 2})
    assert held.identity()["rule"] == {"kind": "mine", "bound": 2}
    assert Held(rule="mine") == held.replace(rule="mine")
    with pytest.raises(ConfigError, match="my_rules:Yours cannot be imported"):
        Held(rule="my_rules:Yours")
    with pytest.raises(ConfigError, match="is not a Rule"):
        Held(rule="pathlib:Path")


def test_two_choices_of_one_kind_are_refused():
    class Family(Choice):
        pass

    class One(Family):
        kind = "same"

    class Other(Family):
        kind = "same"

    with pytest.raises(ConfigError, match="two classes are called 'same'") as caught:
        Family.named("same")
    assert "One" in caught.value.found
    assert "Other" in caught.value.found
    assert One.family() is Other.family() is Family


def test_the_same_values_given_in_other_forms_have_the_same_identity():
    given_as_json = Example(**json.loads('{"size": 256, "mode": "border", "hosts": ["c", "a", "b"], "web": {}}'))
    assert given_as_json.identity() == Example().identity()


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", object()], ids=lambda value: type(value).__name__)
def test_a_value_without_a_canonical_form_is_refused(value):
    class Odd(Config):
        thing: object = None

    with pytest.raises(ConfigError, match="canonical"):
        Odd(thing=value).identity()


def test_a_configuration_pickles():
    config = Example(size=3, rules=(Chars(threads=2),), workers=4)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.long
def test_the_digest_is_the_same_in_every_process():
    code = "from test_config import Example, digest; print(digest(Example(extra={'z': {}, 'a': {}}).identity()))"
    here = digest(Example(extra={"a": Web(), "z": Web()}).identity())
    for seed in ("0", "1", "random"):
        paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert out.stdout.strip() == here


def test_the_digest_of_a_known_value_never_changes():
    """Every artifact on every disk is named by it."""
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ä€"}) == '{"a":"ä€","b":[1,2.5,null,true]}'.encode()
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert (
        digest(Example(size=3, rules=[Chars()]).identity())
        == "2b60a1a2f871bf9aae825b17da808da17e568442a7f53412d910920a1b8bc23d"
    )


# --- canonical JSON and flatten

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_canonical_json_says_the_whole_value_and_nothing_of_its_order(value):
    assert json.loads(canonical_json(value)) == value
    assert canonical_json(_reversed(value)) == canonical_json(value)


def _reversed(value):
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(list(value))}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


NAMES = st.text(st.characters(exclude_characters=".", exclude_categories=["Cs"]), min_size=1)


@given(st.recursive(st.integers() | st.just({}), lambda inner: st.dictionaries(NAMES, inner, max_size=3)))
def test_flatten_keeps_every_leaf(value):
    def put(flat):
        nested = {}
        for key, leaf in flat.items():
            *path, last = key.split(".")
            here = nested
            for part in path:
                here = here.setdefault(part, {})
            here[last] = leaf
        return nested

    assert put(flatten(value)) == (value if isinstance(value, dict) else {})
