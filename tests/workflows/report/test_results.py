"""The axes that metrics stand on in the report."""

import pytest

from workflows.report.results import Metric, _axis


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
