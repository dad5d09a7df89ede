"""Recipes are found, parameters and fields are set, and invalid ones are refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from infra.config import Input, Runtime, StageConfig
from infra.errors import ConfigError, UsageError
from infra.run.manifest import Manifest
from pipelines.download.config import Verify
from training.data.batching import Diverse
from workflows.recipe import built_in, load
from workflows.stage import Gate, Stage, Workflow

RECIPE = '''"""toy: for tests.

More about it.
"""
from dataclasses import dataclass

from infra.config import Config, Runtime, Input, StageConfig
from workflows.stage import Stage, Workflow


@dataclass(frozen=True)
class Limits:
    cpus: float = 1.0
    attempts: int = 3


class Web(Config):
    agent: str = "clipline"
    timeout_s: Runtime[float] = 10.0


class Make(StageConfig):
    inputs = {name: Input("lines", required=False) for name in ("data", "one", "two")}
    produces = ("lines",)

    size: int = 256
    name: str = ""
    hosts: tuple[str, ...] = ()
    web: Web = Web()
    limits: Runtime[Limits] = Limits()


def make(config, inputs, context): ...


def workflow(size: int = 3, hosts: list[str] | None = None, fast: bool = False, anything=None) -> Workflow:
    first = Stage("first", make, Make(size=size, hosts=tuple(hosts or ())))
    second = Stage("second", make, Make(name=str(fast)), {"data": first})
    third = Stage("third", make, Make(name=repr(anything)), {"one": first, "two": second})
    return Workflow("toy", (first, second, third))
'''


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(RECIPE)
    return load(str(path))


# --- finding


def test_a_recipe_is_found_by_path(recipe, tmp_path):
    assert (recipe.name, recipe.summary, recipe.path) == ("toy", "for tests.", tmp_path / "toy.py")
    assert [(parameter.name, parameter.default) for parameter in recipe.parameters] == [
        ("size", 3),
        ("hosts", None),
        ("fast", False),
        ("anything", None),
    ]


def test_a_recipe_given_relative_is_remembered_absolute(tmp_path, monkeypatch):
    """So that resume works from another folder."""
    (tmp_path / "toy.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert load("toy.py").path == tmp_path / "toy.py"


def test_the_built_in_recipes_load():
    assert "quickstart" in built_in()
    for name in built_in():
        recipe = load(name)
        assert recipe.name == name
        assert recipe.summary
    assert load("quickstart").build().name == "quickstart"


def test_a_recipe_that_is_not_there_is_told_with_a_suggestion():
    with pytest.raises(UsageError, match="no recipe 'quikstart'") as caught:
        load("quikstart")
    assert caught.value.fix == "did you mean 'quickstart'?"
    assert "website" in caught.value.expected


def test_what_is_no_recipe_is_told(tmp_path):
    (tmp_path / "other.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match="not a recipe"):
        load(str(tmp_path / "other.py"))
    (tmp_path / "other.txt").write_text("x = 1\n")
    with pytest.raises(UsageError, match="not a Python file"):
        load(str(tmp_path / "other.txt"))
    (tmp_path / "wrong.py").write_text("def workflow(): return 3\n")
    with pytest.raises(UsageError, match="returned int"):
        load(str(tmp_path / "wrong.py")).build()
    (tmp_path / "misspelt.py").write_text("import json\nfrom pipelines import downlaod\n")
    with pytest.raises(UsageError, match=r"misspelt\.py:2 does not load") as caught:
        load(str(tmp_path / "misspelt.py"))
    assert "cannot import name 'downlaod'" in caught.value.found
    (tmp_path / "cut.py").write_text("def workflow(:\n")
    with pytest.raises(UsageError, match="does not load") as caught:
        load(str(tmp_path / "cut.py"))
    assert "line 1" in caught.value.found


# --- parameters


def test_parameters_are_set(recipe):
    workflow = recipe.build(["size=5", 'hosts=["a", "b"]', "fast=true"])
    assert workflow["first"].config.size == 5
    assert workflow["first"].config.hosts == ("a", "b")
    assert workflow["second"].config.name == "True"
    assert recipe.build().stages[0].config.size == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("3.5", 3.5), ("text", "text"), ("a=b", "a=b"), ('"3"', "3"), ("null", None), ("[1]", [1]), ("", "")],
)
def test_values_are_json_or_else_text(recipe, text, value):
    assert recipe.build([f"anything={text}"])["third"].config.name == repr(value)


def test_a_configuration_that_is_not_set_is_made_of_its_fields():
    recipe = load("quickstart")
    settings = ["download.verify.column=md5", "download.verify.hash=md5"]
    assert recipe.build(settings)["download"].config.verify == Verify(column="md5", hash="md5")
    with pytest.raises(UsageError, match="colmn"):
        recipe.build(["download.verify.colmn=md5"])
    topics = Diverse(column="topic")
    for whole in ("train.data.batches.kind=diverse", "train.data.batches=diverse"):
        assert recipe.build([whole, "train.data.batches.column=topic"])["train"].config.data.batches == topics
    with pytest.raises(UsageError, match="input_format has no fields"):
        load("url_list").build(["url_list=list.csv", "urls.input_format.name=csv"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("size", "has no value"),
        ("sise=3", "no parameter 'sise'"),
        ("size=big", "parameter size"),
        ("hosts=3", "parameter hosts"),
        ("fast=perhaps", "parameter fast"),
        ("frist.size=3", "no stage 'frist'"),
        ("first.sise=3", "no field 'sise'"),
        ("first.size=big", "size is not valid"),
        ("first.size.deep=3", "has no fields to set"),
        ("first.web.agnt=x", "no field 'agnt'"),
        ("first.wbe.agent=x", "no field 'wbe'"),
        ("first.limits.cpus=many", "limits"),
        ("first.limits.cups=1", "limits"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, setting, words):
    with pytest.raises(UsageError, match=words) as caught:
        recipe.build([setting])
    assert caught.value.exit_code == 2


def test_one_value_will_do_where_a_parameter_takes_a_list(recipe):
    assert recipe.build(["hosts=example.org"])["first"].config.hosts == ("example.org",)
    assert recipe.build(["hosts=null"])["first"].config.hosts == ()


def test_an_invalid_value_is_refused_with_the_expected_type(recipe):
    with pytest.raises(UsageError) as caught:
        recipe.build(["hosts=3"])
    assert (caught.value.expected, caught.value.found) == ("list[str] | None", "3")


def test_the_comment_behind_a_parameter_describes_it():
    notes = {parameter.name: parameter.description for parameter in load("website").parameters}
    assert notes["max_depth"] == "links away from a start"
    assert notes["max_pages"] == ""


def test_a_name_that_is_nearly_right_is_suggested(recipe):
    for setting, meant in (("sise=3", "size"), ("frist.size=3", "first"), ("first.sise=3", "size")):
        with pytest.raises(UsageError) as caught:
            recipe.build([setting])
        assert caught.value.fix == f"did you mean {meant!r}?"


def test_a_parameter_without_a_default_must_be_set(tmp_path):
    path = tmp_path / "needy.py"
    path.write_text(RECIPE.replace("size: int = 3,", "size: int,"))
    with pytest.raises(UsageError, match="needs a value for size") as caught:
        load(str(path)).build()
    assert caught.value.fix == "--set size=VALUE"
    assert load(str(path)).build(["size=1"])["first"].config.size == 1


# --- fields


def test_fields_of_stages_are_set_and_what_depends_on_them_follows(recipe):
    plain, changed = recipe.build(), recipe.build(["second.size=9", "second.web.agent=me", "second.web.timeout_s=1"])
    assert changed["second"].config.size == 9
    assert changed["second"].config.web.agent == "me"
    assert changed["second"].config.name == "False"
    assert changed["third"].inputs == {"one": changed["first"], "two": changed["second"]}
    assert [plain[n].digest == changed[n].digest for n in ("first", "second", "third")] == [True, False, False]


def test_runtime_fields_can_be_set_too_and_change_no_fingerprint(recipe):
    plain, fast = recipe.build(), recipe.build(["first.limits.cpus=4", "first.web.timeout_s=1"])
    assert (fast["first"].config.limits.cpus, fast["first"].config.limits.attempts) == (4.0, 3)
    assert [stage.digest for stage in fast] == [stage.digest for stage in plain]


def test_attempts_of_any_stage_can_be_set_and_change_no_fingerprint(recipe):
    plain, built = recipe.build(), recipe.build(["first.retries=5", "second.timeout_s=60", "third.timeout_s=null"])
    assert [(stage.retries, stage.timeout_s) for stage in built] == [(5, None), (2, 60.0), (2, None)]
    assert built.changed == {"first.retries": 5, "second.timeout_s": 60}
    assert [stage.digest for stage in built] == [stage.digest for stage in plain]


@pytest.mark.parametrize("setting", ["first.retries=-1", "first.retries=often", "first.timeout_s=0"])
def test_attempts_that_cannot_be_are_refused(recipe, setting):
    with pytest.raises(UsageError, match=r"Invalid value for first\.(retries|timeout_s)"):
        recipe.build([setting])


def test_the_last_of_two_settings_counts(recipe):
    assert recipe.build(["first.size=1", "first.size=2"])["first"].config.size == 2


# --- members of tuples

RULES = """
from pipelines import crawl, download, extract
from pipelines.curate import filter
from pipelines.curate.filter.rules import ImageSide, Language, TextWords
from workflows.stage import Stage, Workflow


