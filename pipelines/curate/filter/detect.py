"""Which language a caption is in, by eldc, the quickest detector and the best on short texts (docs/curation.md).

It knows the words of 60 languages. A language with a script to itself needs no words: some of these are added here.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import eldc
import regex

__all__ = ["known_languages", "meant", "relative_score"]

# Scripts of one language that the detector cannot read, by the first word of their characters' names in Unicode.
_BY_SCRIPT = {"KHMER": "km", "MYANMAR": "my", "SINHALA": "si", "THAANA": "dv", "TIBETAN": "bo"}
_OWN_SCRIPT = regex.compile("|".join(rf"\p{{{script}}}" for script in _BY_SCRIPT))
# Languages too close to one that the detector knows to be told apart in a caption.
_SAME = {"bs": "hr", "id": "ms", "nb": "no", "nn": "no"}
# Domains of countries and old codes that are taken for languages.
_MISTAKEN = {
    "cn": "zh",
    "cz": "cs",
    "dk": "da",
    "gb": "en",
    "gr": "el",
    "in": "hi",
    "iw": "he",
    "jp": "ja",
    "kr": "ko",
    "mx": "es",
    "sp": "es",
    "tw": "zh",
    "ua": "uk",
    "us": "en",
    "vn": "vi",
}


def known_languages() -> list[str]:
    """Return the codes that can be asked for, ISO 639-1."""
    return sorted({*eldc.LANGUAGES, *_BY_SCRIPT.values(), *_SAME})


def meant(code: str) -> str | None:
    """Return the known code that is meant by ``code``: ja by jp, jpn and ja-JP; None if that is unclear."""
    start = regex.split("[-_]", code.strip().lower())[0]
    known = {**dict(zip(eldc.LANGUAGES_ISO2T, eldc.LANGUAGES, strict=True)), **_MISTAKEN}
    found = known.get(start, start)
    return found if found in known_languages() else None


def relative_score(text: str, languages: Sequence[str]) -> float:
    """Return the score of the best of ``languages`` relative to the best of all: 1 if it is among them, 0 for no sign.

    A language's score is the mean, over the text's words, of how typical each is of it.
    """
    scores = _scores(text)
    wanted = max(scores.get(_SAME.get(language, language), 0.0) for language in languages)
    return wanted / max(scores.values()) if wanted else 0.0


def _scores(text: str) -> Mapping[str, float]:
    if not text.isascii() and _OWN_SCRIPT.search(text):
        letters = Counter(unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha())
        script, count = letters.most_common(1)[0]
        if script in _BY_SCRIPT and 2 * count >= letters.total():
            return {_BY_SCRIPT[script]: 1.0}
    found: Mapping[str, float] = _detector().detect_details(text).scores
    return found


_instance: Any = None


def _detector() -> Any:  # noqa: ANN401 - eldc ships no types
    """The detector of this process, set to tell as many languages as it can."""
    global _instance
    if _instance is None:
        eldc.init()
        _instance = eldc.instance()
        _instance.set_scores(eldc.MAX_SCORES)
    return _instance
