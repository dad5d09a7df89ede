"""Region features are read as numpy wrote them, and whatever else is there is refused with its reason."""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.formats.region_shape import RegionShape
from infra.formats.regions import Regions, pack, read_regions

DRAW = np.random.default_rng(0)
BOXES = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 1], [0.5, 0, 0.625, 0.25]], np.float16)
FEATURES = DRAW.normal(size=(3, 5))
CLASSES = np.array([[0.5, 0.25, 0.25, 0], [1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]])


def npy(array, **options):
    sink = io.BytesIO()
    np.lib.format.write_array(sink, np.asanyarray(array), **options)
    return sink.getvalue()


def good():
    return {"regions.npy": npy(FEATURES.astype(np.float32)), "boxes.npy": npy(BOXES), "classes.npy": npy(CLASSES)}


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_are_those_that_were_written(kind, version):
    array = FEATURES.astype(kind)
    for one in (array, np.asfortranarray(array)):
        found = read_regions(good() | {"regions.npy": npy(one, version=version)})
        assert found.features.dtype == np.float32
        assert (found.features == array.astype(np.float32)).all()
    assert (found.boxes == BOXES).all()
    assert (found.classes == CLASSES).all()


def test_a_table_has_all_of_a_region_in_a_row():
    whole, found = read_regions(good()), RegionShape(most=5, features=5, classes=4)
    table = pack(whole, found)
    assert table.shape == (5, found.columns) == (5, 13)
    assert table[:3] == pytest.approx(np.hstack([FEATURES, BOXES, CLASSES]), rel=1e-6)
    assert not table[3:].any()
    assert (pack(whole, RegionShape(2, 5, 0)) == table[:2, :9]).all()
    with pytest.raises(ValueError, match=r"regions\.npy has 5 columns, not 6"):
        pack(whole, RegionShape(5, 6, 0))
    with pytest.raises(ValueError, match=r"no classes\.npy"):
        pack(whole._replace(classes=None), found)


def test_each_of_several_pictures_has_the_regions_whose_centre_is_in_it():
    random = np.random.default_rng(1)
    corners = np.sort(random.random((40, 2, 2)), axis=1)
    boxes = corners.reshape(40, 4).astype(np.float32)
    features = random.normal(size=(40, 2)).astype(np.float32)
    shape = RegionShape(most=8, features=2, classes=0, pictures=3)
    table = pack(Regions(features, boxes, None), shape)
    assert table.shape == (shape.rows, 6) == (24, 6)
    for number in range(3):
        expected = []
        for feature, (left, top, right, bottom) in zip(features, boxes, strict=True):
            if number / 3 <= (left + right) / 2 < (number + 1) / 3:
                expected.append([*feature, max(0, 3 * left - number), top, min(1, 3 * right - number), bottom])
        assert len(expected) > 3
        own = table[8 * number : 8 * number + 8]
        assert own[: len(expected)] == pytest.approx(np.array(expected[:8]), abs=1e-5)
        assert not own[len(expected) :].any()
    edge = Regions(features[:1], np.array([[1 - 2**-24, 0, 1, 1]], np.float32), None)
    assert pack(edge, shape)[16, :2] == pytest.approx(features[0])


def test_rounding_beyond_the_edges_is_cut():
    boxes = BOXES.copy()
    boxes[0] = (-0.001, 0, 1.005, 1)
    found = read_regions(good() | {"boxes.npy": npy(boxes), "classes.npy": npy(CLASSES * 1.01)})
    assert (found.boxes == BOXES).all()
    assert found.classes.sum(1) == pytest.approx(1, abs=1e-6)


def changed(array, place, value):
    array = np.array(array, np.float64)
    array[place] = value
    return npy(array)


def claims(shape):
    sink = io.BytesIO()
    np.lib.format.write_array_header_1_0(sink, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return sink.getvalue()


OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([[{}] * 5] * 3), allow_pickle=True)
BAD = {
    "no boxes": ({"boxes.npy": None}, "no boxes.npy"),
    "empty": ({"regions.npy": b""}, "regions.npy is no .npy file"),
    "text": ({"boxes.npy": b"0 0 1 1"}, "boxes.npy is no .npy file"),
    "version": ({"boxes.npy": npy(BOXES, version=(3, 0))}, "boxes.npy is no .npy file"),
    "nested header": ({"regions.npy": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000}, "no .npy file"),
    "pickled": ({"regions.npy": OBJECTS.getvalue()}, "no table of floats"),
    "whole numbers": ({"regions.npy": npy(np.ones((3, 5), int))}, "no table of floats"),
    "one dimension": ({"regions.npy": npy(np.ones(15))}, "no table of floats"),
    "cut off": ({"regions.npy": npy(FEATURES)[:-1]}, "other bytes"),
    "claims too much": ({"regions.npy": claims((10**9, 10**6)) + bytes(60)}, "other bytes"),
    "claims less than nothing": ({"regions.npy": claims((-3, -5)) + bytes(60)}, "other bytes"),
    "a formula": ({"regions.npy": npy(FEATURES).replace(b"(3, 5)", b"(3*5,)")}, "no .npy file"),
    "not finite": ({"regions.npy": changed(FEATURES, (1, 1), np.nan)}, "not finite"),
    "too large for 32 bits": ({"regions.npy": changed(FEATURES, (1, 1), 1e300)}, "not finite"),
    "none": ({name: npy(np.ones((0, 4))) for name in good()}, "no regions"),
    "another number of boxes": ({"boxes.npy": npy(BOXES[:2])}, "boxes.npy has more or fewer rows"),
    "another number of classes": ({"classes.npy": npy(CLASSES[:2])}, "classes.npy has more or fewer rows"),
    "five corners": ({"boxes.npy": npy(np.ones((3, 5)))}, "5 columns, not 4"),
    "pixels": ({"boxes.npy": npy(BOXES * 224)}, "beyond the image"),
    "left of the image": ({"boxes.npy": changed(BOXES, (0, 0), -0.1)}, "beyond the image"),
    "width in place of right": ({"boxes.npy": changed(BOXES, (1, 2), 0.25)}, "no area"),
    "logits": ({"classes.npy": changed(CLASSES, (0, 0), -1)}, "no probabilities"),
    "scores": ({"classes.npy": npy(np.ones((3, 4)))}, "no probabilities"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name):
    members, why = BAD[name]
    with pytest.raises(ValueError, match=re.escape(why)):
        read_regions({name: data for name, data in (good() | members).items() if data is not None})


@given(st.data())
def test_damaged_files_are_refused_or_read(data):
    name = data.draw(st.sampled_from(sorted(good())))
    content = bytearray(good()[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = read_regions(good() | {name: content})
    except ValueError as error:
        assert len(str(error)) < 200
    else:
        assert len(found.features) == 3
        assert np.isfinite(found.features).all()
