"""Effective robustness against numpy's own fit, and how often its intervals hold it for simulated models."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.special import expit, logit

from evaluation import robustness
from evaluation.intervals import Interval, wilson
from evaluation.robustness.lines import Expectation, effective, fit
from infra.errors import ConfigError, DataError, UsageError
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

ACCURACIES = {
    "small": (0.55, 0.43),
    "base": (0.63, 0.52),
    "large": (0.75, 0.62),
    "huge": (0.80, 0.69),
    "robust": (0.68, 0.70),
}
SHIFT = {"v2": {"standard": "imagenet1k", "shifted": "imagenetv2"}}


def score(tmp_path, dataset: str, share: float, images: int = 10_000, metric: str = "acc1") -> Artifact:
    low, high = wilson(share, images)
    metrics = {metric: share, f"{metric}_low": low, f"{metric}_high": high}
    config = {"task": {"kind": "zeroshot_classification", "dataset": dataset, "split": "test", "language": "en"}}
    return Artifact(str(tmp_path), Manifest(stage="e", digest="e" * 64, identity={}, config=config, metrics=metrics))


def carry_out(tmp_path, accuracies=ACCURACIES, shifts=SHIFT, **fields) -> tuple[Manifest, dict]:
    inputs, models = {}, {}
    for model, (standard, shifted) in accuracies.items():
        models[model] = (f"scores_{model}_1", f"scores_{model}_2")
        inputs[models[model][0]] = score(tmp_path, "imagenet1k", standard)
        inputs[models[model][1]] = score(tmp_path, "imagenetv2", shifted)
    config = robustness.Config(models=models, shifts=shifts, **fields)
    config.check_inputs(inputs)
    context = Context(tmp_path / "out", stage="robustness", digest="a" * 64, config=config.resolved())
    manifest = robustness.run(config, inputs, context)
    rows = pq.read_table(tmp_path / "out/data/robustness.parquet").to_pylist()
    with Image.open(io.BytesIO(context.store.read("figures/robustness.png"))) as image:
        assert min(image.size) > 300
    return manifest, {(row["model"], row["shift"]): row for row in rows}


def test_it_is_the_accuracy_beyond_the_line_of_the_baseline(tmp_path):
    manifest, rows = carry_out(tmp_path, baseline=("small", "base", "large", "huge"))
    x, y = (logit([ACCURACIES[name][place] for name in ("small", "base", "large", "huge")]) for place in (0, 1))
    slope, intercept = np.polyfit(x, y, 1)
    for name, (standard, shifted) in ACCURACIES.items():
        expected = shifted - expit(slope * logit(standard) + intercept)
        assert manifest.metrics[f"{name}.v2"] == pytest.approx(expected)
        assert manifest.metrics[f"{name}.v2_low"] <= expected <= manifest.metrics[f"{name}.v2_high"]
        assert rows[name, "v2"]["fitted"] == (name != "robust")
    assert manifest.metrics["robust.v2_low"] > 0.05
    assert manifest.facts["lines"]["v2"]["slope"] == pytest.approx(slope)


def test_a_line_can_be_given(tmp_path):
    line = {"slope": 0.9, "intercept": -0.4}
    manifest, rows = carry_out(tmp_path, {"only": (0.7, 0.6)}, {"v2": {**SHIFT["v2"], "line": line}})
    assert manifest.metrics["only.v2"] == pytest.approx(0.6 - expit(0.9 * logit(0.7) - 0.4))
    assert not rows["only", "v2"]["fitted"]


def test_points_of_other_models_give_the_line(tmp_path):
    """Of a CSV or a JSON file; models of the baseline are points, too."""
    x, y = zip(*(ACCURACIES[name] for name in ("small", "base", "large", "huge")), strict=True)
    rows = [{"model": name, "imagenet1k": a, "sketch": b} for name, a, b in zip("abcd", x, y, strict=True)]
    (tmp_path / "all.json").write_text(json.dumps([*rows, {"model": "e", "imagenet1k": 0.5}]))
    lines = [f"{row['model']},{row['imagenet1k']},{row['sketch']}" for row in rows]
    (tmp_path / "all.csv").write_text("\n".join(["model,imagenet1k,sketch", *lines, "e,.5,"]))
    for file in ("all.csv", "all.json"):
        points = robustness.read_points(str(tmp_path / file), "imagenet1k", "sketch")
        assert points == tuple(zip(x, y, strict=True))
    slope, intercept = np.polyfit(logit(x), logit(y), 1)
    shifts = {"v2": {**SHIFT["v2"], "points": points}}
    manifest, rows = carry_out(tmp_path, {"robust": ACCURACIES["robust"]}, shifts)
    expected = 0.70 - expit(slope * logit(0.68) + intercept)
    assert manifest.metrics["robust.v2"] == pytest.approx(expected)
    assert manifest.metrics["robust.v2_low"] < expected < manifest.metrics["robust.v2_high"]
    assert manifest.facts["lines"]["v2"]["source"] == "fitted to 4 points and 0 models"
    assert not rows["robust", "v2"]["fitted"]

    both = {"robust": ACCURACIES["robust"], "other": (0.4, 0.3)}
    manifest, _ = carry_out(tmp_path, both, shifts, baseline=("other",))
    assert manifest.facts["lines"]["v2"]["slope"] == pytest.approx(np.polyfit(logit([*x, 0.4]), logit([*y, 0.3]), 1)[0])


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.csv", "imagenet1k,v2\n55,43\n", "row 1 of .* has no accuracy"),
    ("a.csv", "model,top1\na,.5\n", "no model with both accuracies"),
    ("a.csv", "", "no model with both accuracies"),
    ("a.json", "{}", "no row for each model"),
    ("a.json", "[1", "cannot be read"),
    ("a.json", '[{"imagenet1k": true, "v2": [1]}]', "row 1 of .* has no accuracy"),
])  # fmt: skip
def test_files_without_points_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        robustness.read_points(str(tmp_path / name), "imagenet1k", "v2")
    with pytest.raises(UsageError, match="there is no file"):
        robustness.read_points(str(tmp_path / "none"), "imagenet1k", "v2")


def test_without_a_line_as_much_is_expected_and_it_says_so(tmp_path, caplog):
    manifest, _ = carry_out(tmp_path, {"only": (0.7, 0.6)})
    assert manifest.metrics["only.v2"] == pytest.approx(-0.1)
    assert manifest.facts["lines"]["v2"]["source"] == "y = x" and "(y = x)" in caplog.text


def test_accuracies_of_the_same_images_are_paired(tmp_path):
    """The interval is the quantiles of the difference on the evaluation's own resamples, not of two test sets."""
    random = np.random.default_rng(0)
    clean = random.random(400) < 0.7
    broken = clean & (random.random(400) < 0.9)
    drawn = random.integers(0, 400, (300, 400))
    context = Context(tmp_path / "scores", stage="evaluate", digest="e" * 64)
    columns = {"acc1": clean[drawn].mean(axis=1), "acc1_corrupted": broken[drawn].mean(axis=1)}
    context.output.write_table("data/resampled.parquet", pa.table(columns))
    metrics = {}
    for name, right in {"acc1": clean, "acc1_corrupted": broken}.items():
        low, high = wilson(right.mean(), 400)
        metrics |= {name: right.mean(), f"{name}_low": low, f"{name}_high": high}
    config = {"task": {"kind": "zeroshot_corrupted", "dataset": "pets", "split": "test"}}
    manifest = Manifest(
        stage="e", digest="e" * 64, identity={}, files=context.output.files, config=config, metrics=metrics
    )
    shift = {"standard": "pets", "shifted": "pets", "shifted_metric": "acc1_corrupted"}
    line = {"slope": 0.9, "intercept": -0.1}
    config = robustness.Config(models={"mine": ("scores",)}, shifts={"noise": {**shift, "line": line}})
    output = Context(tmp_path / "out", stage="robustness", digest="a" * 64, config=config.resolved())
    found = robustness.run(config, {"scores": Artifact(context.store, manifest)}, output).metrics
    draws = columns["acc1_corrupted"] - expit(0.9 * logit(columns["acc1"]) - 0.1)
    bounds = found["mine.noise_low"], found["mine.noise_high"]
    assert bounds == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    apart = effective(*(Interval(*(metrics[f"{name}{end}"] for end in ("", "_low", "_high"))) for name in columns),
                      Expectation(0.9, -0.1), 0.95)  # fmt: skip
    assert bounds[1] - bounds[0] < 0.6 * (apart.high - apart.low)


