"""Crawler trap detection: endless families of URLs that lead to nothing new.

Two tests. By URL: a path that repeats, is too deep, or has too many parameters. By content, for what looks harmless
(calendars, session ids, pages that answer any URL): pages of one *pattern*, such as ``/calendar/#/#``, that are all
near-identical. For a crawler of images a page with another image is another page, so pages are near-identical only if
they show exactly the same images, and their words and the patterns they link to have almost the same SimHash (Charikar
2002; Manku et al. 2007).

Pure functions, without files or network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra import hashing
from pipelines.crawl.config import Traps

__all__ = ["Fingerprint", "Pattern", "fingerprint", "hash64", "pattern", "trap", "without_session"]

NEAR = 6  # bits of 64 in which the SimHashes of near-identical pages may differ
SHARE = 0.75  # of a pattern's pages that must be near-identical for a trap
_GROUPS = 8  # groups of near-identical pages kept per pattern
_CHARACTERS, _LINKS = 20_000, 500  # of a page, at most, that enter its fingerprint

_SESSION_PATH = re.compile(r"(?i);(?:jsessionid|phpsessid|sid|s)=[^/?;]*|(?<=/)\([a-z]\([a-z0-9]+\)\)/")
_NUMBER = re.compile(r"\d+")
_TOKEN = re.compile(r"(?i)(?=[a-z_-]*\d)[0-9a-z_-]{16,}|[0-9a-f]{12,}")
_WORD = re.compile(r"\w+")
_DATE_WORD = re.compile(  # numbers and the names in dates
    r"\d.*|january|february|march|april|may|june|july|august|september|october|november|december|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|"
    r"monday|tuesday|wednesday|thursday|friday|saturday|sunday|mon|tue|wed|thu|fri|sat|sun"
)


def trap(url: str, traps: Traps) -> str:
    """Return the rule by which a canonical URL is a trap; empty if it is none."""
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
    """Return True if a run of segments occurs more than ``most`` times in a row, as in ``/a/b/a/b/a/b``."""
    for length in range(1, len(segments) // (most + 1) + 1):
        same = 0  # segments in a row that equal the one ``length`` before them
        for one, other in zip(segments, segments[length:], strict=False):
            same = same + 1 if one == other else 0
            if same >= length * most:
                return True
    return False


def without_session(url: str) -> str:
    """Remove the session ids that Java and ASP.NET servers write into paths from a canonical URL."""
    if ";" not in url and "(" not in url:
        return url
    path, question, query = url.partition("?")
    return f"{_SESSION_PATH.sub('', path)}{question}{query}"


# --- families of URLs -------------------------------------------------------------------------------------------------


def pattern(url: str) -> str:
    """Return the family of a canonical URL: host, shape of the path, names of the parameters.

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


hash64 = lru_cache(1 << 16)(hashing.hash64)  # hosts, patterns and words recur


# --- content of pages -------------------------------------------------------------------------------------------------


class Fingerprint(NamedTuple):
    """``images``: hash of the images shown, 64 bits; ``simhash``: of words and links, 64 bits."""

    images: int
    simhash: int

    def near(self, other: Fingerprint) -> bool:
        return self.images == other.images and (self.simhash ^ other.simhash).bit_count() <= NEAR


def fingerprint(url: str, text: str, images: Iterable[str], links: Iterable[str]) -> Fingerprint:
    """Compute the fingerprint of a page from its visible text, image URLs as written, and canonical links.

    Numbers, names of months and days, and words of the page's own URL are ignored: they are what differs between the
    pages of a calendar, or in "``/xyz`` was not found".
    """
    words = _WORD.findall(text[:_CHARACTERS].lower())
    own = set(_WORD.findall(url.partition("//")[2].lower()))
    codes = {word: 0 if word in own or _DATE_WORD.fullmatch(word) else hash64(word) for word in set(words)}
    hashes = np.array([codes[word] for word in words] + [0] * (3 - len(words)), np.uint64)
    shingles = _mixed(_mixed(_mixed(hashes[:-2]) + hashes[1:-1]) + hashes[2:])
    targets = np.array([hash64(pattern(link)) for link in islice(links, _LINKS)], np.uint64)
    features, counts = np.unique(np.concatenate([shingles, targets]), return_counts=True)
    bits = np.unpackbits(features.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1).astype(np.int64) * 2 - 1
    simhash = int.from_bytes(np.packbits(counts @ bits > 0).tobytes(), "big")
    return Fingerprint(hash64("\n".join(sorted(set(images)))), simhash)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each number (the finalizer of splitmix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


@dataclass
class Pattern:
    """Pages of one pattern so far: their number, and the largest groups of near-identical ones.

    Groups are kept by the frequent-items algorithm of Misra and Gries (1982), so a group that holds most pages is never
    lost, whatever else the pattern serves.
    """

    pages: int = 0
    groups: list[tuple[Fingerprint, int]] = field(default_factory=list)

    def add(self, page: Fingerprint) -> None:
        self.pages += 1
        for index, (first, count) in enumerate(self.groups):
            if page.near(first):
                self.groups[index] = (first, count + 1)
                return
        if len(self.groups) < _GROUPS:
            self.groups.append((page, 1))
        else:
            self.groups = [(first, count - 1) for first, count in self.groups if count > 1]

    def is_trap(self, max_alike: int) -> bool:
        most = max((count for _, count in self.groups), default=0)
        return most > max_alike and most >= SHARE * self.pages
