"""Rules of users: found by name, run on every worker, reading any column; errors name the rule and the column."""

import datetime
import json
import re
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from PIL import Image

from infra.config import StageConfig
from infra.errors import DataError, UsageError
from infra.formats.shards import read_samples
from pipelines import download
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter.judge import judge
from pipelines.curate.filter.rules import BASIC, ImageSide, Rule, TextJunk
from pipelines.tables import SELECTION_COLUMNS, read_table
from tests.pipelines import large_images
from tests.pipelines.user_rules import Above, Answer, Rendezvous, TakenIn, Touchy
from workflows import user
from workflows.recipe import load
from workflows.stage import Stage

DOCS = Path(__file__).parents[3] / "docs/curation.md"
LARGE, SMALL = Image.new("RGB", (400, 300), "red"), Image.new("RGB", (210, 210), "blue")
EXTRA = [pa.field("similarity", pa.float64()), pa.field("taken", pa.date32())]


def test_the_example_of_the_docs_is_this_recipe():
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert example == Path(large_images.__file__).read_text()
    assert len(example.splitlines()) < 40


def test_the_example_is_a_recipe():
    workflow = load(large_images.__file__).build(["seeds=http://a.example/", "filter.rules.pixels.min=50000"])
    assert workflow["filter"].config.rules[-1].min == 50_000


def test_the_table_of_the_docs_names_the_rules_and_their_defaults():
    table = DOCS.read_text().partition("| rule | fields")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (`.*?`) \|", table, re.MULTILINE)
    documented = {kind: dict(re.findall(r"`(\w+)=?(.*?)`", fields)) for kind, fields in rows}
    shipped = [rule for rule in Rule.members().values() if rule.__module__.startswith("pipelines.curate.")]
    assert documented == {rule.kind: _defaults(rule) for rule in shipped}
    assert list(documented)[: len(BASIC)] == [rule.kind for rule in BASIC]


def _defaults(rule: type[Rule]) -> dict[str, str]:
    """Of each field as JSON; nothing for a required one."""
    fields = rule.model_fields.items()
    return {name: "" if field.is_required() else json.dumps(field.default) for name, field in fields}


def test_a_rule_of_a_user_runs_on_two_workers(ray_cluster, images_artifact, finished, tmp_path):
    (meeting := tmp_path / "meeting").mkdir()
    rows = [("a large red image", LARGE), ("a small blue image", SMALL), ("logo", LARGE)] * 2
    images = images_artifact(rows, per_shard=3)
    rules = (Rendezvous(folder=str(meeting)), TextJunk(), large_images.Pixels())
    selection = finished(filter.run, filter.Config(rules=rules), {"images": images})
    assert len(list(meeting.iterdir())) == 2
    assert selection.manifest.funnel.dropped == {"text_junk": 2, "pixels": 2}
    assert "figures/dropped_pixels.png" in [file.path for file in selection.files("figures/")]
    dropped = read_table(selection.store, "data/dropped-00001.parquet").to_pylist()
    assert [row["reason"] for row in dropped] == ["pixels", "text_junk"]


@pytest.mark.parametrize("another_shut_down", [False, True])
def test_a_rule_of_a_recipe_file_runs_on_workers(
    another_shut_down, ray_cluster, images_artifact, finished, monkeypatch
):
    if another_shut_down:  # which is what a ray.cluster_utils.Cluster of this process does when it ends
        monkeypatch.setattr("ray.experimental.internal_kv.global_gcs_client", None)
    config = load(large_images.__file__).build(["seeds=http://a.example/"])["filter"].config
    assert user.is_user_module(type(config.rules[-1]).__module__)
    user.publish()
    images = images_artifact([("a large red image", LARGE), ("a small blue image", SMALL)])
    selection = finished(filter.run, config, {"images": images})
    assert selection.manifest.funnel.dropped == {"pixels": 1}


# --- columns


@pytest.fixture
def scored(images_artifact):
    """Images of a list that has columns of its own."""
    day = datetime.date(2026, 1, 2)
    rows = [(f"image number {n}", LARGE, {"similarity": n / 10, "taken": day}) for n in range(8)]
    return images_artifact(rows, per_shard=4, extra=EXTRA)


def kept(artifact) -> pa.Table:
    files = artifact.files("data/kept-", ".parquet")
    return pa.concat_tables([read_table(artifact.store, file.path) for file in files])


def test_columns_of_the_list_are_asked_about_and_survive_to_the_shards(ray_cluster, scored, finished):
    images = {"images": scored}
    first = finished(filter.run, filter.Config(rules=(Above(min=0.2), Above(column="similarity", min=0.3))), images)
    assert first.manifest.funnel.dropped == {"above": 3}
    own = ["language", "context", "opt_out", "similarity", "taken"]
    assert kept(first).column_names == [*SELECTION_COLUMNS, *own, "caption_language"]

    # a second filter judges only what the first kept
    rules = (Above(min=0.5), TakenIn(year=2026))
    second = finished(filter.run, filter.Config(rules=rules), {**images, "selection": first})
    assert (second.manifest.funnel.entered, second.manifest.funnel.kept) == (5, 3)
    assert kept(second).column_names == kept(first).column_names

    unique = finished(dedup.run, dedup.Config(near=False), {**images, "selection": second})
    even = finished(balance.run, balance.Config(metadata=("image",)), {"selection": unique})
    shards = finished(shard.run, shard.Config(holdout_fraction=0), {**images, "selection": even})
    with shards.store.open("data/train/00000.tar") as tar:
        known = [json.loads(sample["json"]) for sample in read_samples(tar)]
    assert [(row["similarity"], row["taken"], len(row["phash"])) for row in known] == [(0.5, "2026-01-02", 16)]


