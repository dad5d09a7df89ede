"""Evaluations of real (random) models compared by the stage and by the command."""

import json
from dataclasses import replace

import evaluation_samples as samples
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from evaluation import compare, evaluate
from evaluation.compare.comparison import compare as compare_evaluations
from evaluation.compare.config import RESAMPLED
from evaluation.compare.evaluations import check_paired, read_evaluation
from evaluation.compare.result import Comparison
from evaluation.tasks import Retrieval, ZeroShot
from infra.config import digest
from infra.errors import ConfigError, DataError, UsageError
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact

pytestmark = pytest.mark.long  # resamples

SEEN, HOLDOUT = ZeroShot(dataset="seen"), Retrieval(dataset="holdout")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def evaluated(root):
    """``make(number, task, **options)``: the evaluation of the random model of that number, below ``root``."""
    sets = {
        "seen": samples.write_artifact(root / "sets/seen", samples.classification_files()),
        "holdout": samples.write_artifact(root / "sets/holdout", samples.retrieval_files()),
    }
    known = {}

    def in_this_process(context, shards, work, limits):
        return [work(spec, ShardOutput(context.store, name)) for name, spec in shards]

    def make(number, task, **options) -> Artifact:
        config = evaluate.Config(task=task, **options)
        identity = {"config": config.identity(), "inputs": {"model": str(number), "dataset": task.dataset}}
        name = digest(identity)
        if name not in known:
            model = samples.write_artifact(
                root / f"models/{number}", samples.model_files(number), stage="train", name=digest(number)
            )
            vectors = root / f"embedded/{task.dataset}-{number}"
            embedded = Artifact.find(str(vectors)) or samples.embed_here(
                vectors, model, sets[task.dataset], task.dataset
            )
            context = Context(
                root / f"artifacts/evaluate/{name[:16]}",
                stage="evaluate",
                digest=name,
                identity=identity,
                config=config.resolved(),
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(evaluate.stage, "run_shards", in_this_process)
                manifest = evaluate.run(
                    config, {"embeddings": embedded, "dataset": sets[task.dataset], "model": model}, context
                )
            context.store.write("manifest.json", manifest.to_bytes())
            known[name] = Artifact(context.store, manifest)
        return known[name]

    return make


def test_an_evaluation_keeps_its_metrics_on_every_resample(evaluated):
    artifact = evaluated(0, SEEN)
    with artifact.store.open(RESAMPLED) as source:
        table = pq.read_table(source)
    assert table.num_rows == 1000 and table.column_names == ["acc1", "acc5", "mean_per_class_recall", "ece"]
    accuracy = artifact.manifest.metrics["acc1"]
    assert table["acc1"].to_numpy().mean() == pytest.approx(accuracy, abs=0.02)
    assert table["acc1"].to_numpy().std() == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 24), rel=0.1)


def test_the_stage_compares_all_tasks_and_says_how_many_differ(evaluated, tmp_path):
    inputs = {
        **{f"scores_a{seed}": evaluated(seed, SEEN) for seed in (0, 1)},
        **{f"scores_b{seed}": evaluated(seed, SEEN) for seed in (2, 3)},
        "scores_a_texts": evaluated(0, HOLDOUT),
        "scores_b_texts": evaluated(2, HOLDOUT),
    }
    variants = {"a": ("scores_a0", "scores_a1", "scores_a_texts"), "b": ("scores_b2", "scores_b3", "scores_b_texts")}
    context = Context(tmp_path / "out")
    manifest = compare.run(compare.Config(variants=variants), inputs, context)
    found = json.loads(context.store.read("data/comparison.json"))
    rows = {(row["task"], row["metric"]): row for row in found["differences"]}
    assert len(rows) == 4 + 11
    expected = np.mean([inputs[f"scores_b{seed}"].manifest.metrics["acc1"] for seed in (2, 3)]) - np.mean(
        [inputs[f"scores_a{seed}"].manifest.metrics["acc1"] for seed in (0, 1)]
    )
    row = rows["seen classification", "acc1"]
    assert row["difference"] == pytest.approx(expected)
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["seed_error"] > 0 == rows["holdout retrieval", "mean_recall@1"]["seed_error"]
    assert manifest.metrics["b.seen_classification.acc1"] == row["difference"]
    assert manifest.facts["verdict"] == found["verdict"]
    assert "of 2 differences from a in acc1, mean_recall@1 are not separated from 0" in found["verdict"]
    lower = {metric for (_, metric), row in rows.items() if row["lower_is_better"]}
    assert lower == {"ece", "image_retrieval_median_rank", "text_retrieval_median_rank"}
    for row in rows.values():
        assert row["better"] == (row["difference"] != 0 and (row["difference"] < 0) == row["lower_is_better"])
    assert found["notes"][0].startswith("13 secondary differences")
    assert {key for key, row in rows.items() if row["primary"]} == {
        ("seen classification", "acc1"),
        ("holdout retrieval", "mean_recall@1"),
    }
    secondary = rows["seen classification", "acc5"]
    assert secondary["p"] == secondary["p_alone"] and not secondary["separated"]
    assert context.store.read("figures/comparison.png").startswith(b"\x89PNG")