def workflow():
    crawled = Stage("crawl", crawl.run, crawl.Config(seeds=["http://a.example/"]))
    pairs = Stage("extract", extract.run, extract.Config(), {"pages": crawled})
    images = Stage("download", download.run, download.Config(), {"pairs": pairs})
    rules = (ImageSide(), TextWords(), Language(), TextWords(min=5))
    kept = Stage("filter", filter.run, filter.Config(rules=rules), {"images": images})
    return Workflow("rules", (crawled, pairs, images, kept))
"""


@pytest.fixture
def rules(tmp_path):
    """``rules(settings)``: the rules of the filter with these settings, as plain values."""
    path = tmp_path / "ruled.py"
    path.write_text(RULES)
    recipe = load(str(path))
    return lambda *settings: recipe.build(settings)["filter"].config.resolved()["rules"]


def test_a_member_of_a_tuple_is_addressed_by_its_kind(rules):
    before = rules()
    side, words, language, more = rules("filter.rules.image_side.min=64")
    assert side == {"kind": "image_side", "min": 64}
    assert [words, language, more] == before[1:]


def test_one_of_several_of_a_kind_is_addressed_by_its_position(rules):
    changed = rules("filter.rules.3.max=9", "filter.rules.1.min=1")
    assert changed[1] == {"kind": "text_words", "min": 1, "max": 256}
    assert changed[3] == {"kind": "text_words", "min": 5, "max": 9}


def test_one_value_will_do_where_a_field_wants_several(rules):
    assert rules("filter.rules=image_side") == [{"kind": "image_side", "min": 200}]
    assert rules('filter.rules={"kind": "image_side", "min": 3}') == [{"kind": "image_side", "min": 3}]
    assert rules("filter.rules.language.languages=de")[2]["languages"] == ["de"]
    assert rules('filter.rules=["image_side", "text_junk"]')[1]["kind"] == "text_junk"


@pytest.mark.parametrize(
    ("setting", "words", "fix"),
    [
        ("filter.rules.image_sid.min=3", "rules has no 'image_sid'", "did you mean 'image_side'?"),
        ("filter.rules.text_words.min=3", "rules has several 'text_words'", ""),
        ("filter.rules.4.min=3", "rules has no '4'", ""),
        ("filter.rules.image_side=3", "rules.image_side is a configuration", ""),
        ("filter.rules.image_side.mni=3", "has no field 'mni'", "did you mean 'min'?"),
        ("filter.rules.image_side.min=many", "min is not valid", ""),
        ("filter.rules=image_sid", "there is no Rule 'image_sid'", "did you mean 'image_side'?"),
        ("filter.rules.image_side.min.deep=3", "has no fields to set", ""),
    ],
)
def test_a_member_that_is_not_there_or_not_clear_is_refused(rules, setting, words, fix):
    with pytest.raises(UsageError, match=words) as caught:
        rules(setting)
    assert caught.value.fix == fix


# --- workflows


class Nothing(StageConfig):
    inputs: ClassVar = {"data": Input("lines", required=False)}
    produces = ("lines",)

    workers: Runtime[int] = 1


def run(config, inputs, context): ...


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a.b", "-a", "a b", ".", "é/"])
def test_a_name_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(UsageError, match="cannot be the name of a stage"):
        Stage(name, run, Nothing())
    with pytest.raises(UsageError, match="cannot be the name of a workflow"):
        Workflow(name, ())


def test_a_workflow_lists_every_stage_once_and_after_its_inputs():
    a = Stage("a", run, Nothing())
    b = Stage("b", run, Nothing(), {"data": a})
    with pytest.raises(UsageError, match="two stages of the same name"):
        Workflow("w", (a, Stage("a", run, Nothing())))
    with pytest.raises(UsageError, match="input 'data' of stage b is not an earlier stage"):
        Workflow("w", (b, a))
    with pytest.raises(UsageError, match="not an earlier stage"):
        Workflow("w", (Stage("a", run, Nothing()), b))  # another stage of that name
    with pytest.raises(UsageError, match="no stage 'c'"):
        Workflow("w", (a, b))["c"]


def test_a_gate_that_asks_for_what_is_not_there_is_refused_before_anything_runs():
    stages = (Stage("train", run, Nothing()), Stage("eval", run, Nothing()))
    Workflow("w", stages, gate=Gate("train", "model", {"eval.acc1": 0.5}))
    for gate in (Gate("trian", "model", {}), Gate("train", "model", {"evall.acc1": 0.5})):
        with pytest.raises(UsageError, match="no stage"):
            Workflow("w", stages, gate=gate)


def test_a_gate_passes_only_on_numbers_that_are_there():
    manifests = {"eval": Manifest(stage="eval", digest="d", identity={}, metrics={"acc1": 0.5, "worst": float("nan")})}
    gate = Gate("train", "m", {"eval.acc1": 0.5, "eval.acc5": 0.1, "eval.worst": 0.0, "other.acc1": 0.0})
    checks = gate.check(manifests)
    assert [(check.metric, check.passed) for check in checks] == [
        ("eval.acc1", True),
        ("eval.acc5", False),
        ("eval.worst", False),
        ("other.acc1", False),
    ]


def test_a_field_of_a_stage_that_has_a_parameters_name_is_set(tmp_path):
    """``shards.contents`` of the recipe train, whose ``shards`` is a folder; of a mapping it would be a key."""
    (tmp_path / "toy.py").write_text(
        RECIPE.replace("size: int = 3", "first: int = 3").replace("size=size", "size=first")
    )
    made = load(tmp_path / "toy.py").build(["first=5", "first.name=mine"])
    assert (made["first"].config.size, made["first"].config.name) == (5, "mine")
    with pytest.raises(UsageError, match="no stage 'fast'"):
        load(tmp_path / "toy.py").build(["fast.name=1"])


def test_a_path_is_not_mistaken_for_a_built_in_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").mkdir()
    assert load("quickstart").path.parent.name == "recipes"


@pytest.mark.parametrize("name", ["website", "url_list", "common_crawl"])
def test_the_http_client_is_set_once_for_all_stages(name, tmp_path):
    (tmp_path / "x.txt").write_text("http://a.example/1.jpg")
    start = {
        "website": "seeds=http://a.example/",
        "url_list": f"url_list={tmp_path}/x.txt",
        "common_crawl": "paths=/x.wat",
    }
    settings = [
        *(start[name], "contact=a@b.example", "allow_private=10.0.0.0/8", 'web={"deadline_s": 7}', "web.retries=5"),
        *("web.obey_opt_out=false", "web.user_agent=other/2"),
    ]
    workflow = load(name).build(settings)
    clients = [stage.config.web for stage in workflow if hasattr(stage.config, "web")]
    assert len(clients) == (2 if name == "website" else 1)
    for web in clients:
        assert (web.contact, web.allow_private, web.deadline_s, web.retries) == ("a@b.example", ("10.0.0.0/8",), 7, 5)
    if name != "url_list":
        assert (workflow["extract"].config.obey_opt_out, workflow["extract"].config.agent) == (False, "other")
    with pytest.raises(ConfigError, match="retrys"):
        load(name).build([start[name], "web.retrys=5"])
