"""Count what a split of a test set holds, and what is wrong with it by kind; all of it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.errors import DataError
from infra.formats.testset.evalset import Broken, EvalSet, Packed
from infra.formats.testset.images import decode_image, decode_regions
from infra.formats.testset.texts import read_cues, read_languages
from infra.threads import mapped

__all__ = ["Holdings", "read_holdings"]

_AHEAD = 64  # images that are held at once

_Seen = tuple[Packed | None, tuple[str, ...], Broken | None]
"""A sample, the languages of its captions, and what is wrong."""


@dataclass
class Holdings:
    """Counts of good samples and of broken ones. ``examples`` has the first error of each kind of those."""

    images: int = 0
    with_pixels: int = 0
    with_regions: int = 0
    captions: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, seen: _Seen) -> None:
        """Count a sample."""
        sample, languages, wrong = seen
        if wrong is not None:
            self.broken[wrong.problem] += 1
            self.examples.setdefault(wrong.problem, str(wrong.error))
        elif sample is not None:
            self.images += 1
            self.with_pixels += sample.pictured
            self.with_regions += bool(sample.regions)
            self.captions += len(sample.captions)
            self.languages.update(filter(None, languages))
            if sample.label >= 0:
                self.labels[sample.label] += 1
            self.labels.update(sample.labels)


def read_holdings(examples: EvalSet, *, decode: bool = True, threads: int = 1) -> Holdings:
    """Read every sample of a set, and ``decode`` its image in ``threads`` threads.

    Undecoded images may be broken without being counted as such.
    """
    found = Holdings()

    def see(one: Packed | Broken) -> _Seen:
        return _see(one, examples, decode=decode)

    for seen in mapped(see, _samples(examples), threads=threads, ahead=_AHEAD):
        found.add(seen)
    return found


def _samples(examples: EvalSet) -> Iterator[Packed | Broken]:
    for shard in examples.parts:
        yield from examples.checked(shard)


def _see(one: Packed | Broken, examples: EvalSet, *, decode: bool) -> _Seen:
    if isinstance(one, Broken):
        return None, (), one
    what, problem = f"sample {one.key!r} of {examples.name}", "languages"
    try:
        languages = read_languages(one.metadata, len(one.captions), what)
        problem = "cues"
        if examples.kind == "associations":
            read_cues(one.metadata, len(one.captions), what)
    except DataError as error:
        return None, (), Broken(problem, error)
    if decode and examples.pictured:
        try:
            if one.regions:
                decode_regions(one.regions, one.key)
            if one.pictured:
                decode_image(one.image, one.key)
        except DataError as error:
            return None, (), Broken(error.found.partition(":")[0], error)
    return one, tuple(languages), None
