"""Each corruption by what its definition says of the pixels: closed forms, other libraries, or moments of its noise."""

from __future__ import annotations

import colorsys
import io

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

from evaluation.corruptions import IMAGENET_C, Corruption, Corruptions, pixels
from evaluation.corruptions.corruption import Change
from infra.errors import ConfigError

KINDS = sorted(kind for kind, member in Corruption.members().items() if member.__module__.startswith("evaluation."))
EVERY = [pytest.param(kind, severity, id=f"{kind}-{severity}") for kind in KINDS for severity in (1, 5)]


def photo(height: int = 60, width: int = 72) -> np.ndarray:
    """A smooth image with an edge, colours in the middle of their range."""
    y, x = np.mgrid[:height, :width] / 60
    channels = [0.4 + 0.2 * np.sin(5 * x), 0.5 + 0.15 * np.cos(4 * y), 0.3 + 0.3 * (x > 0.6)]
    return np.stack(channels, axis=2).astype(np.float32)


def changed(kind: str, severity: int, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return Corruption.named(kind)().corrupt(image, severity, np.random.default_rng(seed))


def test_the_kinds_are_imagenet_cs_but_those_said_to_be_missing():
    assert len(IMAGENET_C) == 14 and len(KINDS) == 18 and set(KINDS) == set(pixels.KNOWN)
    assert all(len(Corruption.named(kind).levels) == 5 for kind in KINDS)


@pytest.mark.parametrize(("kind", "severity"), EVERY)
def test_any_size_keeps_its_size_and_the_key_decides(kind, severity):
    change = Change(Corruption.named(kind)(), severity, side=48)
    for size in ((100, 48), (48, 60), (30, 30), (400, 16)):
        image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        one, same, other = (np.asarray(pixels.corrupted(image, key, change)) for key in ("a", "a", "b"))
        assert min(one.shape[:2]) == 48 and one.shape[2] == 3 and one.dtype == np.uint8
        assert np.array_equal(one, same)
        noisy = {
            "gaussian_noise",
            "shot_noise",
            "impulse_noise",
            "speckle_noise",
            "glass_blur",
            "snow",
            "fog",
            "spatter",
        }
        assert kind not in noisy or not np.array_equal(one, other)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("elastic_transform", "saturate", "snow")])
def test_a_higher_severity_is_further_from_the_image(kind):
    """But for kinds whose severities are of different forms."""
    image = photo(224, 224)
    apart = [np.mean([np.abs(changed(kind, level, image, seed) - image).mean() for seed in (0, 1)]) for level in (1, 5)]
    assert 0 < apart[0] < apart[1]


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("gaussian_noise", lambda image: np.full_like(image, 0.18)),
        ("shot_noise", lambda image: np.sqrt(image / 12)),
        ("speckle_noise", lambda image: image * 0.35),
    ],
)
def test_noise_has_the_moments_of_its_severity(kind, deviation):
    image = photo()
    drawn = np.stack([changed(kind, 3, image, seed) for seed in range(400)])
    np.testing.assert_allclose(drawn.mean(axis=(0, 1, 2)), image.mean(axis=(0, 1)), atol=0.002)
    np.testing.assert_allclose(drawn.std(axis=0).mean(), deviation(image).mean(), rtol=0.01)
    lower, higher = image < np.median(image), image >= np.median(image)
    for part in (lower, higher):
        np.testing.assert_allclose(drawn.std(axis=0)[part].mean(), deviation(image)[part].mean(), rtol=0.01)


def test_impulses_are_black_and_white_at_their_rate():
    found = changed("impulse_noise", 5, photo(300, 300))
    hit = found != photo(300, 300)
    assert hit.mean() == pytest.approx(0.27, abs=0.005)
    assert set(np.unique(found[hit])) == {0.0, 1.0} and found[hit].mean() == pytest.approx(0.5, abs=0.01)


def test_contrast_brightness_and_colour_are_their_formulas():
    image = photo()
    mean = image.mean(axis=(0, 1))
    np.testing.assert_allclose(changed("contrast", 2, image), mean + 0.3 * (image - mean), atol=1e-6)
    for kind, change in (
        ("brightness", lambda h, s, v: (h, s, min(1, v + 0.3))),
        ("saturate", lambda h, s, v: (h, min(1, 2 * s), v)),
    ):
        found = changed(kind, 3, image)
        for row, column in ((0, 0), (10, 50), (59, 71)):
            expected = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*image[row, column].tolist())))
            np.testing.assert_allclose(found[row, column], expected, atol=1e-4)


def test_pixels_and_jpeg_are_pillows():
    image = photo()
    whole = Image.fromarray(np.round(image * 255).astype(np.uint8))
    small = whole.resize((int(72 * 0.4), int(60 * 0.4)), Image.Resampling.BOX)
    expected = np.asarray(small.resize((72, 60), Image.Resampling.BOX))
    assert np.array_equal(np.round(changed("pixelate", 3, image) * 255), expected)
    whole.save(data := io.BytesIO(), "JPEG", quality=15)
    assert np.array_equal(np.round(changed("jpeg_compression", 3, image) * 255), np.asarray(Image.open(data)))


