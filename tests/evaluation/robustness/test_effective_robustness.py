"""Effective robustness against numpy's own fit, and how often its intervals hold it for simulated models."""

from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.special import expit, logit

from evaluation import robustness
from evaluation.intervals import Interval, wilson
from evaluation.robustness.lines import effective, fit
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


def test_what_is_missing_is_told_and_what_is_level_has_a_logit(tmp_path):
    shifts = {**SHIFT, "r": {"standard": "imagenet1k", "shifted": "imagenet1k", "shifted_metric": "acc5"}}
    with pytest.raises(DataError, match="no model has both sets of shift 'r'") as caught:
        carry_out(tmp_path, shifts=shifts)
    assert caught.value.found == "no acc5 of imagenet1k"
    manifest, _ = carry_out(tmp_path, {**ACCURACIES, "wrong": (0.001, 0.0), "right": (0.999, 1.0)})
    assert all(np.isfinite(value) for value in manifest.metrics.values())


def test_what_cannot_be_fitted_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no line can be fitted to shift 'v2'"):
        carry_out(tmp_path, {name: ACCURACIES[name] for name in ("small", "base")})
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
