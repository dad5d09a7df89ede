"""URL resolution: the fast path agrees with the standard's parser on any input."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.html.resolve import Base
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
    resolver = Base(base)
    for _ in range(2):  # the second time from memory
        assert resolver.resolve(address) == (wanted or "")
        if address.strip() and not address.strip().startswith("#"):  # a place on the page is no picture
            assert resolver.images([address]) == [wanted or ""]
