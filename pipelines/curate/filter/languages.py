"""The languages that can be detected, as ISO 639-1 codes. Light to import: configurations are checked against them."""

from __future__ import annotations

__all__ = ["BY_SCRIPT", "DETECTED", "KNOWN", "SAME", "meant"]

DETECTED = (
    *("am", "ar", "az", "be", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "gu"),
    *("he", "hi", "hr", "hu", "hy", "is", "it", "ja", "ka", "kn", "ko", "ku", "lo", "lt", "lv", "ml", "mr", "ms", "nl"),
    *("no", "or", "pa", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "ta", "te", "th", "tl", "tr", "uk", "ur"),
    *("vi", "yo", "zh"),
)
"""What eldc knows."""

BY_SCRIPT = {"KHMER": "km", "MYANMAR": "my", "SINHALA": "si", "THAANA": "dv", "TIBETAN": "bo"}
"""Languages with a script to themselves, by the first word of its characters' names in Unicode."""

SAME = {"bs": "hr", "id": "ms", "nb": "no", "nn": "no"}
"""Languages too close to one that is detected to be told apart in a caption."""

KNOWN = tuple(sorted({*DETECTED, *BY_SCRIPT.values(), *SAME}))

_MISTAKEN = {  # domains of countries and old codes that are taken for languages
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


def meant(code: str) -> str | None:
    """Return the known code that ``code`` must stand for: ja for jp and ja-JP; None if that is unclear."""
    language = code.strip().lower().replace("_", "-").partition("-")[0]
    found = _MISTAKEN.get(language, language)
    return found if found in KNOWN else None
