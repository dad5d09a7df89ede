"""What the fuzz tests share: how many examples, accidents that happen to files, and URLs nobody should write."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def fuzz(examples: int):
    """A budget of examples; a failure is shrunk only as far as the test run's patience goes."""
    times = int(os.environ.get("CLIPLINE_FUZZ", "1"))
    return settings(
        max_examples=examples * times, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )


@st.composite
def mutated(draw, seeds: list[bytes]) -> bytes:
    """A valid file after up to six accidents: flipped bits, cuts, repetitions, splices, numbers at their limits."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(("flip", "byte", "cut", "drop", "repeat", "splice", "number"))):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if data:
                data[at] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFE, 0xFF)))
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + draw(st.integers(1, 64))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 4))
            case "splice":
                other = draw(st.sampled_from(seeds))
                start = draw(st.integers(0, max(0, len(other) - 1)))
                data[at : at + 32] = other[start : start + 32]
            case "number":
                data[at : at + 4] = draw(st.sampled_from((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")))
    return bytes(data)


_PART = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *(
                "http",
                "https",
                ":",
                "//",
                "/",
                "?",
                "#",
                "@",
                "..",
                ".",
                "%2e",
                "%00",
                "\\",
                "[::1]",
                "127.1",
                "0x7f.1",
            ),
            *(
                "a.example",
                "xn--",
                "xn--bcher-kva",
                "ß",
                "İ",
                "\u200b",
                "。",
                "\ud800",
                "\0",
                "\t",
                "\n",
                " ",
                "a" * 64,
            ),
            *(":80", ":443", ":99999", "data:", "javascript:", "file:", "%", "%zz", "{}", "|", "^"),
        ]
    ),
)
urls = st.lists(_PART, max_size=10).map("".join) | st.lists(_PART, max_size=8).map(lambda p: "http://" + "".join(p))