def test_what_is_missing_is_told_and_what_is_level_has_a_logit(tmp_path):
    shifts = {**SHIFT, "r": {"standard": "imagenet1k", "shifted": "imagenet1k", "shifted_metric": "acc5"}}
    with pytest.raises(DataError, match="no model has both sets of shift 'r'") as caught:
        carry_out(tmp_path, shifts=shifts)
    assert caught.value.found == "no acc5 of imagenet1k"
    manifest, _ = carry_out(tmp_path, {**ACCURACIES, "wrong": (0.001, 0.0), "right": (0.999, 1.0)})
    assert all(np.isfinite(value) for value in manifest.metrics.values())


def test_what_cannot_be_fitted_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no line can be fitted to shift 'v2'"):
        carry_out(tmp_path, {name: ACCURACIES[name] for name in ("small", "base")}, baseline=("small", "base"))
    with pytest.raises(DataError, match="no line can be fitted to shift 'v2'"):
        carry_out(tmp_path, shifts={"v2": {**SHIFT["v2"], "points": [(0.5, 0.4), (0.6, 0.5)]}})
    with pytest.raises(ConfigError, match="shares between 0 and 1, not 55"):
        robustness.Shift(**SHIFT["v2"], points=[(55, 43)])
    with pytest.raises(ConfigError, match="a line and points"):
        robustness.Shift(**SHIFT["v2"], points=[(0.5, 0.4)], line={"slope": 1, "intercept": 0})
    with pytest.raises(DataError, match="no line"):
        carry_out(tmp_path, dict.fromkeys("abc", (0.5, 0.4)))
    with pytest.raises(ConfigError, match="not among models: b"):
        robustness.Config(models={"a": ("scores",)}, shifts=SHIFT, baseline=("b",))
    with pytest.raises(UsageError, match="do not fit"):
        robustness.Config(models={"a": ("scores_a",)}, shifts=SHIFT).check_inputs(["scores_b"])


@pytest.mark.long
@pytest.mark.parametrize(("models", "images"), [(6, 2000), (20, 500)])
def test_its_interval_holds_the_truth_of_a_model_beside_the_baseline(models, images):
    """Baseline models scatter around a line; the model has .05 more than it says."""
    random, held, draws = np.random.default_rng(0), 0, 600
    truth = expit(0.9 * logit(0.7) - 0.5) + 0.05

    def measured(share: float) -> Interval:
        value = random.binomial(images, share) / images
        return Interval(value, *wilson(value, images))

    for _ in range(draws):
        true = random.uniform(-0.5, 2, models)
        base = [(expit(x), expit(0.9 * x - 0.5 + random.normal(0, 0.1))) for x in true]
        pairs = [(measured(one).value, measured(other).value) for one, other in base]
        line = fit(*zip(*pairs, strict=True), "x")
        found = effective(measured(0.7), measured(truth), line, 0.95)
        held += found.low <= 0.05 <= found.high
    assert 0.93 <= held / draws <= 0.98
