"""Crawler traps: addresses without end that lead to nothing new.

Two nets. An address can betray itself: a path that repeats, is too deep, or has too many parameters. What looks
innocent (calendars, session ids, pages that answer whatever is asked) betrays itself by what it serves: pages of one
*pattern*, such as ``/calendar/#/#``, that all say the same. To a crawler that is after pictures a page that shows
another picture is another page, so pages count as near-identical only if they show exactly the same pictures, and
their words and the patterns they link to have almost the same SimHash (Charikar 2002; Manku et al. 2007).

Pure functions; nothing here knows of files or of the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from infra import hashing
from infra.config import Config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Fingerprint", "Pattern", "Traps", "fingerprint", "hash64", "pattern", "trap", "without_session"]

NEAR = 6  # bits of 64 that the SimHashes of near-identical pages may differ in
SHARE = 0.75  # of a pattern's pages that must be near-identical: a trap serves little else
_CLUSTERS = 8  # candidates for the page a pattern repeats
_CHARACTERS, _LINKS = 20_000, 500  # of a page, at most, that are looked at

_SESSION_PATH = re.compile(r"(?i);(?:jsessionid|phpsessid|sid|s)=[^/?;]*|(?<=/)\([a-z]\([a-z0-9]+\)\)/")
_NUMBER = re.compile(r"\d+")
_TOKEN = re.compile(r"(?i)(?=[a-z_-]*\d)[0-9a-z_-]{16,}|[0-9a-f]{12,}")
_WORD = re.compile(r"\w+")
_SAYS_NOTHING = re.compile(  # numbers and the names in dates
    r"\d.*|january|february|march|april|may|june|july|august|september|october|november|december|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|"
    r"monday|tuesday|wednesday|thursday|friday|saturday|sunday|mon|tue|wed|thu|fri|sat|sun"
)


class Traps(Config):
    """When an address, or a family of addresses, is taken for a trap."""

    max_segments: int = Field(20, gt=0, description="segments of a path at most")
    max_repeats: int = Field(2, gt=0, description="times a path may have the same segments, one or several, in a row")
    max_parameters: int = Field(12, gt=0, description="query parameters at most")
    max_alike: int = Field(
        30, gt=0, description="near-identical pages after which no more of their pattern (host, path shape) are fetched"
    )


def trap(url: str, traps: Traps) -> str:
    """The rule that says a canonical URL leads nowhere; empty if none does."""
    path, _, query = url.partition("?")
    segments = [part for part in path.split("/")[3:] if part]
    if len(segments) > traps.max_segments:
        return "path_depth"
    if _repeats(segments, traps.max_repeats):
        return "path_repetition"
    if query.count("&") >= traps.max_parameters:
        return "parameters"
    return ""


def _repeats(segments: list[str], most: int) -> bool:
    """Whether a run of segments occurs more than ``most`` times in a row, as in ``/a/b/a/b/a/b``."""
    for length in range(1, len(segments) // (most + 1) + 1):
        same = 0  # segments in a row that equal the one ``length`` before them
        for one, other in zip(segments, segments[length:], strict=False):
            same = same + 1 if one == other else 0
            if same >= length * most:
                return True
    return False


def without_session(url: str) -> str:
    """A canonical URL without the session ids that servers write into paths (Java's and ASP.NET's)."""
    if ";" not in url and "(" not in url:
        return url
    path, question, query = url.partition("?")
    return f"{_SESSION_PATH.sub('', path)}{question}{query}"


# --- families of addresses --------------------------------------------------------------------------------------------


def pattern(url: str) -> str:
    """The family of a canonical URL: its host, the shape of its path, the names of its parameters.

    Numbers become ``#``, tokens ``*``, and the last word of a path ``~``: ``http://h/shop/red-chair-12.html?b=1&a=2``
    -> ``h/shop/~.html?a&b``.
    """
    path, _, query = url.partition("?")
    _, _, host, *segments = path.split("/")
    last = next((index for index in range(len(segments) - 1, -1, -1) if segments[index]), -1)
    shape = "/".join(_shape(segment, index == last) for index, segment in enumerate(segments))
    names = sorted({part.partition("=")[0] for part in query.split("&") if part})
    return f"{host}/{shape}?{'&'.join(names)}" if names else f"{host}/{shape}"


@lru_cache(1 << 14)
def _shape(segment: str, last: bool) -> str:
    stem, dot, extension = segment.rpartition(".") if last else (segment, "", "")
    if not stem or len(extension) > 5:
        stem, dot, extension = segment, "", ""
    if _TOKEN.fullmatch(stem):
        stem = "*"
    elif last and any(map(str.isalpha, stem)):
        stem = "~"
    else:
        stem = _NUMBER.sub("#", stem)
    return f"{stem}{dot}{extension}"


hash64 = lru_cache(1 << 16)(hashing.hash64)  # hosts, patterns and words come again and again


# --- what pages serve -------------------------------------------------------------------------------------------------


class Fingerprint(NamedTuple):
    """``pictures``: a digest of the pictures shown, 64 bits; ``simhash``: of words and links, 64 bits."""

    pictures: int
    simhash: int

    def near(self, other: Fingerprint) -> bool:
        return self.pictures == other.pictures and (self.simhash ^ other.simhash).bit_count() <= NEAR


def fingerprint(url: str, text: str, pictures: Iterable[str], links: Iterable[str]) -> Fingerprint:
    """Of a page: its visible text, the addresses of its pictures as written, its canonical links.

    Numbers, names of months and days, and words of its own address say nothing about a page: they are what differs
    between the pages of a calendar, or in "``/xyz`` was not found".
    """
    import numpy as np

    words = _WORD.findall(text[:_CHARACTERS].lower())
    said = set(_WORD.findall(url.partition("//")[2].lower()))
    codes = {word: 0 if word in said or _SAYS_NOTHING.fullmatch(word) else hash64(word) for word in set(words)}
    spoken = np.array([codes[word] for word in words] + [0] * (3 - len(words)), np.uint64)
    shingles = _mixed(_mixed(_mixed(spoken[:-2]) + spoken[1:-1]) + spoken[2:])
    leads = np.array([hash64(pattern(link)) for link in islice(links, _LINKS)], np.uint64)
    features, counts = np.unique(np.concatenate([shingles, leads]), return_counts=True)
    bits = np.unpackbits(features.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1).astype(np.int64) * 2 - 1
    simhash = int.from_bytes(np.packbits(counts @ bits > 0).tobytes(), "big")
    return Fingerprint(hash64("\n".join(sorted(set(pictures)))), simhash)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finish: every bit of a number decides every bit of the result."""
    import numpy as np

    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


@dataclass
class Pattern:
    """What the pages of one pattern were like so far: how many, and the largest groups of near-identical ones.

    Groups are kept as Misra and Gries (1982) keep frequent items, so a group that holds most pages is never lost,
    whatever else the pattern serves.
    """

    pages: int = 0
    groups: list[tuple[Fingerprint, int]] = field(default_factory=list)

    def add(self, page: Fingerprint) -> None:
        self.pages += 1
        for index, (first, count) in enumerate(self.groups):
            if page.near(first):
                self.groups[index] = (first, count + 1)
                return
        if len(self.groups) < _CLUSTERS:
            self.groups.append((page, 1))
        else:
            self.groups = [(first, count - 1) for first, count in self.groups if count > 1]

    def is_trap(self, max_alike: int) -> bool:
        most = max((count for _, count in self.groups), default=0)
        return most > max_alike and most >= SHARE * self.pages
