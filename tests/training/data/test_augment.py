"""Pixels: open_clip's transform by the same draws, torchvision's formulae, the distribution of the draws."""

import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from training.config import Augment
from training.data.augment import DRAWS, ORDERS, Augmentation, jitter
from training.data.decode import CROP_DRAWS, decode, draw_crop, resize
from training.data.loader import draws


def photograph(seed=0, size=(97, 130)):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.array(image)


def tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def array(image):
    return image.permute(1, 2, 0).numpy()


def test_pixels_are_those_of_open_clips_transform(monkeypatch):
    """Its transform for training, made to crop where ours does."""
    from torchvision.transforms import RandomResizedCrop

    transform = open_clip.image_transform(64, is_train=True, mean=(0, 0, 0), std=(1, 1, 1))
    data = io.BytesIO()
    Image.fromarray(photograph()).save(data, "JPEG", quality=95)
    for own in draws(3, 0, 8).tolist():
        out = np.empty((64, 64, 3), np.uint8)
        Augmentation(Augment())(decode(data.getvalue(), 68), own, out)
        crop = draw_crop(own[:CROP_DRAWS], (97, 130), (0.9, 1.0), (0.75, 4 / 3))
        monkeypatch.setattr(RandomResizedCrop, "get_params", staticmethod(lambda *_, crop=crop: crop))
        with Image.open(data) as image:
            expected = array(transform(image) * 255)
        error = np.abs(out - expected)
        assert error.mean() < 0.2
        assert error.max() < 6


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (300, 260)])
def test_resizing_is_pillows_bicubic(size):
    image, out = photograph(1, size), np.empty((64, 48, 3), np.uint8)
    resize(image[3:-2, 5:-4], out)
    expected = Image.fromarray(image[3:-2, 5:-4]).resize((48, 64), Image.Resampling.BICUBIC)
    assert np.abs(out - np.asarray(expected, float)).mean() < 0.2


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.4])
@pytest.mark.parametrize(
    ("change", "formula"),
    [
        (0, functional.adjust_brightness),
        (1, functional.adjust_contrast),
        (2, functional.adjust_saturation),
        (3, functional.adjust_hue),
    ],
)
def test_colours_change_by_torchvisions_formulae(change, formula, factor):
    value = factor if change < 3 else (factor - 0.95) / 2
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[change] = value
    ours = photograph(change)
    before = ours = ours.copy()
    expected = array(formula(tensor(before), value)).astype(float)
    jitter(ours, range(4), factors)
    error = np.abs(ours - expected)
    assert error.mean() < 1  # torchvision cuts off where we round, and its grey may be one less
    assert error.max() <= 3


def test_flip_jitter_and_grey_do_as_they_are_drawn():
    image, plain = photograph(5, (32, 32)), np.empty((32, 32, 3), np.uint8)
    own = [0.5] * DRAWS
    Augmentation(Augment())(image, own, plain)
    out = np.empty_like(plain)
    Augmentation(Augment(flip_prob=0.51))(image, own, out)
    assert (out == plain[:, ::-1]).all()
    Augmentation(Augment(gray_scale_prob=0.51))(image, own, out)
    grey = array(functional.rgb_to_grayscale(tensor(plain), 3)).astype(float)
    assert np.abs(out - grey).max() <= 1
    assert (out[..., :1] == out).all()
    strong = Augmentation(Augment(color_jitter=(0.4, 0.3, 0.2, 0.1), color_jitter_prob=0.6))
    own[CROP_DRAWS + 3 : CROP_DRAWS + 7] = [0.0, 1.0, 0.25, 0.75]
    strong(image, own, out)
    expected = plain.copy()
    jitter(expected, ORDERS[12], (0.6, 1.3, 0.9, 0.05))
    assert (out == expected).all()
    for calm in (
        Augmentation(Augment(flip_prob=0.5, gray_scale_prob=0.5)),
        Augmentation(Augment(color_jitter=(1, 1, 1, 0.5), color_jitter_prob=0.5)),
    ):
        calm(image, own, out)
        assert (out == plain).all()


def test_draws_belong_to_positions():
    whole = draws(7, 0, 100)
    assert whole.shape == (100, DRAWS)
    assert (np.concatenate([draws(7, start, 9) for start in range(0, 99, 9)]) == whole[:99]).all()
    assert (draws(7, 10**12, 2) != draws(8, 10**12, 2)).all()
    assert 0 <= whole.min() < 0.01 < 0.99 < whole.max() < 1
    assert np.abs(whole.mean(axis=0) - 0.5).max() < 5 * (1 / 12 / 100) ** 0.5
