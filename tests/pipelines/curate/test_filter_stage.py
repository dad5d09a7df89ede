"""The filter over several shards: what it asks of the whole set, columns that travel, images without captions."""

import math
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.errors import UsageError
from infra.run.context import Context
from pipelines.curate import filter as filtering
from pipelines.curate import gallery
from pipelines.curate.filter.answers import _keys, _value
from pipelines.curate.filter.judge import rows_of as rows_of_shard
from pipelines.curate.filter.rules import (
    CaptionFrequency,
    ImageBytes,
    ImageEntropy,
    ImageSolid,
    Pii,
    Rule,
    Score,
    TextList,
    TextWords,
    UrlList,
)
from pipelines.layout import Images
from pipelines.tables import read_table
from tests.pipelines.adopting import adopted

PICTURE = Image.new("RGB", (32, 32), "red")


def rows_of(selection, part: str) -> pa.Table:
    files = selection.files(f"data/{part}-", ".parquet")
    return pa.concat_tables([read_table(selection.store, file.path) for file in files])


def filtered(finished, images, *rules: Rule, **inputs):
    return finished(filtering.run, filtering.Config(rules=rules), {"images": images, **inputs})


@pytest.fixture
def scored(images_artifact):
    """200 rows in 20 shards, so that two lots are counted, with scores of which some are missing and many equal."""
    draw = random.Random(1)
    scores = [draw.choice([None, float("nan"), -1.5, 0.25, draw.gauss(0, 1), draw.gauss(0, 1e-6)]) for _ in range(200)]
    captions = ["a red fox runs in the snow", "ein roter Fuchs läuft im Schnee", "Zzzqx"]
    rows = [(captions[row % 3], PICTURE, {"score": score}) for row, score in enumerate(scores)]
    return images_artifact(rows, per_shard=10, extra=[pa.field("score", pa.float64())])


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1])
@pytest.mark.parametrize("largest", [True, False])
def test_a_share_of_the_set_is_exact(ray_cluster, scored, finished, share, largest):
    rule = Score(column="score", **{"top" if largest else "bottom": share})
    selection = filtered(finished, scored, rule)
    kept, dropped = rows_of(selection, "kept")["score"].to_pylist(), rows_of(selection, "dropped")["score"].to_pylist()
    every = sorted((one for one in kept + dropped if one is not None and one == one), reverse=largest)
    last = every[math.ceil(share * len(every)) - 1]
    assert sorted(kept, reverse=largest) == [one for one in every if (one >= last if largest else one <= last)]
    assert selection.manifest.funnel.dropped.get("score_score", 0) == 200 - len(kept)
    assert not selection.store.paths("scratch")


def test_a_share_within_each_language(ray_cluster, scored, finished):
    selection = filtered(finished, scored, Score(column="score", top=0.2, by_language=True))
    kept, dropped = rows_of(selection, "kept"), rows_of(selection, "dropped")
    for language in ("en", "de", None):
        own = [
            [
                row["score"]
                for row in part.to_pylist()
                if row["caption_language"] == language and row["score"] is not None
            ]
            for part in (kept, dropped)
        ]
        every = sorted((one for one in own[0] + own[1] if one == one), reverse=True)
        last = every[math.ceil(len(every) / 5) - 1]
        assert sorted(own[0], reverse=True) == [one for one in every if one >= last]


def test_numbers_are_ordered_by_their_keys():
    values = np.array([-np.inf, -1e300, -2.5, -5e-324, -0.0, 0.0, 5e-324, 1.0, np.nextafter(1, 2), np.inf])
    keys = _keys(values)
    assert (np.argsort(keys, kind="stable") == np.arange(len(values))).all()
    assert keys[4] == keys[5]
    assert [_value(int(key)) for key in keys] == (values + 0.0).tolist()


def test_frequent_captions_go_wherever_they_are(ray_cluster, images_artifact, finished, monkeypatch):
    draw = random.Random(2)
    texts = [
        draw.choice(["Our Shop", "our  shop", "OUR SHOP", f"picture number {draw.randrange(12)}"]) for _ in range(90)
    ]
    images = images_artifact([(text, PICTURE) for text in texts], per_shard=5)
    count = Counter(" ".join(text.casefold().split()) for text in texts)
    expected = Counter(text for text in texts if count[" ".join(text.casefold().split())] <= 4)
    selection = filtered(finished, images, CaptionFrequency(max=4))
    assert Counter(rows_of(selection, "kept")["caption"].to_pylist()) == expected
    monkeypatch.setattr("pipelines.curate.filter.answers._PARTITION", 7)  # many partitions give the same
    again = filtered(finished, images, CaptionFrequency(max=4))
    assert again.manifest.files == selection.manifest.files


def test_a_killed_filter_goes_on_from_what_it_counted(ray_cluster, scored, finished, tmp_path):
    config = filtering.Config(rules=(Score(column="score", top=0.3), CaptionFrequency(max=100)))
    whole = finished(filtering.run, config, {"images": scored})
    asked = iter(range(10_000))
    stopped = Context(tmp_path / "killed", stopping=lambda: next(asked) > 60)
    with pytest.raises(Exception, match="asked to stop"):
        filtering.run(config, {"images": scored}, stopped)
    assert stopped.ledger.read()
    resumed = finished(filtering.run, config, {"images": scored}, folder=tmp_path / "killed")
    assert resumed.manifest == whole.manifest


