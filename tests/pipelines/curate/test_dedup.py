"""Hashes against imagehash, grouping against brute force, and the stage against images known to be the same."""

import io
import tarfile
from dataclasses import replace

import cv2
import imagehash
import numpy as np
import pyarrow.parquet as pq
import pytest
from deduplicated import decided
from PIL import Image

from infra.errors import DataError
from pipelines.curate import filter as filtering
from pipelines.curate import shard
from pipelines.curate.dedup import Config, run
from pipelines.curate.dedup.alike import same
from pipelines.curate.dedup.rows import _host
from pipelines.curate.dedup.signatures import signature
from pipelines.download.hosts import host
from pipelines.tables import read_table
from workflows.demo import drawing, scenes

pytestmark = pytest.mark.long  # runs the stage again and again


def rendered(number: int, side: int = 160, **changes) -> Image.Image:
    rng = np.random.default_rng(number)
    names = (scenes.SHAPES, scenes.COLOURS, scenes.SIZES, scenes.TEXTURES, scenes.POSITIONS, scenes.BACKGROUNDS)
    scene = scenes.Scene(*(str(rng.choice(choices)) for choices in names), number)
    return Image.fromarray(drawing.render(replace(scene, **changes), side))


def file(image: Image.Image, form="JPEG", side=None, **options) -> bytes:
    out = io.BytesIO()
    (image.resize((side, side), Image.Resampling.LANCZOS) if side else image).save(out, form, **options)
    return out.getvalue()


def test_the_hash_is_imagehashs():
    for number in range(40):
        data = file(rendered(number, 256), quality=95)
        theirs = int(str(imagehash.phash(Image.open(io.BytesIO(data)))), 16)
        assert (signature(data).phash ^ theirs).bit_count() <= 2
    for number in range(10):  # at 32 pixels a side there is nothing to reduce; only the rounding of grey differs
        data = file(rendered(number, 32), "PNG")
        theirs = int(str(imagehash.phash(Image.open(io.BytesIO(data)))), 16)
        assert (signature(data).phash ^ theirs).bit_count() <= 2


def test_a_grey_image_has_a_signature():
    grey, coloured = signature(file(rendered(1).convert("L"))), signature(file(rendered(1), "PNG"))
    assert (grey.phash ^ coloured.phash).bit_count() <= 2
    assert len(set(grey.all_keys) & set(coloured.all_keys)) > 4


def test_a_stored_image_must_be_one():
    with pytest.raises(DataError):
        signature(b"not an image")


@pytest.fixture
def grouped(tmp_path):
    """``grouped(*images)``: for each image the place of the one that stays instead, its own if it stays itself."""

    def group(*images: bytes) -> list[int]:
        _, keys, parts, thumbnails = zip(*map(signature, images), strict=True)
        hashes = list(zip(keys, parts, strict=True))
        return decided(tmp_path, {"sha256": [str(n) for n in range(len(images))]}, hashes, thumbnails)[1]

    return group


@pytest.mark.parametrize("number", range(12))
def test_copies_of_an_image_are_found(number, grouped):
    image = rendered(number)
    copies = [
        file(image, quality=92),
        file(image, quality=60),
        file(image, "WEBP", quality=80),
        file(image, "PNG", side=240),
        file(image, side=100, quality=90),
        file(image, "WEBP", side=64, quality=75),
    ]
    assert grouped(*copies) == [0] * len(copies)


@pytest.mark.parametrize("number", range(12))
def test_copies_in_another_colour_are_all_kept(number, grouped):
    images = [file(rendered(number, colour=colour)) for colour in scenes.COLOURS]
    assert grouped(*images) == list(range(len(images)))


def test_different_images_are_all_kept(grouped):
    assert grouped(*(file(rendered(number)) for number in range(200))) == list(range(200))


