"""The resizer against img2dataset's own, the header reader against Pillow, and both against damaged files."""

import io
import random
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from infra.images.decode import decode
from infra.images.errors import ImageError
from infra.images.header import Header, read_header
from infra.schema import Drop
from pipelines.images.resize import Resizing, resize

MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")


@pytest.fixture
def resizer(img2dataset):
    return img2dataset.resizer.Resizer


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Clouds of colour whose contrast falls with their size, as it does in photographs."""
    rng = np.random.default_rng(seed)
    layers = (rng.integers(0, 256, (size, size, 3)).astype(np.float32) / size for size in (4, 8, 16, 32, 64))
    pixels = sum(cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) for layer in layers) * 2
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


FILES = {
    "jpeg": encoded(photo(500, 333), quality=90),
    "large jpeg": encoded(photo(1601, 1203), quality=90, progressive=True),
    "grey jpeg": encoded(photo(300, 450).convert("L"), quality=90),
    "cmyk jpeg": encoded(photo(300, 280).convert("CMYK"), quality=90),
    "png": encoded(photo(400, 290), "PNG"),
    "palette png": encoded(photo(400, 290).quantize(64), "PNG"),
    "small png": encoded(photo(120, 90), "PNG"),
    "webp": encoded(photo(333, 500), "WEBP", quality=90),
    "bmp": encoded(photo(200, 310), "BMP"),
    "gif": encoded(photo(340, 290).quantize(64), "GIF"),
}


@pytest.mark.parametrize("only_if_bigger", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sizes_and_pixels_are_img2datasets(resizer, name, mode, only_if_bigger):
    options = Resizing(image_size=256, resize_mode=mode, resize_only_if_bigger=only_if_bigger)
    ours = resize(FILES[name], options)
    theirs, *sizes, error = resizer(256, mode, only_if_bigger)(io.BytesIO(FILES[name]))
    assert error is None
    assert [ours.width, ours.height, ours.original_width, ours.original_height] == sizes
    assert psnr(pixels(ours.data), pixels(theirs)) > 38


@pytest.mark.parametrize(("form", "quality"), [("jpg", 95), ("png", 6), ("webp", 90)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_encodings_are_img2datasets(resizer, form, quality):
    options = Resizing(image_size=600, encode_format=form, encode_quality=quality)
    theirs = resizer(600, "keep_ratio", True, encode_format=form, encode_quality=quality)(io.BytesIO(FILES["png"]))[0]
    assert resize(FILES["png"], options).data == theirs


@pytest.mark.parametrize(
    ("options", "reason", "message"),
    [
        ({"min_image_size": 334}, Drop.TOO_SMALL, "image too small"),
        ({"max_image_area": 500 * 333 - 1}, Drop.AREA, "image area too large"),
        ({"max_aspect_ratio": 1.5}, Drop.ASPECT, "aspect ratio too large"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refusals_are_img2datasets(resizer, options, reason, message):
    assert resizer(256, "keep_ratio", True, **options)(io.BytesIO(FILES["jpeg"]))[-1] == message
    with pytest.raises(ImageError) as error:
        resize(FILES["jpeg"], Resizing(**options))
    assert (error.value.reason, error.value.message) == (reason, message)


def test_limits_themselves_are_allowed():
    limits = Resizing(min_image_size=333, max_image_area=500 * 333, max_aspect_ratio=500 / 333)
    assert resize(FILES["jpeg"], limits).original_width == 500


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_orientation_is_pillows(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(320, 200), form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    ours = resize(data, Resizing(resize_mode="no", encode_format="png", encode_quality=1))
    assert (ours.original_width, ours.original_height) == upright.size == (ours.width, ours.height)
    assert psnr(pixels(ours.data), np.asarray(upright.convert("RGB"))) > 45
    small = resize(data, Resizing(image_size=64))
    assert (small.width > small.height) == (upright.width > upright.height)


def test_transparency_lies_on_white():
    image = photo(64, 64)
    image.putalpha(Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))))
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(int)
    for form in ("PNG", "WEBP"):
        data = encoded(image, form, lossless=True, exact=True) if form == "WEBP" else encoded(image, form)
        ours = resize(data, Resizing(resize_mode="no", encode_format="png", encode_quality=1))
        assert np.abs(pixels(ours.data) - expected).max() <= 1
    grey = encoded(Image.merge("LA", [Image.new("L", (8, 8), 40), Image.new("L", (8, 8), 51)]), "PNG")
    assert np.unique(pixels(resize(grey, Resizing(encode_format="png", encode_quality=1)).data)).tolist() == [212]


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("mode", ["P", "L"])
def test_transparency_of_a_gif_lies_on_white(mode, interlace):
    image = photo(90, 70).quantize(16) if mode == "P" else photo(90, 70).convert("L")
    clear = image.getpixel((40, 30))
    data = encoded(image, "GIF", transparency=clear, interlace=interlace)
    shown = Image.open(io.BytesIO(data)).convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    ours = resize(data, Resizing(encode_format="png", encode_quality=1))
    assert np.array_equal(pixels(ours.data), np.asarray(expected))
    assert pixels(ours.data)[30, 40].tolist() == [255, 255, 255]


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_parts_that_are_not_pixels_change_nothing(form):
    frames = [photo(90, 70).quantize(32), photo(90, 70, seed=1).quantize(32)]
    animation = {"save_all": True, "append_images": frames[1:], "duration": 100}
    notes = {"icc_profile": b"x" * 500, "dpi": (72, 72)} if form == "PNG" else {"comment": b"x" * 500}
    bare, dressed = encoded(frames[0], form), encoded(frames[0], form, **animation, **notes)
    assert len(dressed) > len(bare) + 500
    assert resize(dressed, Resizing()).data == resize(bare, Resizing()).data


def test_converting_in_strips_gives_the_same_image(monkeypatch):
    deep = np.random.default_rng(0).integers(0, 65536, (211, 97, 4)).astype(np.uint16)
    for image in (deep, deep[:, :, 0], deep[:, :, :3], (deep >> 8).astype(np.uint8)):
        data = cv2.imencode(".png", image)[1].tobytes()
        whole = decode(data, read_header(data))
        monkeypatch.setattr("infra.images.decode._STRIP", 1000)
        assert np.array_equal(decode(data, read_header(data)), whole)
        monkeypatch.undo()


def test_sixteen_bits_keep_their_shades():
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    data = cv2.imencode(".png", ramp)[1].tobytes()
    ours = pixels(resize(data, Resizing(encode_format="png", encode_quality=1)).data)
    assert np.abs(ours[0, :, 0].astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (80, 60), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=100, loop=0)
    red, _, blue = pixels(resize(data, Resizing()).data)[30, 40]
    assert red > 240 and blue < 16


def test_exif_is_kept():
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    assert '"Image Make": "A maker"' in resize(encoded(photo(64, 64), exif=exif), Resizing()).exif
    assert resize(FILES["png"], Resizing()).exif == "{}"


@pytest.mark.long
@pytest.mark.parametrize("factor", [1.3, 1.75, 1.9, 2, 2.4, 3, 3.49, 3.6, 5, 7.1, 14])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_shrinking_by_any_factor_looks_like_img2datasets(resizer, factor):
    data = encoded(photo(round(96 * factor), round(150 * factor)), quality=90)
    theirs = resizer(96, "keep_ratio", True)(io.BytesIO(data))[0]
    assert psnr(pixels(resize(data, Resizing(image_size=96)).data), pixels(theirs)) > 38


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_needs_no_work_is_kept_byte_for_byte_if_asked(resizer):
    keep = Resizing(image_size=600, skip_reencode=True)
    theirs = resizer(600, "keep_ratio", True, skip_reencode=True)
    assert resize(FILES["jpeg"], keep).data == FILES["jpeg"] == theirs(io.BytesIO(FILES["jpeg"]))[0]
    for name, options in (("png", keep), ("jpeg", Resizing(image_size=100, skip_reencode=True))):
        assert resize(FILES[name], options).data != FILES[name]
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = encoded(photo(60, 40), exif=exif)
    assert resize(lying, keep).data != lying  # to stand upright it has to be written anew
    with pytest.raises(ImageError):
        resize(FILES["jpeg"][:9000], keep)


@pytest.mark.parametrize(("form", "options"), [("png", {}), ("webp", {"lossless": True}), ("webp", {"quality": 80})])
def test_alpha_is_laid_on_white_even_if_nothing_else_needs_work(form, options):
    keep = Resizing(image_size=600, skip_reencode=True, encode_format=form)
    opaque, clear = encoded(photo(60, 40), form, **options), photo(60, 40)
    clear.putalpha(1)
    assert resize(opaque, keep).data == opaque
    assert pixels(resize(encoded(clear, form, exact=True, **options), keep).data).min() > 250


def test_a_large_jpeg_is_decoded_small_but_never_below_what_is_asked():
    data = encoded(photo(1600, 1200))
    header = read_header(data)
    assert decode(data, header, at_least=(340, 256)).shape == (300, 400, 3)
    assert decode(data, header, at_least=(401, 256)).shape == (600, 800, 3)
    assert decode(data, header, at_least=(1700, 1200)).shape == decode(data, header).shape == (1200, 1600, 3)


# --- damage -----------------------------------------------------------------------------------------------------------


def why(data: bytes) -> Drop:
    with pytest.raises(ImageError) as error:
        resize(data, Resizing())
    return error.value.reason


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"<svg xmlns='...'/>", b"%PDF-1.7", b"II*\0" + bytes(80), b"\xff\xd8\xff"]
)
def test_what_is_no_image(data):
    assert why(data) is Drop.NOT_AN_IMAGE


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_half_an_image(name):
    data = FILES[name]
    assert why(data[: len(data) // 2]) is (Drop.DECODE if name == "webp" else Drop.TRUNCATED)


def test_stray_bytes_in_a_jpeg_do_no_harm():
    data = FILES["jpeg"]
    assert resize(data[:-2] + b"xx\xff\xd9", Resizing()).width == resize(data, Resizing()).width


def test_a_bomb_is_judged_before_it_goes_off():
    claims = struct.pack("<BI", 0x2F, 16383 | 16383 << 14)
    webp = b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8L" + struct.pack("<I", 20) + claims + bytes(15)
    assert read_header(webp) == Header("webp", 16384, 16384)
    with pytest.raises(ImageError) as error:
        resize(webp, Resizing(max_image_area=100_000_000))
    assert error.value.reason is Drop.AREA


def test_a_jpeg_of_endless_scans_is_refused():
    data = encoded(photo(64, 64), progressive=True)
    scan = data.index(b"\xff\xda")
    assert why(data[:scan] + data[scan:-2] * 20 + b"\xff\xd9") is Drop.DECODE


def test_what_the_encoder_cannot_hold():
    with pytest.raises(ImageError):
        resize(encoded(Image.new("L", (17_000, 2)), "PNG"), Resizing(resize_mode="no", encode_format="webp"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(1, 1), (37, 23), (300, 2)])
def test_headers_are_pillows(form, size):
    for mode in ("RGB", "L", "P"):
        image = Image.new(mode, size)
        if form == "JPEG" and mode == "P":
            continue
        header = read_header(encoded(image, form))
        assert (header.format.upper(), header.width, header.height) == (form, *size)


@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32), st.integers(1, 30), st.integers(0, 2))
def test_no_damage_is_more_than_an_image_error(name, seed, count, cut):
    rng, data = random.Random(seed), bytearray(FILES[name])
    del data[len(data) if not cut else rng.randrange(len(data)) :]
    for _ in range(count if data else 0):
        data[rng.randrange(min(len(data), 700 if count % 2 else len(data)))] = rng.randrange(256)
    try:
        result = resize(bytes(data), Resizing(image_size=32, max_image_area=1_000_000))
    except ImageError as error:
        assert error.message and isinstance(error.reason, Drop)
    else:
        assert min(result.width, result.height) <= 32


@given(st.binary(max_size=80), st.sampled_from([b"II*\0", b"MM\0*", b""]))
def test_any_exif_block_has_an_orientation(data, start):
    assert 1 <= Header("jpeg", 1, 1, start + data).orientation <= 8


def _small_files():
    """A small file of each format, one of each kind that has parts of its own."""
    image = photo(24, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = image.convert("P")
    return {
        "jpeg": encoded(image, exif=exif),
        "progressive": encoded(image, progressive=True),
        "png": encoded(image, "PNG", exif=exif),
        "webp": encoded(image, "WEBP", exif=exif),
        "lossless": encoded(image, "WEBP", lossless=True),
        "gif": encoded(palette, "GIF", transparency=3),
        "animated": encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(90), palette]),
        "bmp": encoded(image, "BMP"),
    }


@pytest.mark.parametrize("name", _small_files())
def test_a_file_cut_anywhere_is_an_image_or_a_reason(name):
    """Ten bytes of a GIF, signature and size, once ended a whole download."""
    data = _small_files()[name]
    for end in range(len(data)):
        try:
            resize(data[:end], Resizing(image_size=8))
        except ImageError as error:
            assert isinstance(error.reason, Drop)
