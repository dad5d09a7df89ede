"""One decoding for training, validation, test sets, scores and search: the pixels, and the vectors, of open_clip."""

from __future__ import annotations

import io
import json
import struct
import zlib

import cv2
import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from infra.encoder.open_clip import load_encoder
from infra.errors import DataError
from infra.formats.testset import decode_image
from infra.images.errors import ImageError
from infra.images.like_open_clip import check_size, decode_like_open_clip
from training.data.decode import decode

RANDOM = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(90) * 2, np.arange(130))[..., None] + np.array([0, 30, 60])
PHOTO = Image.fromarray((SMOOTH + RANDOM.integers(0, 20, SMOOTH.shape)).clip(0, 255).astype(np.uint8))


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RANDOM.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def png(depth: int, colour: int, samples: int, extra: bytes = b"") -> bytes:
    """A PNG of noise, 50 x 40, with a depth and colour type that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + noise(-(-50 * samples * depth // 8)).tobytes() for _ in range(40))
    palette = chunk(b"PLTE", noise(3 << depth).tobytes()) if colour == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 40, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + palette + (chunk(b"tRNS", extra) if extra else b"") + body


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


FRAMES = [Image.fromarray(noise(40, 50, 3)) for _ in range(3)]
ANIMATED = {"save_all": True, "append_images": FRAMES[1:]}
KINDS = {
    "jpeg": saved(PHOTO, "JPEG"),
    "jpeg 4:4:4": saved(PHOTO, "JPEG", subsampling=0, quality=95),
    "jpeg 4:2:2": saved(PHOTO, "JPEG", subsampling=1),
    "jpeg progressive": saved(PHOTO, "JPEG", progressive=True),
    "jpeg grey": saved(PHOTO.convert("L"), "JPEG"),
    "jpeg CMYK": saved(PHOTO.convert("CMYK"), "JPEG"),
    "jpeg turned": saved(PHOTO, "JPEG", exif=turned()),
    "png": saved(PHOTO, "PNG"),
    "png turned": saved(PHOTO, "PNG", exif=turned()),
    "png palette": saved(PHOTO.quantize(200), "PNG"),
    "png palette with a clear colour": saved(PHOTO.quantize(7), "PNG", transparency=3),
    "png palette of 2 bits": png(2, 3, 1),
    "png with a clear colour": saved(PHOTO, "PNG", transparency=(1, 2, 3)),
    "png alpha": saved(Image.fromarray(noise(40, 50, 4)), "PNG"),
    "png grey and alpha": saved(Image.fromarray(noise(40, 50, 2)), "PNG"),
    "png black and white": saved(PHOTO.convert("1"), "PNG"),
    "png grey of 4 bits": png(4, 0, 1),
    "png grey of 16 bits": png(16, 0, 1),
    "png grey of 16 bits with a clear shade": png(16, 0, 1, b"\x01\x02"),
    "png grey and alpha of 16 bits": png(16, 4, 2),
    "png of 16 bits": png(16, 2, 3),
    "png with alpha of 16 bits": png(16, 6, 4),
    "png of OpenCV of 16 bits": cv2.imencode(".png", noise(40, 50, dtype=np.uint16))[1].tobytes(),
    "png animated": saved(FRAMES[0], "PNG", **ANIMATED),
    "webp": saved(PHOTO, "WEBP", quality=70),
    "webp lossless": saved(PHOTO, "WEBP", lossless=True),
    "webp alpha": saved(Image.fromarray(noise(40, 50, 4)), "WEBP", lossless=True),
    "webp animated": saved(FRAMES[0], "WEBP", **ANIMATED, lossless=True),
    "gif animated": saved(FRAMES[0], "GIF", **ANIMATED),
    "bmp": saved(PHOTO, "BMP"),
    "tiff": saved(PHOTO, "TIFF"),
    "odd: 1 x 300": saved(PHOTO.resize((1, 300)), "PNG"),
    "odd: 300 x 2": saved(PHOTO.resize((300, 2)), "JPEG"),
    "odd: 47 x 48": saved(PHOTO.resize((47, 48)), "WEBP", lossless=True),
}


def opened(data: bytes) -> Image.Image:
    """As open_clip's loader and CLIP_benchmark do it ("pilrgb")."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def raw(data: bytes, _: str = "") -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_are_those_of_open_clip_everywhere(kind):
    expected = np.asarray(opened(KINDS[kind]))
    assert np.array_equal(np.asarray(decode_image(KINDS[kind], "key")), expected)
    assert np.array_equal(decode(KINDS[kind], max(expected.shape)), expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(("jpeg", "png", "webp"))])
def test_an_image_whose_end_is_missing_is_refused_everywhere(kind):
    cut = KINDS[kind][: len(KINDS[kind]) * 2 // 3]
    if "animated" in kind and "png" in kind:
        cut = KINDS[kind][:900]  # within the first frame
    with pytest.raises(DataError, match="the image of sample 'key' cannot be decoded"):
        decode_image(cut, "key")
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(cut, 16)


def test_a_missing_middle_is_refused_and_a_missing_end_mark_is_not():
    data = KINDS["jpeg"]
    half = data[: len(data) // 2] + data[-2:]  # Pillow would fill it with grey
    for refuse, error in ((lambda: decode_image(half, "key"), DataError), (lambda: decode(half, 16), ValueError)):
        with pytest.raises(error, match="cannot be decoded"):
            refuse()
    whole = decode_like_open_clip(data)
    assert np.array_equal(np.asarray(decode_image(data[:-2], "key")), whole)
    assert np.array_equal(decode(data[:-2], 90), whole)
    # Nor is it turned then.
    turned = KINDS["jpeg turned"]
    assert np.array_equal(decode_like_open_clip(turned[:-2]), decode_like_open_clip(turned))


def test_what_is_too_large_or_no_image_is_told_from_its_head():
    large = KINDS["png"][:16] + struct.pack(">II", 30000, 30000) + KINDS["png"][24:]
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        decode_image(large, "key")
    assert "30000 x 30000" in caught.value.found
    with pytest.raises(ImageError, match="not_an_image"):
        check_size(b"<svg/>")


CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.mark.long  # a model
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_vectors_are_those_of_open_clip(resize, interpolation, tmp_path):
    torch.manual_seed(1)
    thin = ("odd: 1 x 300", "odd: 300 x 2")  # which open_clip itself cannot make fit
    kinds = {kind: data for kind, data in KINDS.items() if resize != "longest" or kind not in thin}
    preprocess = {"mean": [0.4, 0.5, 0.6], "resize_mode": resize, "interpolation": interpolation, "fill_color": 9}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess}))
    safetensors.torch.save_file(open_clip.CLIP(**CONFIG).state_dict(), tmp_path / "open_clip_model.safetensors")
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    model.eval()
    with torch.no_grad():
        encoder = load_encoder(tmp_path)
        # Files, and images as somebody opened them, in their own modes.
        for ours, theirs in ((decode_image, opened), (raw, raw)):
            pixels = torch.stack([transform(theirs(data)) for data in kinds.values()])
            expected = model.encode_image(pixels, normalize=True).numpy()
            found = encoder.encode_images(ours(data, kind) for kind, data in kinds.items())
            for kind, one, other in zip(kinds, found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5, err_msg=kind)