def galaxy(seed, long, wide):
    """A spot of light on black, and eighty stars."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:256, :256]
    u, v = 0.8 * x + 0.6 * y - 179, 0.8 * y - 0.6 * x - 26
    light = 10 + 200 * np.exp(-((u / long) ** 2) - (v / wide) ** 2)
    for across, down in rng.uniform(20, 236, (80, 2)):
        light += 100 * np.exp(-((x - across) ** 2 + (y - down) ** 2) / 4)
    return Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("seed", range(3))
def test_spots_of_light_are_not_made_as_large_as_each_other(seed):
    one, other = (signature(file(galaxy(*which))) for which in ((seed, 50, 36), (seed + 10, 75, 54)))
    assert same(one.thumbnail, [one.thumbnail, other.thumbnail]).tolist() == [True, False]


@pytest.mark.parametrize("seed", range(3))
def test_a_logo_that_outweighs_a_dark_picture(seed, grouped):
    clouds = np.random.default_rng(seed).normal(40, 24, (16, 16)).astype(np.float32)
    dark = np.clip(cv2.resize(clouds, (256, 256), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    marked, elsewhere = dark.copy(), dark.copy()
    marked[8:22, 204:244] = 200
    elsewhere[120:134, 108:148] = 200
    assert grouped(*(file(Image.fromarray(image)) for image in (dark, marked, elsewhere))) == [0, 0, 2]


def test_flat_images_differ_by_colour(grouped):
    flat = [file(Image.new("RGB", (80, 80), colour)) for colour in ("white", "black", "red", "white")]
    assert grouped(*flat) == [0, 1, 2, 0]


def alike(count):
    """Thumbnails that all look alike."""
    return np.zeros(count, int)


def test_the_best_of_a_group_stays(tmp_path):
    far = (1 << 40) - 1
    shas, areas, hashes = zip(
        *(("a", 5, 0), ("a", 5, 0), ("b", 9, 1), ("c", 9, 3), ("d", 1, far), (None, 1, ~far % 2**64), (None, 1, far)),
        strict=True,
    )
    rows = {"sha256": list(shas), "original_width": list(areas)}
    reasons, originals, _ = decided(tmp_path / "near", rows, hashes, alike(7), per_shard=2)
    assert reasons == ["near_duplicate", "duplicate_bytes", None, "near_duplicate", None, None, "near_duplicate"]
    assert originals == [2, 2, 2, 2, 4, 5, 4]  # the second row's own original went too: it points at what stayed
    exact, _, _ = decided(tmp_path / "exact", rows, hashes, alike(7), Config(near=False), per_shard=2)
    assert exact == [None, "duplicate_bytes", *[None] * 5]


def test_equal_files_of_many_names_on_a_host_are_placeholders(tmp_path):
    urls = [f"http://a.example/{number}.jpg" for number in range(8)]
    others = [f"http://{number}.example/a.jpg" for number in range(8)]
    logo = [f"http://b.example/?page={number}" for number in range(9)]
    few = [f"http://c.example/{number}.jpg" for number in range(7)]
    repeated = ["http://d.example/1.jpg"] * 9
    manual = [f"http://e.example/{language}/figure.png" for language in range(9)]
    groups = [urls, others, logo, few, repeated, manual]
    every = [url for group in groups for url in group]
    rows = {
        "sha256": [name for name, group in zip("pqrstu", groups, strict=True) for _ in group],
        "url": every,
        "caption": ["a logo" if "b.example" in url else f"text {number}" for number, url in enumerate(every)],
    }

    def found(name, **fields):
        config = Config(near=False, **fields)
        return decided(tmp_path / name, rows, [0] * len(every), alike(len(every)), config)[:2]

    reasons, originals = found("default")
    assert reasons[:8] == ["placeholder_image"] * 8 and originals[:8] == list(range(8))
    assert [reasons.count(why) for why in (None, "duplicate_bytes", "placeholder_image")] == [
        5,
        8 + 9 + 7 + 9 + 9 - 5,
        8,
    ]
    assert [found("never", placeholder_names=0)[0].count(why) for why in (None, "placeholder_image")] == [6, 0]
    assert found("strict", placeholder_names=7)[0].count("placeholder_image") == 8 + 7


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://a.example/x/y",
            "https://User:p@A.Example:8080/x",
            "http:\\\\a.example\\x/y/z",
            "http://a.example?x=/a/b",
        ),
        *(
            "http:///a.example/b",
            "http:/a.example/b/c",
            "//a.example/x/y",
            "a.example/x/y/z",
            "data:image/png;base64,a/b/c",
        ),
        *(
            "",
            "http://[::1]/x",
            "http://b\u00fccher.example/\u00fc",
            " http://a.example/b",
            "http://a.exa\tmple/b",
            "http:////a/b",
        ),
    ],
)
def test_the_quick_way_to_a_host_is_the_long_one(url):
    assert _host(url) == host(url)


def test_the_stage(ray_cluster, images_artifact, finished):
    from pipelines.curate import filter as filtering

    one, two = rendered(1), rendered(2)
    rows = [
        ("a first picture", file(one, side=128)),
        ("a second picture", file(two)),
        ("the same bytes", file(one, side=128)),
        ("larger, so it stays", file(one)),
        ("lost on the way", None),
        ("another format", file(two, "WEBP", side=100)),
    ]
    images = images_artifact(rows, per_shard=4)
    selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})
    inputs = {"images": images, "selection": selection}
    result = finished(run, Config(), inputs)
    assert result.manifest.funnel.dropped == {"duplicate_bytes": 1, "near_duplicate": 2}
    kept = [row for shard in range(2) for row in read_table(result.store, f"data/kept-{shard:05d}.parquet").to_pylist()]
    assert [row["caption"] for row in kept] == ["a second picture", "larger, so it stays"]
    assert len(kept[0]["phash"]) == 16
    dropped = [
        row for shard in range(2) for row in read_table(result.store, f"data/dropped-{shard:05d}.parquet").to_pylist()
    ]
    assert [row["duplicate_of"] for row in dropped] == [kept[1]["uid"], kept[1]["uid"], kept[0]["uid"]]
    assert {file.path for file in result.files("figures/")} == {
        f"figures/{name}.png" for name in ("kept", "dropped_duplicate_bytes", "dropped_near_duplicate")
    }
    assert finished(run, Config(), inputs).manifest == result.manifest
    strict = finished(run, Config(placeholder_names=2), inputs).manifest
    assert strict.funnel.dropped == {"near_duplicate": 1, "placeholder_image": 2}
    assert "figures/dropped_placeholder_image.png" in {file.path for file in strict.files}


def test_images_that_are_missing_or_broken_cost_their_own_rows(ray_cluster, images_artifact, finished, tmp_path):
    """In dedup and in the last shards; each with its reason, and the galleries are drawn without them."""
    good = [file(rendered(number)) for number in range(6)]
    cut = good[4][: len(good[4]) // 2]
    listed = {"original_width": 8, "original_height": 8, "width": 8, "height": 8, "status": "success"}
    images = images_artifact([(f"caption {n}", None if n == 2 else good[n], listed) for n in range(6)])
    rewrite(tmp_path / "images/data/00000.tar", {"4": cut, "5": b"no image at all"})
    selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})
    both = {"images": images, "selection": selection}
    result = finished(run, Config(), both, tmp_path / "dedup")
    assert result.manifest.funnel.dropped == {"decode_failed": 2, "image_missing": 1}
    dropped = pq.read_table(tmp_path / "dedup/data/dropped-00000.parquet").to_pylist()
    assert [(row["caption"], row["reason"], row["phash"]) for row in dropped] == [
        ("caption 2", "image_missing", None),
        ("caption 4", "decode_failed", None),
        ("caption 5", "decode_failed", None),
    ]
    sharded = finished(shard.run, shard.Config(samples_per_shard=3, holdout_fraction=0), both, tmp_path / "sharded")
    assert sharded.manifest.funnel.to_json() == {
        "unit": "images",
        "entered": 6,
        "kept": 5,
        "dropped": {"image_missing": 1},
    }
    (lost,) = pq.read_table(tmp_path / "sharded/data/dropped-00000.parquet").to_pylist()
    assert (lost["caption"], lost["reason"]) == ("caption 2", "image_missing")


def rewrite(path, changes):
    """Replace the images of the tar at ``path`` whose keys end so."""
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            key, _, kind = name.partition(".")
            data = changes.get(key[-1], data) if kind != "txt" else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
