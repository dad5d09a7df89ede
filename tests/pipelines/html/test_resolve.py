"""URL resolution: the fast path agrees with the standard's parser on any input."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.html.resolve import resolved
from pipelines.web.urls import BadUrlError, canonical

BASES = [
    "http://a.example/",
    "https://www.a.example/dir/page?q=a/b",
    "http://a.example:8080/x/",
    "http://127.0.0.1/a",
    "http://[::1]/a",
    "http://localhost/a",
]
PIECES = [
    *(
        "/",
        "//",
        "/.",
        "..",
        ".",
        "./",
        "?",
        "#",
        ":",
        "@",
        "%2e",
        "%2E",
        "%41",
        "%",
        "&",
        "=",
        "\\",
        " ",
        "\t",
        "|",
        "^",
    ),
    *(
        "http:",
        "https://",
        "http://",
        "HTTP://",
        "data:",
        "a.example",
        "A.example",
        "b.c.example",
        "a.1",
        "0x7f.1",
        "1.2.3.4",
    ),
    *(
        "xn--bcher-kva.example",
        "a.xn--p1ai",
        ":80",
        ":8080",
        "img",
        "x.jpg",
        "~u",
        "é",
        "図",
        "-",
        "_",
        "*",
        "'",
        '"',
        "{",
    ),
]


@given(st.sampled_from(BASES), st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_like_the_parser(base, address):
    try:
        wanted = canonical(address, base)
    except BadUrlError:
        wanted = None
    if not address.strip() or address.strip().startswith("#"):  # a place on the page is no picture
        wanted = None
    assert resolved(pa.array([address] * 2), [base], np.zeros(2, int)).to_pylist() == [wanted] * 2
    others = ["/x.jpg", address, None]  # on pages of another site
    found = resolved(pa.array(others), ["http://b.example/", base], np.array([0, 1, 0]))
    assert found.to_pylist() == ["http://b.example/x.jpg", wanted, None]
