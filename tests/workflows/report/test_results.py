"""Results as the report shows them, and the axes that their metrics stand on."""

import pyarrow as pa
import pytest

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from workflows.report.results import Metric, _axis, results
from workflows.report.view import StageView


@pytest.mark.parametrize(
    ("ends", "shown", "axis"),
    [
        ((0.0, 1.0), [0.5, 0.4, 0.6], (0, 1)),
        ((0.0, 1.0), [1.0, None, None], (0, 1)),
        ((1.0, None), [10.0, 9.0, 12.0], (1, 21)),  # a median rank
        ((1.0, None), [1.0, 1.0, 1.0], (1, 2)),
        ((1.0, None), [3400.5, 2900.0, 4800.0], (1, 5001)),
        ((0.0, 1.0), [1.7, 1.2, 2.2], (0, 5)),  # of a metric that does not say what it can be
        ((0.0, 1.0), [-0.2, -0.3, 0.1], (-0.3, 1.7)),
    ],
)
def test_an_axis_holds_all_that_is_shown_and_begins_where_the_metric_does(ends, shown, axis):
    low, high = _axis(ends, shown)
    if axis[0] >= 0:
        assert (low, high) == axis
    assert all(low <= value <= high for value in shown if value is not None)
    metric = Metric("m", *shown, axis=(low, high))
    assert 0 <= metric.place(metric.value) <= 100


def test_the_best_rank_stands_at_the_beginning():
    assert Metric("rank", 1.0, 1.0, 1.0, _axis((1.0, None), [1.0, 1.0, 1.0])).place(1.0) == 0


def test_effective_robustness_stands_among_the_results(tmp_path):
    output = Context(tmp_path).output
    row = {"model": "mine", "shift": "v2", "fitted": False, "expected": 0.5}
    for name, value in {"standard": 0.7, "shifted": 0.4, "effective_robustness": -0.1}.items():
        row |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
    output.write_table("data/robustness.parquet", pa.Table.from_pylist([row]))
    manifest = Manifest(stage="r", digest="a" * 64, identity={}, files=output.files, config={"confidence": 0.9})
    (found,) = results(StageView("r", manifest, Artifact(output.store, manifest), 1.0, 1, "done"))
    assert (found.dataset, found.task, found.model, found.confidence) == ("v2", "effective robustness", "mine", 0.9)
    assert [metric.value for metric in found.metrics] == [0.7, 0.4, 0.5, -0.1]
    beyond = found.metrics[-1]
    assert (beyond.low, beyond.high, beyond.axis) == (pytest.approx(-0.15), pytest.approx(-0.05), (-1, 1))
