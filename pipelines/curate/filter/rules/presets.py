"""Published filters by name: what their papers say of rows, as far as columns can tell it.

``datacomp_basic``: Gadre et al. 2023, appendix G: English by fasttext (here eldc), more than two words and more than
five characters, shorter side of 200 pixels or more, aspect ratio of at most 3.
``laion2b``: Schuhmann et al. 2022: text of 5 characters or more, a file of 5 kB or more, English, CLIP ViT-B/32
similarity of at least 0.28 in the column ``similarity``.
``cc12m``: Changpinyo et al. 2021: sides above 400 pixels, ratio of at most 2.5, 3 to 256 words, at most 0.2 of them one
word. Its checks by part-of-speech tags and by the cloud's image labels are left out.
``metaclip``: Xu et al. 2023 drop nothing by score; what is kept is English, says something, and is decided by the stage
``balance``, which follows.
"""

from __future__ import annotations

from pipelines.curate.filter.rules.base import Rule
from pipelines.curate.filter.rules.image import ImageAspect, ImageBytes, ImageSide
from pipelines.curate.filter.rules.scores import Score
from pipelines.curate.filter.rules.text import Language, TextJunk, TextLength, TextRepetition, TextWords

__all__ = ["BASIC", "PRESETS"]

_LONG = 1_000_000  # characters and words that no caption has

BASIC: tuple[Rule, ...] = (ImageSide(), ImageAspect(), TextJunk(), TextLength(), TextWords(), Language())
"""DataComp's basic filter and the check for junk: cheap rules first, and of two reasons the more specific first."""

PRESETS: dict[str, tuple[Rule, ...]] = {
    "basic": BASIC,
    "datacomp_basic": (
        *(ImageSide(min=200), ImageAspect(max=3.0)),
        *(TextLength(min=6, max=_LONG), TextWords(min=3, max=_LONG), Language(languages=("en",))),
    ),
    "laion2b": (
        *(TextLength(min=5, max=_LONG), ImageBytes(min=5000), Language(languages=("en",))),
        Score(column="similarity", min=0.28),
    ),
    "cc12m": (
        *(ImageSide(min=401), ImageAspect(max=2.5)),
        *(TextWords(min=3, max=256), TextRepetition(max=0.2, min_words=6)),
    ),
    "metaclip": (Language(languages=("en",)), TextJunk()),
}