def test_all_columns_travel_but_the_account_of_the_download(ray_cluster, images_artifact, finished):
    extra = [pa.field("watermark", pa.float32()), pa.field("LANGUAGE", pa.string())]
    images = images_artifact([("two red dogs", PICTURE, {"watermark": 0.5, "LANGUAGE": "en"})], extra=extra)
    kept = rows_of(filtered(finished, images, TextWords()), "kept").to_pylist()[0]
    assert (kept["watermark"], kept["LANGUAGE"], kept["caption_language"]) == (0.5, "en", "en")
    assert not {"status", "error_message", "reason", "exif"} & set(kept)


def without_captions(images):
    """The images with tables that have no column of captions."""
    for path in images.store.paths("data"):
        if path.endswith(".parquet"):
            table = read_table(images.store, path).drop_columns(["caption", "uid"])
            with images.store.publish(path) as sink:
                pa.parquet.write_table(table, sink)
    return images


def test_images_without_captions(ray_cluster, images_artifact, finished):
    images = without_captions(images_artifact([("gone", PICTURE), ("gone, too", PICTURE)], per_shard=1))
    selection = filtered(finished, images, ImageBytes(min=0), ImageSolid(max=1.0))
    assert selection.manifest.funnel.kept == 2
    assert selection.manifest.facts["languages"] == {"": {"": 2}}
    selection = filtered(finished, images, TextWords())
    assert selection.manifest.funnel.dropped == {"text_words": 2}
    assert filtered(finished, images, CaptionFrequency(), Pii()).manifest.funnel.kept == 0


def test_pixels_are_measured_once_and_what_cannot_be_is_said(ray_cluster, images_artifact, finished):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    rows = [("one colour", PICTURE), ("all colours", noise), ("cut off", noise)]
    images = images_artifact(rows)
    with images.store.open("data/00000.tar") as source:
        data = bytearray(source.read())
    at = data.rindex(b"\x89PNG")
    data[at + 60 : at + 400] = bytes(340)
    images.store.write("data/00000.tar", bytes(data))
    selection = filtered(finished, images, ImageSolid(max=0.5))
    assert selection.manifest.funnel.dropped == {"image_solid": 1, "decode_failed": 1}
    kept = rows_of(selection, "kept").to_pylist()[0]
    assert kept["caption"] == "all colours" and kept["image_bytes"] > 64 * 64 * 3
    assert 7.5 < kept["image_entropy"] <= 8
    # A second filter reads what the first has measured, and no image.
    images.store.delete("data/00000.tar")
    spec = (0, "data/kept-00000.parquet")
    rows, reasons, _ = rows_of_shard([ImageEntropy()], Images.of({"images": images}), selection.store, spec)
    assert (rows["image_entropy"][0].as_py(), reasons) == (kept["image_entropy"], [None])


def test_lists_are_read_from_adopted_files(ray_cluster, images_artifact, finished, tmp_path):
    (tmp_path / "hosts.txt").write_text("# blocked\n0.0.0.0 a.example\n")
    (tmp_path / "words.json").write_text('["dog", "太和殿"]')
    images = images_artifact([("two red dogs", PICTURE), ("a red dog", PICTURE), ("北京故宫的太和殿", PICTURE)])
    lists = {
        name: adopted(tmp_path / f"{name}.{end}", "metadata") for name, end in (("hosts", "txt"), ("words", "json"))
    }
    inputs = {f"list_{name}": artifact for name, artifact in lists.items()}
    selection = filtered(finished, images, TextList(source="list_words"), **inputs)
    assert rows_of(selection, "kept")["caption"].to_pylist() == ["two red dogs"]
    selection = filtered(finished, images, UrlList(source="list_hosts"), **inputs)
    assert selection.manifest.funnel.dropped == {"url_list": 3}
    with pytest.raises(UsageError, match="list_other"):
        filtered(finished, images, TextList(source="list_other"), **inputs)


def test_masked_captions_are_counted(ray_cluster, images_artifact, finished):
    images = images_artifact([("write to a@b.example now", PICTURE), ("two red dogs", PICTURE)])
    selection = filtered(finished, images, Pii(action="mask"))
    assert rows_of(selection, "kept")["caption"].to_pylist() == ["write to [email] now", "two red dogs"]
    assert selection.manifest.facts["rewritten"] == {"pii": 1}


def test_figures_hide_personal_data(ray_cluster, images_artifact, finished, monkeypatch):
    shown = []
    montage = gallery.montage
    monkeypatch.setattr(gallery, "montage", lambda title, tiles: shown.extend(tiles) or montage(title, tiles))
    images = images_artifact([("write to a@b.example now", PICTURE), ("two red dogs", PICTURE)])
    selection = filtered(finished, images, Pii())
    assert rows_of(selection, "dropped")["caption"].to_pylist() == ["write to a@b.example now"]
    assert [tile.caption for tile in shown] == ["two red dogs", "write to [email] now"]