def test_a_model_and_itself_differ_in_nothing(evaluated):
    one = read_evaluation(evaluated(0, SEEN))
    found = compare_evaluations({"one": [one], "same": [one]})
    assert not any(row.separated or row.difference.value for row in found.rows)
    assert found.verdict == "1 of 1 differences from one in acc1 are not separated from 0"
    assert "one seed of one, same" in found.notes[1]


def test_of_ranks_and_errors_less_is_better(evaluated):
    one, other = read_evaluation(evaluated(0, SEEN)), read_evaluation(evaluated(1, SEEN))
    least, most = one.values["ece"] * np.ones(1), np.array([one.values["ece"] + 0.5])
    low = replace(one, values={"ece": float(least[0])}, resampled={"ece": np.full(400, least[0])})
    high = replace(other, values={"ece": float(most[0])}, resampled={"ece": np.full(400, most[0])})
    for first, second, word in ((low, high, "worse"), (high, low, "better")):
        found = compare_evaluations({"a": [first], "b": [second]}, primary=["ece"])
        (row,) = found.rows
        assert row.title == "seen classification: ece (less is better)"
        assert row.said.startswith(f"separated, {word}")
        said = "1 better, 0 worse" if word == "better" else "0 better, 1 worse"
        assert found.verdict == f"all 1 differences from a in ece are separated from 0: {said}"
    assert any(note.startswith("ece: equal on every resample") for note in found.notes)


def test_the_primary_metrics_are_named(evaluated):
    both = [[read_evaluation(evaluated(number, task)) for task in (SEEN, HOLDOUT)] for number in (0, 1)]
    pair = dict(zip("ab", both, strict=True))

    def chosen(*primary):
        return [(row.task, row.metric) for row in compare_evaluations(pair, primary=primary).primary]

    seen, holdout = "seen classification", "holdout retrieval"
    assert len(chosen("*")) == 15
    assert chosen("text_*@1", "acc5") == [(seen, "acc5"), (holdout, "text_retrieval_recall@1")]
    # of a task that has none of them, the first it gives
    assert chosen("mean_recall@10") == [(seen, "acc1"), (holdout, "mean_recall@10")]
    assert chosen("*_recall_at_10") == chosen("*_recall@10")
    with pytest.raises(UsageError, match="did you mean 'acc1'"):
        chosen("acc11", "mean_recall@10")


def test_only_the_primary_metrics_are_corrected_for(evaluated):
    pair = {name: [read_evaluation(evaluated(number, HOLDOUT))] for name, number in (("a", 0), ("b", 1))}
    for row in compare_evaluations(pair, primary=["*recall@10"]).rows:
        assert row.primary == row.metric.endswith("@10")
        assert row.difference.p <= row.p <= 3 * row.difference.p
        assert row.p == row.difference.p or row.primary


def test_a_field_that_a_task_did_not_have_yet_makes_it_no_other_task(evaluated):
    """An evaluation of before ``recall_at`` was a field had its default."""
    new, old = evaluated(0, HOLDOUT), evaluated(1, HOLDOUT)
    task = {name: value for name, value in old.manifest.config["task"].items() if name != "recall_at"}
    known = msgspec.structs.replace(old.manifest, config={**old.manifest.config, "task": task})
    check_paired(read_evaluation(new), read_evaluation(Artifact(old.store, known)))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ((1, SEEN, {"bootstrap": 500}), "the same bootstrap"),
        ((1, SEEN, {"seed": 3}), "the same seed"),
        ((1, ZeroShot(dataset="seen", templates=("{c}",)), {}), "the same task"),
    ],
)
def test_what_cannot_be_paired_is_an_error(evaluated, other, what):
    seed, task, options = other
    pair = {"a": [read_evaluation(evaluated(0, SEEN))], "b": [read_evaluation(evaluated(seed, task, **options))]}
    with pytest.raises(DataError, match="image by image") as caught:
        compare_evaluations(pair)
    assert caught.value.expected == what


