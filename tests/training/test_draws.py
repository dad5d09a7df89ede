"""Draws by position: the same however the samples are split, and different for every other key, stream and position."""

import numpy as np
import pytest

from training.draws import uniform


@pytest.mark.parametrize("width", [1, 4, 37])
def test_a_sample_draws_the_same_in_every_split(width):
    whole = uniform((7, 1), 2, 1000, 64, width)
    assert whole.shape == (64, width)
    parts = [uniform((7, 1), 2, 1000 + 16 * part, 16, width) for part in range(4)]
    assert (np.concatenate(parts) == whole).all()
    assert ((whole >= 0) & (whole < 1)).all()


def test_keys_streams_and_positions_draw_independently():
    base = uniform((7, 1), 2, 1000, 64, 32)
    for other in (
        uniform((8, 1), 2, 1000, 64, 32),
        uniform((7, 2), 2, 1000, 64, 32),
        uniform((7, 1), 3, 1000, 64, 32),
        uniform((7, 1), 2, 1064, 64, 32),
    ):
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.1


def test_the_numbers_are_fixed():
    """Another numpy must give the same runs."""
    assert uniform((0, 0), 0, 0, 1, 3).tolist() == [[0.011546754286331562, 0.24154919656271812, 0.11142585551493822]]
    generator = np.random.Generator(np.random.Philox(key=3, counter=[5 * 8, 1, 0, 0]))
    assert (uniform((3, 0), 1, 5, 2, 32) == generator.random((2, 32))).all()
