"""Copies of a picture as the web makes them are found; pictures that differ in words, and drawings alike, are kept."""

import io
from functools import cache

import numpy as np
import pytest
from deduplicated import decided
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pipelines.curate.dedup import places
from pipelines.curate.dedup.alike import same
from pipelines.curate.dedup.keys import keys
from pipelines.curate.dedup.pairs import agree
from pipelines.curate.dedup.signatures import signature
from pipelines.curate.dedup.thumbnails import View, inner_box
from tests.benchmarks.near_duplicates import is_near
from tests.benchmarks.picture_variants import SCENES, VARIANTS, jpeg, same_but_words, stored

pytestmark = pytest.mark.long  # draws pictures


def photo(seed: int, size=(480, 360)) -> Image.Image:
    """Something like a photo: soft light, shapes of several sizes with shades, grain."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 216, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(40):
        left, top = rng.integers(0, size[0]), rng.integers(0, size[1])
        width, height = rng.integers(8, 110, 2)
        box = (int(left), int(top), int(left + width), int(top + height))
        colour = tuple(int(level) for level in rng.integers(0, 256, 3))
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)(box, fill=colour)
    grain = rng.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def copies(one, other, **fields) -> bool:
    return is_near(one, other) and bool(same(one.thumbnail, [other.thumbnail], **fields)[0])


def signed(picture, **fields):
    return signature(stored(picture if isinstance(picture, bytes) else jpeg(picture)), **fields)


EXPECTED = sorted(name for name, (kind, _) in VARIANTS.items() if kind not in ("more", "tone", "mirror"))


@pytest.mark.parametrize("name", EXPECTED)
def test_copies_are_found(name):
    for seed in range(3):
        picture = photo(seed)
        assert copies(signed(picture), signed(VARIANTS[name][1](picture, np.random.default_rng(seed)))), seed


def test_a_mirror_image_is_a_copy_on_demand_only():
    picture = photo(5)
    mirrored = VARIANTS["mirrored"][1](picture, np.random.default_rng(0))
    assert not copies(signed(picture), signed(mirrored))
    one, other = (signed(image, mirrored=True) for image in (picture, mirrored))
    assert copies(one, other, mirrored=True) and not copies(one, other)


NARROWLY = [(6, "64 colours"), (14, "more contrast"), (21, "brighter"), (33, "64 colours")]
"""Copies at which places and tones end otherwise if they are looked for the other way round."""


def test_of_equals_it_makes_no_difference_which_is_first():
    thumbnails = [one.thumbnail for one in _pool()]
    equal = np.ones(len(thumbnails), bool)
    found = np.array([agree(one, thumbnails, equal) for one in thumbnails])
    assert found.tolist() == found.T.tolist()
    plain = np.array([same(one, thumbnails) for one in thumbnails])
    assert plain.tolist() != plain.T.tolist()


@given(order=st.permutations(range(2 * len(NARROWLY) + 3)), per_shard=st.integers(1, 12), equal=st.booleans())
@settings(max_examples=8)
def test_the_order_of_rows_decides_among_equals_only(tmp_path_factory, order, per_shard, equal):
    """Rows in any order and any shards against brute force by preference; where all are equal, by row."""
    signatures = [_pool()[row] for row in order]
    areas = [1 if equal else 1 + 7 * row % len(order) for row in order]
    _, originals, _ = decided(
        tmp_path_factory.mktemp("dedup"),
        {"sha256": [str(row) for row in order], "original_width": areas},
        [(one.keys, one.parts) for one in signatures],
        [one.thumbnail for one in signatures],
        per_shard=per_shard,
    )
    stay: list[int] = []
    for place in sorted(range(len(order)), key=lambda place: (-areas[place], place)):
        like = [first for first in stay if _is_copy(order[first], order[place], equal)]
        assert originals[place] == (like or [place])[0]
        stay += [] if like else [place]


@cache
def _pool():
    """Signatures of photos, of a copy of each, and of other photos."""
    copied = [VARIANTS[name][1](photo(seed), np.random.default_rng(seed)) for seed, name in NARROWLY]
    return [*(signed(photo(seed)) for seed, _ in NARROWLY), *map(signed, copied), *(signed(photo(n)) for n in range(3))]


@cache
def _is_copy(preferred, other, equal):
    pair = [_pool()[preferred], _pool()[other]]
    return copies(*(sorted(pair, key=lambda one: one.thumbnail) if equal else pair))


def test_without_crops_fewer_keys_are_made():
    picture = photo(6)
    few, many = signed(picture, crops=False), signed(picture)
    assert few.keys == many.keys and not few.parts and len(few.keys) <= 2 < 10 < len(many.parts)


@pytest.mark.parametrize("kind", sorted(SCENES))
def test_pictures_that_differ_in_words_are_kept(kind):
    """Nearly all; quotations are small and thin words on a photo. The benchmark has more of each."""
    groups = {}
    for name, group, data in same_but_words([photo(7), photo(8)], 4):
        if name == kind:
            groups.setdefault(group, []).append(signature(data))
    pairs = [(one, other) for members in groups.values() for one in members for other in members if one is not other]
    kept = [not copies(one, other) for one, other in pairs]
    assert np.mean(kept) >= (0.6 if kind == "quotations" else 0.9)


def test_other_photos_are_kept():
    signatures = [signed(photo(seed)) for seed in range(12)]
    assert not any(copies(one, other) for one in signatures for other in signatures if one is not other)


def test_one_ball_in_two_colours_is_two_pictures_and_in_grey_a_copy():
    def ball(colour):
        picture = Image.new("RGB", (300, 300), "#c0c0c0")
        ImageDraw.Draw(picture).ellipse((80, 80, 220, 220), fill=colour)
        return picture

    red, blue = ball((220, 30, 30)), ball((30, 60, 255))  # of about one brightness
    assert not copies(signed(red), signed(blue))
    assert copies(signed(red), signed(red.convert("L").convert("RGB")))


@pytest.mark.parametrize("paper", ["#fffbe8", "#fff0f6", "#e8f4ff"])
def test_one_drawing_on_white_and_on_tinted_paper_is_two_pictures(paper):
    """The tint is less than what recompression does to edges, but it is everywhere."""

    def card(ground):
        picture = Image.new("RGB", (268, 364), ground)
        pen = ImageDraw.Draw(picture)
        for left, top in ((60, 60), (160, 60), (110, 160), (60, 260), (160, 260)):
            pen.polygon([(left + 25, top), (left + 50, top + 35), (left + 25, top + 70), (left, top + 35)], "#d01020")
        return picture

    white, tinted = signed(card("white")), signed(card(paper))
    assert is_near(white, tinted) and not copies(white, tinted)
    for picture in (card("white"), card(paper)):
        for name in ("JPEG, quality 30", "64 colours", "less colour", "grey", "scaled to 1/2"):
            copy = VARIANTS[name][1](picture, np.random.default_rng(0))
            assert copies(signed(picture), signed(copy)), name


def test_a_picture_of_another_shape_is_no_copy():
    """Keys are made of squares, so they do not tell how long a picture is."""
    picture = photo(9)
    assert not copies(signed(picture), signed(picture.resize((480, 240))))


def test_borders_in_borders_are_taken_off():
    picture = photo(10, (200, 100))
    framed = Image.new("RGB", (260, 160), "black")
    framed.paste("white", (10, 10, 250, 150))
    framed.paste(picture, (30, 30))
    assert inner_box(np.asarray(framed.convert("L"))) == (30, 30, 230, 130)
    assert inner_box(np.asarray(picture.convert("L"))) == (0, 0, 200, 100)
    blank = np.full((50, 60), 255, np.uint8)
    assert inner_box(blank) == (0, 0, 60, 50)


def striped(colours, upright=True) -> Image.Image:
    flag = Image.new("RGB", (300, 200))
    for place, colour in enumerate(colours):
        flag.paste(
            colour, (100 * place, 0, 100 * place + 100, 200) if upright else (0, 67 * place, 300, 67 * place + 67)
        )
    return flag


def test_stripes_are_no_border():
    """Within the outer ones there would be a white picture in each."""
    flags = [
        striped(("#008751", "white", "#008751")),
        striped(("#f77f00", "white", "#009e60")),
        striped(("#ed2939", "white", "#00a1de"), upright=False),
        striped(("#9e3039", "white", "#9e3039"), upright=False),
    ]
    signatures = [signed(flag) for flag in flags]
    for number, flag in enumerate(flags):
        for name in ("JPEG, quality 75", "JPEG, quality 30", "scaled to 1/2", "scaled to 3/2", "64 colours"):
            copy = signed(VARIANTS[name][1](flag, np.random.default_rng(0)))
            found = [other for other, one in enumerate(signatures) if copies(one, copy)]
            assert found == [number], (number, name)


def test_a_border_in_a_border_is_taken_off_after_jpeg_mixed_their_edge():
    framed = Image.new("RGB", (320, 240), "black")
    framed.paste("white", (20, 20, 300, 220))
    framed.paste(photo(12, (200, 140)), (60, 50))
    decoded = Image.open(io.BytesIO(jpeg(framed, 60))).convert("L")
    assert np.abs(np.array(inner_box(np.asarray(decoded))) - (60, 50, 260, 190)).max() <= 3


@pytest.mark.parametrize("name", ["black border 10%", "white border 5%", "logo in a corner"])
@pytest.mark.parametrize("box", [(60, 40, 230, 250), (150, 30, 420, 190), (20, 160, 200, 340)])
def test_copies_of_a_drawing_with_a_margin_are_found(name, box):
    """What is added lies around the margin, or in it, so the frames of the two are not those of one picture."""
    page = Image.new("RGB", (480, 360), "white")
    page.paste(photo(13, (box[2] - box[0], box[3] - box[1])), box)
    assert copies(signed(page), signed(VARIANTS[name][1](page, np.random.default_rng(1))))


def test_places_are_weighed_as_pictures_laid_over_each_other():
    """The quick way through a rectangle, against masks, for maps as of crops and frames."""
    rng = np.random.default_rng(4)
    one, other = (View.of(signed(photo(seed)).thumbnail).coarse for seed in (14, 15))
    for _ in range(200):
        mapping = np.array([[rng.uniform(0.4, 2), 0, rng.uniform(-9, 9)], [0, rng.uniform(0.4, 2), rng.uniform(-9, 9)]])
        slow = places.correlation(one, *places.lay(other, mapping.astype(np.float32)))
        assert places._resemblance(one, other, mapping.astype(np.float32)) == pytest.approx(slow, abs=0.02)


def test_keys_are_those_of_regions_cut_out():
    """The key of a crop is that of the cropped square, made by matrices or by cutting and shrinking."""
    rng = np.random.default_rng(0)
    square = np.kron(rng.integers(0, 256, (16, 16)), np.ones((4, 4))).astype(np.uint8)
    found = keys(square, square, crops=False)
    small = square.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    cosines = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)
    low = (cosines @ small @ cosines.T).ravel()
    low[0] = 0
    bits = low > 0.04 * np.sqrt(np.mean(low**2))
    assert found == ([int("".join("01"[bit] for bit in bits.astype(int)), 2)], [])


def test_a_thumbnail_is_read_back():
    picture = photo(11, (320, 200))
    view = View.of(signed(picture).thumbnail)
    assert view.size == (320, 200) and view.cells.shape == (96, 96, 3)
    assert view.mirrored.mirrored.cells.tolist() == view.cells.tolist()
    assert view.whole is view


def test_a_framed_thumbnail_shows_the_whole_too():
    page = Image.new("RGB", (300, 200), "white")
    page.paste(photo(12, (90, 60)), (40, 100))
    view = View.of(signed(page).thumbnail)
    assert view.frame != (0, 0, 1, 1) == view.whole.frame and view.whole.size == (300, 200)
    assert view.mirrored.whole.cells.tolist() == view.whole.cells[:, ::-1].tolist()


def faint(level: int, dark: int = 60) -> Image.Image:
    """A dark shape among faint stripes, of ``level``, on white."""
    page = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(page)
    for left in range(30, 220, 20):
        pen.rectangle((left, 40, left + 9, 210), fill=(level,) * 3)
    pen.polygon([(100, 160), (156, 150), (130, 100)], fill=(dark,) * 3)
    return page


def test_a_faint_picture_is_itself_wherever_its_border_ends():
    one, other, else_ = (signed(faint(level, dark)) for level, dark in ((228, 60), (235, 60), (228, 160)))
    frames = [View.of(which.thumbnail).frame for which in (one, other)]
    assert np.abs(np.subtract(*frames)).max() > 0.2  # what is faint is border in one, and not in the other
    assert copies(one, other) and not same(other.thumbnail, [else_.thumbnail])[0]