def point(side: int = 81) -> np.ndarray:
    image = np.zeros((side, side, 3), np.float32)
    image[side // 2, side // 2] = 1
    return image


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_blurs_of_a_point_are_their_kernels(severity):
    sigma, radius = (1, 2, 3, 4, 6)[severity - 1], (3, 4, 6, 8, 10)[severity - 1]
    y, x = np.mgrid[-40:41, -40:41]
    normal = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    found = changed("gaussian_blur", severity, point())[..., 0]
    np.testing.assert_allclose(found, normal / normal.sum(), atol=1e-4 / sigma)
    disk = changed("defocus_blur", severity, point())[..., 1]
    assert disk.sum() == pytest.approx(1, abs=1e-5)
    assert disk[40, 40] == pytest.approx(1 / (x**2 + y**2 <= radius**2).sum(), rel=1e-3)
    assert np.abs(disk[x**2 + y**2 > (radius + 3) ** 2]).max() < 1e-6


def test_motion_blur_is_a_line_through_the_point_that_fades():
    found = changed("motion_blur", 4, point(121), seed=3)[..., 0]
    rows, columns = np.nonzero(found > 1e-6)
    angle = np.random.default_rng(3).uniform(-45, 45)
    away = (rows - 60) * np.cos(np.radians(angle)) - (columns - 60) * np.sin(np.radians(angle))
    assert np.abs(away).max() < 1 and found.sum() == pytest.approx(1, abs=1e-5)
    along = np.argsort(np.hypot(rows - 60, columns - 60))
    assert found[rows[along], columns[along]].argmax() == 0 and 28 <= len(rows) <= 31


def test_zoom_blur_leaves_the_middle_and_is_the_mean_of_enlarged_ones():
    image = photo(81, 81)
    found = changed("zoom_blur", 1, image)
    np.testing.assert_allclose(found[40, 40], image[40, 40], atol=1e-3)
    expected = [image]
    for factor in np.arange(1, 1.105, 0.01):
        inside = 40 + (np.arange(81) - 40) / factor
        columns, rows = np.meshgrid(inside.astype(np.float32), inside.astype(np.float32))
        expected.append(cv2.remap(image, columns, rows, cv2.INTER_LINEAR))
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=0.01)


def test_glass_moves_pixels_and_makes_none():
    """With the two blurs away, the pixels are the same ones, each near its place."""
    image = photo(40, 40)
    image[..., 0] = np.arange(1600).reshape(40, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "gaussian_blur", lambda image, random, deviation: image)
        found = changed("glass_blur", 3, image)[..., 0]
    assert sorted(found.ravel()) == list(range(1600)) and not np.array_equal(found, image[..., 0])
    rows, columns = np.divmod(found.astype(int), 40)
    distance = np.maximum(np.abs(rows - np.arange(40)[:, None]), np.abs(columns - np.arange(40)))
    assert np.median(distance) <= 4


def test_fog_is_a_cloud_that_covers_and_snow_whitens():
    dark = np.full((64, 64, 3), 0.2, np.float32)
    cloud = changed("fog", 5, dark)
    assert np.ptp(cloud, axis=2).max() < 1e-6 and cloud.std() > 0.01
    smooth = uniform_filter(cloud[..., 0], 5)
    assert np.abs(cloud[..., 0] - smooth).mean() < 0.5 * cloud.std()
    white = changed("snow", 1, np.full((224, 224, 3), 0.2, np.float32))
    ground = 0.8 * 0.2 + 0.2 * (0.2 * 1.5 + 0.5)  # what is paler, by the definition
    assert white.min() == pytest.approx(ground) and np.ptp(white, axis=2).max() < 1e-6
    assert 0.05 < (white > ground + 0.1).mean() < 0.6


def test_water_only_lightens_and_mud_covers():
    """The places are those where the noise, drawn again and smoothed, is above its threshold."""
    image = photo(224, 224)
    drawn = np.random.default_rng(3).normal(0.65, 0.3, image.shape[:2])
    water = changed("spatter", 2, image, seed=3) - image
    wet = gaussian_filter(drawn, 3, mode="nearest") >= 0.68
    assert water.min() > -1e-6 and np.abs(water[~wet]).max() < 1e-6 and 0.1 < wet.mean() < 0.5
    assert (water[wet] > 0.01).any(axis=1).mean() > 0.3
    lit = water.max(axis=2) > 1e-3  # of one colour, pale turquoise
    np.testing.assert_allclose(
        water[lit] / water[lit].max(axis=1, keepdims=True), [[175 / 238, 1, 1]] * lit.sum(), atol=0.01
    )
    assert water.max() == pytest.approx(0.6 * 238 / 255, rel=1e-3)
    mud = changed("spatter", 4, image, seed=3)
    cover = gaussian_filter((gaussian_filter(drawn, 1, mode="nearest") > 0.65).astype(float), 1.5, mode="nearest")
    cover = np.where(cover < 0.8, 0, cover)[..., None]
    brown = np.array([63, 42, 20]) / 255
    np.testing.assert_allclose(mud, image + cover * (brown - image), atol=1e-5)
    assert 0.05 < (cover > 0).mean() < 0.6


def test_an_elastic_transform_moves_what_is_there():
    image = photo(224, 224)
    found = changed("elastic_transform", 4, image)
    assert image.min() - 1e-4 <= found.min() and found.max() <= image.max() + 1e-4
    assert found.mean() == pytest.approx(image.mean(), abs=0.02) and np.abs(found - image).max() > 0.05
    flat = np.full_like(image, 0.3)
    np.testing.assert_allclose(changed("elastic_transform", 1, flat), flat, atol=1e-5)


@pytest.mark.parametrize(
    "fields", [{"severities": (0,)}, {"severities": (2, 2)}, {"kinds": ()}, {"kinds": ("fog", "fog")}, {"side": 4}]
)
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(ConfigError):
        Corruptions(**fields)


def test_changes_have_names():
    given = Corruptions(kinds=("fog", {"kind": "snow"}), severities=(5, 2), side=64)
    assert list(given.changes()) == ["fog-2", "fog-5", "snow-2", "snow-5"]
    assert given.changes()["snow-5"].split("test") == "test@snow-5"
