"""Suites: their files, their averages with intervals, what is missing, and results for other programs."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from evaluation import suite
from evaluation.intervals import Interval, wilson
from evaluation.suite.averages import mean
from infra.errors import ConfigError, UsageError
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest


def evaluation(tmp_path, dataset: str, metrics: dict[str, tuple[float, float, float]], kind="zeroshot_classification"):
    plain = {}
    for name, (value, low, high) in metrics.items():
        key = name.replace("@", "_at_")
        plain |= {key: value, f"{key}_low": low, f"{key}_high": high}
    config = {"task": {"kind": kind, "dataset": dataset, "split": "test", "language": "en"}}
    manifest = Manifest(
        stage="e", digest="e" * 64, identity={"inputs": {"dataset": "d" * 64}}, config=config, metrics=plain
    )
    return Artifact(str(tmp_path / dataset), manifest)


def carry_out(tmp_path, given: suite.Suite, evaluations: list[Artifact]) -> Artifact:
    config = suite.Config(suite=given)
    context = Context(tmp_path / "out", stage="suite", digest="a" * 64, identity={}, config=config.resolved())
    manifest = suite.run(config, {f"scores_{i}": one for i, one in enumerate(evaluations)}, context)
    return Artifact(context.store, manifest)


def test_datacomps_suite_has_its_38_sets_and_groups():
    datacomp = suite.load_suite("datacomp")
    assert {group: len(sets) for group, sets in datacomp.groups().items()} == {
        "VTAB": 13,
        "ImageNet": 1,
        "ImageNet shifts": 6,
        "Retrieval": 3,
        "average": 38,
    }
    by_metric = {name: entry.main for name, entry in datacomp.sets.items() if entry.main != "acc1"}
    assert by_metric["vtab/pets"] == "mean_per_class_recall"
    assert by_metric["retrieval/mscoco_2014_5k_test_image_text_retrieval"] == "mean_recall@1"
    assert by_metric["wilds/fmow"] == "acc_worst_region"
    assert len(suite.load_suite("vtab_plus").sets) == 36


def test_sets_are_found_under_the_names_of_downloads():
    given = suite.load_suite("datacomp")
    there = {("wds_vtab-pets_test", "test"), ("wds_food101", "test"), ("cifar10", "train"), ("vtab/dtd", "test")}
    located = given.located(there)
    assert located == {"vtab/pets": "wds_vtab-pets_test", "food101": "wds_food101", "vtab/dtd": "vtab/dtd"}


def test_a_suite_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("sets:\n  pets: {metric: mean_per_class_recall, groups: [animals]}\n  birds:\n")
    mine = suite.load_suite(str(file))
    assert (mine.name, mine.groups()) == ("mine", {"animals": ["pets"], "average": ["pets", "birds"]})
    for text, words in (
        ("[1", "is not YAML"),
        ("a: 1", "is no suite"),
        ("sets: {a: {metrik: x}}", "no field 'metrik'"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            suite.load_suite(str(file))
    with pytest.raises(UsageError, match="there is no suite 'datacmp'"):
        suite.load_suite("datacmp")


def test_the_interval_of_an_average_holds_the_truth():
    """20 sets of 200 images, some near 0 or 1: the mean's interval over 1,000 draws."""
    random = np.random.default_rng(0)
    truth = np.concatenate([random.uniform(0.02, 0.98, 16), [0.005, 0.01, 0.99, 0.995]])
    draws = random.binomial(200, truth, (1000, len(truth)))
    inside = 0
    for row in draws:
        figures = [Interval(hits / 200, *wilson(hits / 200, 200, 0.95)) for hits in row]
        found = mean(figures)
        inside += found.low <= truth.mean() <= found.high
    assert 930 <= inside <= 970


def test_one_set_keeps_its_interval():
    found = mean([Interval(0.2, 0.1, 0.4)])
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.1, 0.4))


GIVEN = suite.Suite(
    name="mine",
    sets={
        "a": {"groups": ("Some shifts",)},
        "b/c": {"metric": "mean_per_class_recall", "groups": ("Some shifts", "rest")},
        "d": {"task": "zeroshot_retrieval", "groups": ("rest",)},
    },
)


def test_averages_say_what_they_are_of(tmp_path):
    scores = [
        evaluation(tmp_path, "a", {"acc1": (0.5, 0.4, 0.6)}),
        evaluation(tmp_path, "wds_b-c_test", {"acc1": (0.9, 0.9, 0.9), "mean_per_class_recall": (0.7, 0.6, 0.8)}),
    ]
    whole = [*scores, evaluation(tmp_path, "d", {"mean_recall@1": (0.3, 0.2, 0.4)}, kind="zeroshot_retrieval")]
    metrics = carry_out(tmp_path / "whole", GIVEN, whole).manifest.metrics
    assert metrics["average"] == pytest.approx(0.5)
    assert metrics["average_high"] == pytest.approx(0.5 + np.sqrt(3) * 0.1 / 3)
    assert (metrics["some_shifts"], metrics["rest"]) == (pytest.approx(0.6), pytest.approx(0.5))

    made = carry_out(tmp_path / "part", GIVEN, scores)
    metrics = made.manifest.metrics
    assert "average" not in metrics and "rest" not in metrics
    assert metrics["average_of_2_of_3"] == pytest.approx(0.6)
    assert metrics["rest_of_1_of_2"] == pytest.approx(0.7)
    assert made.manifest.facts["missing"] == {"d": "no zeroshot_retrieval of it"}
    table = pq.read_table(made.url("data/sets.parquet"))
    assert table["missing"].to_pylist() == ["", "", "no zeroshot_retrieval of it"]
    assert json.loads(made.read("data/suite.json"))["averages"]["average_of_2_of_3"]["missing"] == ["d"]


def test_a_task_without_the_metric_is_missing(tmp_path):
    made = carry_out(tmp_path, GIVEN, [evaluation(tmp_path, "b/c", {"acc1": (0.5, 0.4, 0.6)})])
    assert made.manifest.facts["missing"]["b/c"] == "zeroshot_classification gives no mean_per_class_recall"


def test_results_are_as_mteb_keeps_them(tmp_path):
    """By the fields of mteb.results.TaskResult and what its validator asks for."""
    scores = evaluation(tmp_path, "wds_b-c_test", {"acc1": (0.9, 0.8, 1.0), "mean_per_class_recall": (0.7, 0.6, 0.8)})
    made = carry_out(tmp_path, GIVEN, [scores])
    assert json.loads(made.read("data/mteb/b_c.json")) == {
        "dataset_revision": "d" * 40,
        "task_name": "b/c",
        "mteb_version": None,
        "scores": {
            "test": [
                {
                    "acc1": 0.9,
                    "mean_per_class_recall": 0.7,
                    "main_score": 0.7,
                    "hf_subset": "default",
                    "languages": ["eng-Latn"],
                }
            ]
        },
        "evaluation_time": None,
        "kg_co2_emissions": None,
    }
