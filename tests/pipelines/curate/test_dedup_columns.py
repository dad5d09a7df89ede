"""Who stays of images that are one, the cluster of each row, and whose captions are pooled: against plain Python."""

import io
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from deduplicated import decided, tables
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.errors import DataError
from infra.formats.shards import read_samples
from infra.run.context import Context
from pipelines.curate import filter as filtering
from pipelines.curate import shard
from pipelines.curate.dedup import Config, run
from pipelines.curate.dedup.preference import scores
from training.data.index import captions_of

pytestmark = pytest.mark.long  # runs the stage again and again

ROWS = 90


@pytest.fixture(scope="module")
def rows():
    """Twenty images, each in several files, and under captions of which some are equal, blank or none."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 20, ROWS)
    file = image * 3 + rng.integers(0, 3, ROWS)
    captions = [
        None if n % 17 == 0 else "  " if n % 13 == 0 else f"{'ab'[n % 2]} {image[n]} {n % 5}" for n in range(ROWS)
    ]
    score = [None if n % 11 == 0 else math.nan if n % 19 == 0 else float(rng.normal()) for n in range(ROWS)]
    columns = {
        "sha256": [f"{number}" for number in file],
        "original_width": rng.integers(1, 5, ROWS).tolist(),
        "caption": captions,
        "caption_language": [None if n % 7 == 0 else "ab"[n % 2] for n in range(ROWS)],
        "clip_score": score,
    }
    hashes = np.array([0x9E3779B97F4A7C15 * (int(one) + 1) % 2**64 for one in image], np.uint64)
    return columns, hashes


def found(folder, rows, config):
    columns, hashes = rows
    _, originals, facts = decided(folder, columns, hashes, np.zeros(len(hashes), int), config)
    context = Context(folder / "dedup")
    kept = {int(row["uid"], 16): row for row in tables(context, "kept")}
    dropped = {int(row["uid"], 16): row for row in tables(context, "dropped")}
    return originals, kept, dropped, facts


def members(originals, stays, rank):
    """The rows of the cluster of ``stays``, the most preferred first."""
    return sorted((n for n, original in enumerate(originals) if original == stays), key=lambda n: (-rank(n), n))


def number(value):
    return -math.inf if value is None or math.isnan(value) else value


RANKS = {
    "largest": lambda columns: lambda n: columns["original_width"][n],
    "best": lambda columns: lambda n: number(columns["clip_score"][n]),
    "earliest": lambda columns: lambda n: 0,
}


@pytest.mark.parametrize("stays", sorted(RANKS))
def test_who_stays(small_dedup, tmp_path, rows, stays):
    rank = RANKS[stays](rows[0])
    originals, kept, dropped, _ = found(tmp_path, rows, Config(stays=stays))
    assert len(kept) == 20 and len(dropped) == ROWS - 20
    for one in kept:
        assert members(originals, one, rank)[0] == one
    clusters = {n: int(row["cluster"], 16) for n, row in (kept | dropped).items()}
    assert [clusters[n] for n in range(ROWS)] == originals


@given(st.lists(st.floats(width=32) | st.none(), min_size=1, max_size=20))
def test_scores_are_in_the_order_of_numbers(values):
    ranked = scores(pa.table({"x": pa.array(values, pa.float32())}), "x")
    for one, first in zip(values, ranked, strict=True):
        for other, second in zip(values, ranked, strict=True):
            known = one is not None and not math.isnan(one)
            less = (other is not None and not math.isnan(other)) and (not known or one < other)
            assert (first < second) == less


def test_without_the_column_nothing_is_guessed(tmp_path, rows):
    columns = {name: values for name, values in rows[0].items() if name != "clip_score"}
    with pytest.raises(DataError, match="no column 'clip_score'"):
        found(tmp_path / "none", (columns, rows[1]), Config(stays="best"))
    with pytest.raises(DataError, match="is not one of numbers"):
        found(tmp_path / "text", rows, Config(captions="best", score="caption"))


def says(caption):
    return bool(caption and caption.strip())


def pooled(columns, order, kind):
    """What a row that stays should have of the captions of ``order``."""
    texts = [
        (columns["caption"][n], columns["caption_language"][n]) for n in order if (columns["caption"][n] or "").strip()
    ]
    if kind == "all":
        return list(dict.fromkeys(text for text, _ in texts))
    first = {}
    for text, language in texts:
        first.setdefault(language, text)
    return list(first.values())


@pytest.mark.parametrize("stays", ["largest", "best"])
@pytest.mark.parametrize("kind", ["all", "by_language"])
def test_captions_are_pooled(small_dedup, tmp_path, rows, kind, stays):
    columns = rows[0]
    originals, kept, dropped, facts = found(tmp_path, rows, Config(captions=kind, stays=stays))
    for one, row in kept.items():
        assert row["captions"] == pooled(columns, members(originals, one, RANKS[stays](columns)), kind)
        assert row["caption"] == columns["caption"][one]
    assert max(len(row["captions"]) for row in kept.values()) > (2 if kind == "all" else 1)
    assert all(row["captions"] is None for row in dropped.values())
    assert "capped_captions" not in facts


def test_the_best_caption_is_the_rows(small_dedup, tmp_path, rows):
    columns = rows[0]
    originals, kept, _, _ = found(tmp_path, rows, Config(captions="best"))
    changed = 0
    for one, row in kept.items():
        own = RANKS["largest"](columns)
        order = [n for n in members(originals, one, own) if says(columns["caption"][n])]
        best = max(order, key=lambda n: number(columns["clip_score"][n]))
        assert row["caption"] == columns["caption"][best] and "captions" not in row
        changed += best != one
    assert changed > 5


def test_too_many_captions_are_cut_and_counted(small_dedup, tmp_path, rows, caplog):
    columns = rows[0]
    originals, kept, _, facts = found(tmp_path, rows, Config(max_captions=2))
    every = {one: pooled(columns, members(originals, one, RANKS["largest"](columns)), "all") for one in kept}
    assert {one: row["captions"] for one, row in kept.items()} == {one: texts[:2] for one, texts in every.items()}
    assert facts["capped_captions"] == sum(len(texts) > 2 for texts in every.values()) > 0
    assert "max_captions=2" in caplog.text


def test_captions_that_were_pooled_before_are_pooled_again(tmp_path):
    columns = {
        "sha256": ["a", "a", "b"],
        "original_width": [2, 1, 1],
        "caption": ["one", "two", "three"],
        "captions": [["one", "another"], ["two", "one"], None],
    }
    kept = found(tmp_path, (columns, np.array([1, 1, 1 << 40], np.uint64)), Config(near=False))[1]
    assert [row["captions"] for row in kept.values()] == [["one", "another", "two"], ["three"]]


def test_a_column_of_that_name_that_is_none_of_captions_is_refused(tmp_path):
    columns = {"sha256": ["a", "a"], "captions": [1, 2]}
    with pytest.raises(DataError, match="'captions' does not hold lists of captions"):
        found(tmp_path, (columns, np.zeros(2, np.uint64)), Config())
    assert len(found(tmp_path / "own", (columns, np.zeros(2, np.uint64)), Config(captions="own"))[1]) == 1


def test_it_may_only_mark(small_dedup, tmp_path, rows):
    originals, kept, dropped, _ = found(tmp_path / "dropped", rows, Config())
    _, marked, none, _ = found(tmp_path / "marked", rows, Config(drop=False))
    assert none == {} and sorted(marked) == sorted(kept | dropped)
    assert [int(marked[n]["duplicate_of"] or f"{n:x}", 16) for n in range(ROWS)] == originals
    assert [marked[n]["caption"] for n in range(ROWS)] == rows[0]["caption"]


def test_pooled_captions_reach_training(ray_cluster, images_artifact, finished):
    def picture(seed, form):
        out = io.BytesIO()
        small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((96, 96), Image.Resampling.BICUBIC).save(out, form)
        return out.getvalue()

    texts = ["a red kite", "ein roter Milan", "un milan royal", "a lake"]
    files = [picture(1, "PNG"), picture(1, "PNG"), picture(1, "BMP"), picture(2, "PNG")]
    images = images_artifact(list(zip(texts, files, strict=True)), per_shard=3)
    selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})
    unique = finished(run, Config(), {"images": images, "selection": selection})
    assert unique.manifest.funnel.kept == 2
    inputs = {"images": images, "selection": unique}
    shards = finished(shard.run, shard.Config(samples_per_shard=2, holdout_fraction=0), inputs)
    (file,) = shards.files("data/train", ".tar")
    with shards.store.open(file.path) as source:
        samples = list(read_samples(source))
    captions = {json.loads(sample["json"])["caption"]: captions_of(sample, "json:captions") for sample in samples}
    assert captions == {"a red kite": texts[:3], "a lake": ["a lake"]}


def test_marked_and_read_only_marks_rows_with_an_image(tmp_path):
    """What cannot be read is dropped all the same: there is nothing to train on."""
    columns = {"sha256": ["a", "a", "c"]}
    reasons, originals, _ = decided(
        tmp_path, columns, np.zeros(3, np.uint64), np.zeros(3, int), Config(drop=False), [None, None, "decode_failed"]
    )
    assert reasons == [None, None, "decode_failed"] and originals[2] == 2
