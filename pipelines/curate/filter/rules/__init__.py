"""Rules of the filter: each decides for every row whether it is kept, and gives its name as the reason if not.

A rule reads columns, never pixels, so a filter can be changed and run again in seconds; what only pixels tell is
measured into a column first (:mod:`pipelines.curate.filter.measures`). Here are their fields; how they compute is in
the modules beside this package, which planning does not load.

A rule of your own is a subclass of :class:`Rule`, in a recipe file or an installed package; docs/curation.md has one.
"""

from pipelines.curate.filter.rules.base import Answers, Range, Rule
from pipelines.curate.filter.rules.image import (
    BytesPerPixel,
    DigitalSource,
    ImageAspect,
    ImageBytes,
    ImageEntropy,
    ImageSharpness,
    ImageSide,
    ImageSolid,
)
from pipelines.curate.filter.rules.lists import Listed, Subset, TextList, UrlList
from pipelines.curate.filter.rules.presets import BASIC, PRESETS
from pipelines.curate.filter.rules.privacy import Pii
from pipelines.curate.filter.rules.sample import Sample
from pipelines.curate.filter.rules.scores import Score
from pipelines.curate.filter.rules.text import (
    CaptionFrequency,
    Language,
    TextJunk,
    TextLength,
    TextRepetition,
    TextShare,
    TextWords,
)

__all__ = [
    "BASIC",
    "PRESETS",
    "Answers",
    "BytesPerPixel",
    "CaptionFrequency",
    "DigitalSource",
    "ImageAspect",
    "ImageBytes",
    "ImageEntropy",
    "ImageSharpness",
    "ImageSide",
    "ImageSolid",
    "Language",
    "Listed",
    "Pii",
    "Range",
    "Rule",
    "Sample",
    "Score",
    "Subset",
    "TextJunk",
    "TextLength",
    "TextList",
    "TextRepetition",
    "TextShare",
    "TextWords",
    "UrlList",
]
