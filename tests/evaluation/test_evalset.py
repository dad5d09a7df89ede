"""The layout's reader against webdataset, and what it refuses."""

from __future__ import annotations

import gzip
import io
import zlib
from contextlib import ExitStack

import numpy as np
import pytest
import webdataset
from evaluation_samples import picture, tar, write_artifact
from PIL import Image

from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet, decode_image


def test_reads_what_webdataset_reads(seen):
    examples = EvalSet.open(seen, "seen", "test")
    assert examples.classes[:2] == ("red circle", "blue circle")
    assert examples.templates == ("a photo of a {c}.", "a drawing of the {c}")
    urls = [seen.url(f"data/seen/test/{shard}.tar") for shard in range(2)]
    with ExitStack() as stack:  # webdataset leaves files it opens itself to the garbage collector
        sources = [{"url": url, "stream": stack.enter_context(open(url, "rb"))} for url in urls]
        pipeline = webdataset.DataPipeline(
            lambda: iter(sources),
            webdataset.tariterators.tar_file_expander,
            webdataset.tariterators.group_by_keys,
            webdataset.decode("pil"),
            webdataset.to_tuple("__key__", "png", "cls"),
        )
        theirs = list(pipeline)
    ours = [(sample.key, sample.image.tobytes(), sample.label) for sample in examples]
    assert ours == [(key, image.convert("RGB").tobytes(), label) for key, image, label in theirs]
    assert len(ours) == 24


def test_reads_captions_and_single_images(holdout):
    examples = EvalSet.open(holdout, "holdout", "test")
    samples = list(examples)
    assert examples.retrieval
    assert samples[2].captions == ("a $10 heart", "a $10 heart number 2", "something")
    picked = examples.images([17, 3, 3])
    assert {place: image.tobytes() for place, image in picked.items()} == {
        place: samples[place].image.tobytes() for place in (3, 17)
    }


def test_names_the_sets_there_are(seen):
    with pytest.raises(ConfigError) as caught:
        EvalSet.open(seen, "seem", "test")
    assert "test sets seen" in str(caught.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", picture(0))], "no valid label"),
        ([("a.png", picture(0)), ("a.cls", b"2")], "no valid label"),
        ([("a.png", picture(0)), ("a.cls", b"-1")], "no valid label"),
        ([("a.cls", b"1")], "has no image"),
        ([("a.png", picture(0)[:200]), ("a.cls", b"1")], "cannot be decoded"),
    ],
)
def test_a_bad_sample_is_an_error(tmp_path, members, message):
    files = {"data/x/classnames.txt": b"a\nb\n", "data/x/test/nshards.txt": b"1", "data/x/test/0.tar": tar(members)}
    with pytest.raises(DataError, match=message):
        list(EvalSet.open(write_artifact(tmp_path, files), "x", "test"))


