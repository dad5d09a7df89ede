"""The language of a caption, by eldc, the quickest detector and the best on short texts (docs/curation.md).

It knows the words of 60 languages. A language with a script to itself needs no words: some of these are added here.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import eldc
import regex

from pipelines.curate.filter.languages import BY_SCRIPT

__all__ = ["language_scores"]

_OWN_SCRIPT = regex.compile("|".join(rf"\p{{{script}}}" for script in BY_SCRIPT))


def language_scores(text: str) -> Mapping[str, float]:
    """Return by language how typical of it the words of ``text`` are, on average, 0 to 1; only for those above 0."""
    if not text.isascii() and _OWN_SCRIPT.search(text):
        letters = Counter(unicodedata.name(c, "").partition(" ")[0] for c in text if c.isalpha())
        script, count = letters.most_common(1)[0]
        if script in BY_SCRIPT and 2 * count >= letters.total():
            return {BY_SCRIPT[script]: 1.0}
    found: Mapping[str, float] = _detector().detect_details(text).scores
    return found


@cache
def _detector() -> Any:  # noqa: ANN401 - eldc ships no types
    """The detector of this process, set to tell as many languages as it can."""
    eldc.init()
    detector = eldc.instance()
    detector.set_scores(eldc.MAX_SCORES)
    return detector
