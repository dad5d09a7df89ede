"""The hash that partitions, orders and draws."""

import pytest

from infra.hashing import hash64


def test_it_is_blake2b_of_64_bits():
    assert hash64("") == 0xE4A6A0577479B2B4
    assert hash64("é") == hash64("\u00e9") != hash64("e\u0301")


def test_it_is_uniform():
    assert sum(hash64(str(number)) / 2**64 for number in range(10_000)) / 10_000 == pytest.approx(0.5, abs=0.02)
