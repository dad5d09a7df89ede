"""The list of image formats: no name means two things, and names are those of Pillow and of the web."""

import mimetypes
from collections import Counter

import pytest

from infra.images.formats import ACCEPTED, EXTENSIONS, MEDIA_TYPES, REFUSED, extension_of


def test_no_extension_or_type_means_two_formats():
    for names in (
        [form.name for form in ACCEPTED],
        [extension for form in ACCEPTED for extension in form.extensions] + list(REFUSED),
        [kind for form in ACCEPTED for kind in form.media_types],
    ):
        assert [name for name, count in Counter(names).items() if count > 1] == []


def test_the_system_knows_the_types_by_the_same_extensions():
    types = mimetypes.MimeTypes().types_map[True]  # without the files of this machine, which others may have read
    known = [(kind, name) for name, kind in types.items() if kind in MEDIA_TYPES]
    assert {MEDIA_TYPES[kind].name for kind, _ in known} >= {"jpeg", "png", "gif", "bmp", "tiff"}
    for kind, name in known:
        assert EXTENSIONS[name[1:]] is MEDIA_TYPES[kind]


@pytest.mark.parametrize(
    ("url", "extension"),
    [
        ("https://a.example/b/c.JPG", "jpg"),
        ("https://a.example/c.tar.webp?x=1.png#y.gif", "webp"),
        ("https://a.example/c.jpg/", ""),
        ("https://a.example", ""),
        ("https://a.example/b.c/d", ""),
        ("https://a.example/?f=http://b.example/c.jpg", ""),
        ("https://a.example/http://b.example/c.png", "png"),
    ],
)
def test_extension_of_an_address(url, extension):
    assert extension_of(url) == extension