def test_a_column_that_is_not_there_is_named_with_those_that_are(ray_cluster, scored, finished):
    with pytest.raises(DataError, match="rule 'above' needs the column 'similarty'") as caught:
        finished(filter.run, filter.Config(rules=(Above(column="similarty"),)), {"images": scored})
    assert "similarity" in caught.value.found
    selection = finished(filter.run, filter.Config(rules=()), {"images": scored})
    with pytest.raises(DataError, match="needs the column 'similarty'"):
        both = {"images": scored, "selection": selection}
        finished(filter.run, filter.Config(rules=(Above(column="similarty"),)), both)


# --- rules that are wrong

ROWS = pa.table({"caption": ["one", "two", "three"], "url": ["u"] * 3})


def test_a_rule_is_not_called_when_no_rows_are_left():
    assert judge(ROWS, [Answer(answer="none"), Answer(answer="raise")]) == ["answer"] * 3
    with pytest.raises(DataError, match="needs the column"):
        judge(ROWS, [Answer(answer="none"), Above()])


def test_null_counts_as_no():
    assert judge(ROWS, [Answer(answer="nulls")]) == [None, "answer", "answer"]


@pytest.mark.parametrize(
    ("answer", "words", "found"),
    [
        ("raise", "rule 'answer' failed", "ValueError: no idea (user_rules.py:"),
        ("undeclared", "rule 'answer' failed", "KeyError"),
        ("short", "rule 'answer' did not return one boolean per row", "shape (2,)"),
        ("texts", "rule 'answer' did not return one boolean per row", "shape (3,)"),
    ],
)
def test_a_rule_that_is_wrong_is_named(answer, words, found):
    with pytest.raises(DataError, match=words) as caught:
        judge(ROWS, [Answer(answer=answer)])
    assert found in caught.value.found


@pytest.mark.parametrize("count", [2, 3, 100, 1000])
@pytest.mark.parametrize("bad", [{0}, {1}, {0, 1}, set(range(5, 15)), {1, 50, 999}])
def test_a_row_that_a_rule_fails_at_costs_itself(count, bad):
    bad = {row for row in bad if row < count}
    rows = pa.table({"caption": ["bad" if row in bad else f"{row % 2}" for row in range(count)]})
    errors: list[str] = []
    if len(bad) == count:
        with pytest.raises(DataError, match="rule 'touchy' failed"):
            judge(rows, [Touchy()], errors)
        return
    expected = ["unforeseen_error" if row in bad else None if row % 2 else "touchy" for row in range(count)]
    assert judge(rows, [Touchy()], errors) == expected
    assert errors == ["ValueError in keeps"] * len(bad)


def test_a_rule_that_fails_at_most_rows_is_broken():
    """And that is known after a few of them."""
    rows = pa.table({"caption": ["bad"] * 9000 + ["1"] * 1000})
    with pytest.raises(DataError, match="rule 'touchy' failed"):
        judge(rows, [Touchy()])


def test_a_rule_names_its_columns_and_a_reason_that_can_name_a_figure():
    with pytest.raises(TypeError, match="must name the columns it reads"):

        class Blind(Rule):
            def keeps(self, rows): ...

    with pytest.raises(TypeError, match="must name the columns it reads"):

        class Text(Rule):
            columns = "caption"

            def keeps(self, rows): ...

    with pytest.raises(TypeError, match="lower-case"):

        class Odd(Rule):
            columns = ("caption",)
            reason = "not/good"

            def keeps(self, rows): ...


# --- inputs


def stage(config=None, **inputs) -> Stage:
    return Stage("filter", filter.run, config or filter.Config(rules=(ImageSide(),)), inputs)


@pytest.fixture
def images():
    retry = Stage("first", download.run, download.Config(retry=["timeout"]), {"images": SOURCE})
    return Stage("retry", download.run, download.Config(retry=["timeout"]), {"images": SOURCE, "images_retry": retry})


class _Source(StageConfig):
    """Something that gives pairs, images and a selection."""

    inputs: ClassVar = {}
    produces = ("pairs", "images", "selection")


SOURCE = Stage("source", filter.run, _Source())


def test_inputs_are_checked_when_a_stage_is_made(images):
    stage(images=images, images_more=images, selection=stage(images=images))
    for given in ({"image": images}, {}, {"select": images}, {"images": images, "select": images}):
        with pytest.raises(UsageError, match=r"takes no input|takes either"):
            stage(**given)
    with pytest.raises(UsageError) as caught:
        stage(image=images)
    assert caught.value.fix == "did you mean 'images'?"
    with pytest.raises(UsageError, match="must hold images"):
        stage(images=stage(images=images))


@pytest.mark.parametrize(
    ("retry", "inputs", "words"),
    [
        ((), ("pairs", "images"), "either pairs or earlier images"),
        ((), (), "either pairs or earlier images"),
        ((), ("images",), "for a retry"),
        (("timeout",), ("pairs",), "rows from earlier downloads"),
    ],
)
def test_a_download_takes_pairs_or_images_to_retry(retry, inputs, words):
    with pytest.raises(UsageError, match=words):
        Stage("download", download.run, download.Config(retry=retry), dict.fromkeys(inputs, SOURCE))
    Stage("download", download.run, download.Config(), {"pairs": SOURCE})
