"""Rows of one URL, and images under one caption: dedup's choices of what is equal, against plain Python."""

import numpy as np
import pytest
from deduplicated import decided

from pipelines.curate.dedup import Config, duplicates
from pipelines.curate.dedup.keys import MOST

pytestmark = pytest.mark.long  # runs the stage again and again

ROWS = 120


@pytest.fixture
def rows(monkeypatch):
    """Files at several URLs, URLs that served several files, captions that differ in case only."""
    monkeypatch.setattr(duplicates, "_ROWS", 25)
    monkeypatch.setattr(duplicates, "_KEYS", 25 * MOST)
    rng = np.random.default_rng(5)
    image = rng.integers(0, 12, ROWS)
    file = image * 4 + rng.integers(0, 4, ROWS)
    return {
        "sha256": [f"{number}" for number in file],
        "url": [f"http://a.example/{number}" for number in rng.integers(0, 60, ROWS)],
        "caption": [["a cat", "A Cat", "a dog", None][kind] for kind in rng.integers(0, 4, ROWS)],
        "original_width": rng.integers(1, 4, ROWS).tolist(),
    }, image


def keep_best(rows, left, key):
    """For each of the rows ``left`` the one that stays among those with the same key."""
    best = {}
    for n in sorted(left, key=lambda n: (-rows["original_width"][n], n)):
        best.setdefault(key(n), n)
    return {n: best[key(n)] for n in left}


def expected(rows, keys):
    """Reasons, and what stays instead, if rows of one key are duplicates, one kind of key after the other."""
    originals, reasons = list(range(ROWS)), [None] * ROWS
    for reason, key in keys.items():
        for n, stays in keep_best(rows, [n for n in range(ROWS) if reasons[n] is None], key).items():
            if n != stays:
                originals[n], reasons[n] = stays, reason
    for n in range(ROWS):
        while originals[originals[n]] != originals[n]:
            originals[n] = originals[originals[n]]
    return reasons, originals


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("same_caption", [False, True])
@pytest.mark.parametrize("urls", [False, True])
def test_what_counts_as_equal(tmp_path, rows, urls, same_caption, near):
    rows, image = rows
    caption = [(text or "").casefold() if same_caption else "" for text in rows["caption"]]
    keys = {"duplicate_url": lambda n: (rows["url"][n], caption[n])} if urls else {}
    keys["duplicate_bytes"] = lambda n: (rows["sha256"][n], caption[n])
    if near:
        keys["near_duplicate"] = lambda n: (image[n], caption[n])
    hashes = np.array([0x9E3779B97F4A7C15 * (int(one) + 1) % 2**64 for one in image], np.uint64)
    config = Config(urls=urls, same_caption=same_caption, near=near, placeholder_names=0)
    reasons, originals, _ = decided(tmp_path, rows, hashes, np.zeros(ROWS, int), config)
    assert (reasons, originals) == expected(rows, keys)
    assert {"duplicate_bytes", *keys} <= set(reasons)


def test_a_url_of_a_placeholder_leads_to_no_picture(tmp_path):
    """The duplicate by URL goes for a row that goes itself, as a placeholder: so does it."""
    rows = {
        "sha256": ["p"] * 9 + ["q"],
        "url": [*(f"http://a.example/{n}.jpg" for n in range(9)), "http://a.example/0.jpg"],
    }
    for drop in (True, False):
        config = Config(urls=True, near=False, drop=drop)
        reasons, originals, _ = decided(tmp_path / f"{drop}", rows, np.zeros(10), np.zeros(10, int), config)
        assert reasons == ["placeholder_image"] * 10 and originals[9] == 0


def test_what_cannot_be_read_stands_for_no_url(tmp_path):
    rows = {"sha256": [None, "a", "b"], "url": ["http://a.example/1"] * 3, "original_width": [9, 1, 2]}
    reasons = ["decode_failed", None, None]
    found = decided(tmp_path, rows, np.zeros(3), np.zeros(3, int), Config(urls=True, near=False), reasons)
    assert found[:2] == (["decode_failed", "duplicate_url", None], [0, 2, 2])
