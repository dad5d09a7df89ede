"""Names, durations, sizes and numbers as a reader expects them."""

from __future__ import annotations

import pytest

from workflows.report import text


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("dropped_text_junk", "dropped: text junk"),
        ("dropped-image_side", "dropped: image side"),
        ("kept", "kept"),
        ("image_retrieval_recall@1", "image recall@1"),
        ("acc1", "top-1 accuracy"),
    ],
)
def test_labels(name, label):
    assert text.label(name) == label


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3725, "1 h 02 min")]
)
def test_durations(seconds, shown):
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(None, "–"), (0, "0 bytes"), (999, "999 bytes"), (12_345, "12.3 kB"), (7 * 10**13, "70 TB")]
)
def test_sizes(count, shown):
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(12345, "12,345"), (0.73456, "0.735"), (5e-4, "5.0e-04"), (1234.5, "1,234"), (0, "0")]
)
def test_numbers(value, shown):
    assert text.number(value) == shown