def test_what_one_model_gets_in_two_ways_is_paired_by_model(evaluated):
    """Of the models 0 to 2 with the set's prompts and 1 to 3 with others, those of both are compared, one by one."""
    prompted = ZeroShot(dataset="seen", templates=("{c}",))
    plain = [read_evaluation(evaluated(number, SEEN)) for number in (0, 1, 2)]
    other = [read_evaluation(evaluated(number, prompted)) for number in (3, 2, 1)]
    found = compare_evaluations({"plain": plain, "prompted": other})
    row = found.rows[0]
    gains = [other[2].values["acc1"] - plain[1].values["acc1"], other[1].values["acc1"] - plain[2].values["acc1"]]
    assert (row.metric, row.paired_models, found.seeds) == ("acc1", 2, {"plain": 2, "prompted": 2})
    assert row.difference.value == row.value - row.baseline == pytest.approx(np.mean(gains))
    assert row.difference.seed_error == pytest.approx(np.ptp(gains) / 2)
    assert found.verdict.endswith("; paired by model: 2 seeds")
    used = " and ".join(one.model for one in plain[1:]).replace(" and ", ", ")
    assert (
        "seen classification: plain has 3 seeds and prompted 3; only the models of both are compared: "
        f"{used}" in found.notes
    )
    assert "seen classification: plain and prompted differ in the task's templates" in found.notes
    assert found.as_dict()["differences"][0]["paired_models"] == 2
    mixed = compare_evaluations({"plain": plain, "prompted": other, "else": [read_evaluation(evaluated(3, SEEN))]})
    assert mixed.verdict.endswith("; 1 of them paired by model: 2 seeds")


def test_an_evaluation_that_two_variants_share_pairs_nothing(evaluated):
    one, shared, other = (read_evaluation(evaluated(number, SEEN)) for number in (0, 1, 2))
    found = compare_evaluations({"a": [one, shared], "b": [shared, other]})
    assert found.rows[0].difference.value == pytest.approx((other.values["acc1"] - one.values["acc1"]) / 2)
    assert not found.rows[0].paired_models and "paired" not in found.verdict


def test_one_model_is_no_two_seeds(evaluated):
    one, other = (read_evaluation(evaluated(number, SEEN)) for number in (0, 1))
    twice = compare_evaluations({"a": [one, one], "b": [other]})
    assert twice.seeds == {"a": 1, "b": 1}
    again = replace(one, name="evaluate/of-other-prompts")
    with pytest.raises(DataError, match="of one model, and cannot be two seeds"):
        compare_evaluations({"a": [one, again], "b": [other]})


def test_what_is_missing_or_too_coarse_is_told(evaluated):
    few = {"bootstrap": 10}
    every = [read_evaluation(evaluated(0, SEEN, **few)), read_evaluation(evaluated(0, HOLDOUT, **few))]
    found = compare_evaluations({"all": every, "some": [read_evaluation(evaluated(1, SEEN, **few))]})
    assert {row.task for row in found.rows} == {"seen classification"}
    assert "only one of all and some was evaluated on holdout retrieval" in found.notes
    assert "10 resamples cannot separate anything among 1 differences: set evaluate's bootstrap to 80" in found.notes
    nothing = compare_evaluations({"a": every[:1], "b": every[1:]})
    assert nothing.verdict == "no task is shared with a" and isinstance(nothing, Comparison)


def test_variants_name_each_input_once():
    with pytest.raises(UsageError, match="do not fit"):
        compare.Config(variants={"a": ("scores_a",), "b": ("scores_b",)}).check_inputs(["scores_a", "scores_c"])
    with pytest.raises(ConfigError, match="has no evaluation"):
        compare.Config(variants={"a": ("scores_a",), "b": ()})


@pytest.fixture
def clipline(root, clipline):
    def call(*words, code=0):
        done = clipline(*words, "--root", str(root), code=code)
        return done.stdout or done.stderr

    return call


def test_the_command_prints_a_line_per_difference_and_the_verdict(evaluated, clipline, tmp_path):
    names = [evaluated(seed, SEEN).manifest.name for seed in (0, 1, 2)]
    out = clipline("compare", f"few={names[0]},{names[1]}", f"one={names[2]}", "--figure", str(tmp_path / "x.png"))
    lines = out.splitlines()
    assert lines[0].split() == ["few", "variant", "difference"]
    assert [line.split(":")[0] for line in lines[1:5]] == ["seen classification"] * 4
    assert lines[-1] == "1 of 1 differences from few in acc1 are not separated from 0"
    assert "secondary" in lines[2] and "secondary" not in lines[1]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    every = clipline("compare", f"few={names[0]},{names[1]}", f"one={names[2]}", "--primary", "*")
    assert "4 of 4 differences from few in acc1, acc5, mean_per_class_recall, ece" in every
    found = json.loads(clipline("compare", names[0], names[1], "--json"))
    assert [row["variant"] for row in found["differences"]] == [names[1]] * 4
    assert "no task is shared" in clipline("compare", names[0], evaluated(0, HOLDOUT).manifest.name, code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate/x"], "one variant alone"),
        (["a=", "b=evaluate/x"], "has no runs"),
        (["a=evaluate/x", "a=evaluate/y"], "two variants are called"),
        (["evaluate/zzzz", "evaluate/yyyy"], "there is no artifact"),
        (["run-1", "run-2"], "there are no runs"),
    ],
)
def test_a_wrong_command_is_told(evaluated, clipline, words, said):
    assert said in clipline("compare", *words, code=2)