GOOD = {
    "data/x/classnames.txt": b"red\nblue\n",
    "data/x/zeroshot_classification_templates.txt": b"a {c}\n",
    "data/x/test/nshards.txt": b"1\n",
    "data/x/test/0.tar": tar([("a.png", picture(0)), ("a.cls", b"1\n")]),
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"classnames.txt": b"red\n\nblue\n"}, "classnames.txt has a class without a name"),
        ({"classnames.txt": b"\nred\nblue\n"}, "line 1 of 3"),
        ({"classnames.txt": b"red\n \t\nblue\n"}, "line 2 of 3"),
        ({"classnames.txt": b"r\xff\nblue\n"}, "classnames.txt is not UTF-8"),
        ({"classnames.txt": b"red\n"}, "'a' of x has no valid label"),
        ({"zeroshot_classification_templates.txt": b"a {c}\na photo\n"}, "'a photo'"),
        ({"test/nshards.txt": b"two"}, "nshards.txt is no number of shards"),
        ({"test/nshards.txt": b""}, "nshards.txt is no number of shards"),
        ({"test/nshards.txt": b"0"}, "more shards than .*nshards.txt"),
        ({"test/nshards.txt": b"2"}, "test/1.tar is missing"),
        ({"test/1.tar": tar([])}, "more shards than .*nshards.txt"),
        ({"test/0.tar": GOOD["data/x/test/0.tar"][:2000]}, "test/0.tar: a tar ends in the middle"),
        ({"test/0.tar": b""}, "test/0.tar: the file has 0 bytes"),
        ({"test/0.tar": gzip.compress(GOOD["data/x/test/0.tar"])}, "test/0.tar: this is a gzip file"),
        ({"test/0.tar": tar([])}, "test set 'x' is empty"),
        ({"test/0.tar": tar([("p.1.png", picture(0)), ("p.1.cls", b"0")])}, "counts as the extension"),
        ({"test/0.tar": tar([("a.png", picture(0)), ("a.cls", "١".encode())])}, "no valid label"),
        ({"test/0.tar": tar([("a.png", picture(0)), ("a.cls", b"1.0")])}, "no valid label"),
        ({"dataset_type.txt": b"retrieval"}, "sample 'a' has no caption"),
    ],
)
def test_what_is_wrong_with_a_set_is_named(tmp_path, changed, words):
    files = GOOD | {f"data/x/{path}": data for path, data in changed.items()}
    with pytest.raises(DataError, match=words):
        list(EvalSet.open(write_artifact(tmp_path, files), "x", "test"))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (b"red\nblue", ("red", "blue")),
        (b"\xef\xbb\xbfred\r\nblue\r\n\r\n\n", ("red", "blue")),  # Notepad's mark and line ends, blank lines behind
        (b"crane\ncrane\n", ("crane", "crane")),  # ImageNet has two of some
        ("a\u2028b\nc\x0bd\n".encode(), ("a\u2028b", "c\x0bd")),  # no line ends for CLIP_benchmark
    ],
)
def test_the_classes_are_the_lines(tmp_path, classes, expected):
    files = GOOD | {"data/x/classnames.txt": classes}
    assert EvalSet.open(write_artifact(tmp_path, files), "x", "test").classes == expected


def test_captions_are_the_lines_that_are_not_blank(tmp_path):
    captions = "\ufeffone\r\n\ntwo\u2028halves\n \n".encode()
    files = GOOD | {"data/x/dataset_type.txt": b"retrieval\n"}
    files["data/x/test/0.tar"] = tar([("a.png", picture(0)), ("a.txt", captions)])
    (sample,) = EvalSet.open(write_artifact(tmp_path, files), "x", "test")
    assert sample.captions == ("one", "two\u2028halves")
    files["data/x/test/0.tar"] = tar([("a.png", picture(0)), ("a.txt", b"caf\xe9")])
    with pytest.raises(DataError, match="caption of sample 'a' is not UTF-8"):
        list(EvalSet.open(write_artifact(tmp_path / "other", files), "x", "test"))


@pytest.mark.parametrize("name", ["vtab/x", "vtab/x/"])
def test_a_set_in_a_folder_of_sets_is_found(tmp_path, name):
    files = {path.replace("data/x/", "data/vtab/x/"): data for path, data in GOOD.items()}
    (sample,) = EvalSet.open(write_artifact(tmp_path, files), name, "test")
    assert (sample.key, sample.label) == ("a", 1)


def test_a_set_of_another_kind_is_refused(tmp_path):
    files = {"data/x/dataset_type.txt": b"segmentation\n", "data/x/test/nshards.txt": b"1"}
    with pytest.raises(DataError, match="cannot score"):
        EvalSet.open(write_artifact(tmp_path, files), "x", "test")


def test_the_formats_of_downloads_are_decoded():
    expected = np.asarray(Image.open(io.BytesIO(picture(0, kind="PNG"))))
    for kind in ("GIF", "BMP", "TIFF", "AVIF", "ICO", "JPEG2000", "WEBP"):
        image = decode_image(picture(0, kind=kind), "x")
        assert (image.mode, image.height > 0) == ("RGB", True)
        if kind in ("BMP", "TIFF"):
            assert np.array_equal(np.asarray(image), expected)
    for other in (picture(0, kind="QOI"), b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0"):
        with pytest.raises(DataError, match="cannot be decoded"):
            decode_image(other, "x")


def test_a_picture_is_measured_before_it_is_decoded():
    header = (30000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    with pytest.raises(DataError, match=r"too large|cannot be decoded"):
        decode_image(bomb, "x")


def test_palette_and_alpha_become_rgb():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "x").getpixel((0, 0)) == (255, 0, 0)
