"""Word similarity: do pairs of words that people call similar lie close together? (Finkelstein et al., 2002)"""

from __future__ import annotations

from typing import ClassVar

from evaluation.tasks.by_texts import Templated

__all__ = ["WordSimilarity"]


class WordSimilarity(Templated):
    """Word similarity: ``spearman``, the rank correlation of the cosines of pairs of words with people's ratings.

    Only the text tower is asked. Equal values share the mean of their ranks; where all are equal, the correlation is 0.
    The interval is of other pairs. A ``category`` of the pairs, as their part of speech, makes a table by category.
    """

    kind: ClassVar[str] = "word_similarity"
    implementation: ClassVar[str] = "evaluation.tasks.work.word_similarity:measure"
    needs: ClassVar[tuple[str, ...]] = ("word_similarity",)
    main: ClassVar[str] = "spearman"
    units: ClassVar[str] = "pairs of words"
