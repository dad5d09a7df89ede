"""Pictures of validation: the surest errors first, and what captions find, read back from the pixels."""

import io

import numpy as np
from PIL import Image

from training.observe import pictures
from training.observe.pictures import Pictures

SIDE, GAP, TITLE = pictures._SIDE, pictures._GAP, pictures._TITLE


def colour_of(number: int) -> tuple[int, int, int]:
    return (10 + number * 7 % 240, 255 - number * 5 % 250, number * 3 % 256)


def shown(name: str, words, count: int) -> Pictures:
    kept = Pictures(name, words)
    for number in range(count):
        kept.add(Image.new("RGB", (64, 64), colour_of(number)))
    return kept


def pixel(png: bytes, x: int, y: int):
    with Image.open(io.BytesIO(png)) as page:
        return page.convert("RGB").getpixel((x, y))


def number_at(png: bytes, x: int, y: int, count: int) -> int:
    """Which image is in the square at (x, y)."""
    found = pixel(png, x + SIDE // 2, y + SIDE // 2)
    return next(number for number in range(count) if colour_of(number) == found)


def test_wrong_images_come_first_the_surest_before_the_others():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 5)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    classifier = np.eye(4, 5, dtype=np.float32)
    labels = rng.integers(0, 4, 30).tolist()
    png = shown("seen", ["one", "two", "three", "a class with a very long name"], 20).errors(
        images, classifier, labels, 20.0
    )
    # By hand, of the 20 that are kept.
    logits = 20.0 * (images[:20] @ classifier.T).astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
    wrong = [n for n in range(20) if logits[n].argmax() != labels[n]]
    right = [n for n in range(20) if n not in wrong]
    expected = sorted(wrong, key=lambda n: -confidence[n]) + sorted(right, key=lambda n: -confidence[n])
    height = SIDE + 2 * 15 + GAP
    places = [(GAP + column * (SIDE + GAP), TITLE + row * height) for row in range(2) for column in range(6)]
    assert [number_at(png, *place, 20) for place in places] == expected[:12]
    frames = [pixel(png, x - 2, y + 20) for x, y in places]
    assert [frame == (26, 127, 90) for frame in frames] == [n in right for n in expected[:12]]


def test_captions_find_the_nearest_of_the_images_that_are_kept():
    rng = np.random.default_rng(1)
    images, texts = (rng.normal(size=(count, 6)).astype(np.float32) for count in (12, 9))
    wordings, owners = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0], [0, 1, 2, 2, 3, 5, 6, 9, 10, 11]
    words = [f"caption {number} " + "word " * 60 for number in range(9)]
    png = shown("captions", words, 8).retrieval(images, texts, wordings, owners)
    asked = [0, 1, 2, 3, 4, 6]  # of the seven captions of the first eight images, six at equal steps
    for row, caption in enumerate(asked):
        best = np.argsort(-(texts[wordings[caption]] @ images[:8].T), kind="stable")[:5].tolist()
        places = [(230 + column * (SIDE + GAP), TITLE + row * (SIDE + 15 + GAP)) for column in range(5)]
        assert [number_at(png, *place, 8) for place in places] == best
        framed = [pixel(png, x - 2, y + 20) == (26, 127, 90) for x, y in places]
        assert framed == [number == owners[caption] for number in best]


def test_one_image_one_caption_and_odd_shapes_are_drawn():
    kept = Pictures("vtab/x", ["红色 círculo"])
    kept.add(Image.new("L", (1, 900)))
    one = np.ones((1, 3), np.float32)
    for png in (kept.errors(one, one, [0], 1.0), kept.retrieval(one, one, [0], [0])):
        with Image.open(io.BytesIO(png)) as page:
            page.load()


def test_no_more_images_are_kept_than_are_shown_of():
    kept = shown("many", ["a"], 300)
    assert len(kept._images) == 256
    images = np.ones((300, 2), np.float32)
    assert kept.errors(images, images[:1], [0] * 300, 1.0) == kept.errors(images[:256], images[:1], [0] * 256, 1.0)
